"""Decompression in bounded pieces."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard

from pvpmu.shared.errors import UsageError
from pvpmu.trace import unpack
from pvpmu.trace.unpack import Unpacker

TEXT = b"".join(b"line %d of a trace\n" % number for number in range(20_000))
PACK = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}
MOST = 32 << 20


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.fixture(params=sorted(PACK))
def kind(request: Any) -> str:
    return str(request.param)


def unpacked(kind: str, data: bytes) -> tuple[bytes, bool]:
    unpacker = Unpacker("some", kind, pieces(data))
    return b"".join(unpacker), unpacker.cut_off


def test_text_comes_back_whole(kind: str) -> None:
    assert unpacked(kind, PACK[kind](TEXT)) == (TEXT, False)


def test_several_members_or_frames_follow_each_other(kind: str) -> None:
    pack = PACK[kind]
    assert unpacked(kind, pack(TEXT) + pack(b"more\n")) == (TEXT + b"more\n", False)


def test_zeros_after_a_gzip_member_are_padding() -> None:
    assert unpacked("gzip", gzip.compress(TEXT) + bytes(512)) == (TEXT, False)


def test_what_comes_before_a_cut_is_there_and_the_cut_is_known(kind: str) -> None:
    packed = PACK[kind](TEXT)
    text, cut_off = unpacked(kind, packed[: len(packed) * 3 // 4])
    assert cut_off
    assert TEXT.startswith(text)


def test_damage_is_one_error(kind: str) -> None:
    packed = bytearray(PACK[kind](TEXT))
    middle = len(packed) // 2
    # A gzip member ends with a checksum, a zstd frame need not.
    end = middle + 200 if kind == "gzip" else len(packed)
    packed[middle:end] = b"\xff" * (end - middle)
    with pytest.raises(UsageError, match=f"^some: {kind} data is damaged"):
        unpacked(kind, bytes(packed))


def test_a_little_input_that_unpacks_to_much_comes_in_pieces(kind: str) -> None:
    packed = PACK[kind](bytes(96 << 20))
    assert len(packed) < 1 << 20
    assert max(map(len, Unpacker("some", kind, pieces(packed, 1 << 18)))) < MOST


def test_without_the_package_zstd_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="zstd -dc FILE"):
        unpacked("zstd", PACK["zstd"](TEXT))


def test_zstd_frames_without_data_may_come_first() -> None:
    skipped = b"\x5a\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert unpack.compression_of(skipped) == "zstd"
    assert unpacked("zstd", skipped + PACK["zstd"](TEXT) + skipped) == (TEXT, False)
    assert unpack.compression_of(b"Z*M") == ""
