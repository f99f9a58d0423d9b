"""Inputs as blocks of whole lines, whatever they are made of."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pvpmu.shared.errors import ResourceError, UsageError
from pvpmu.trace.source import MAX_LINE, Source, open_source

LINES = b"".join(b"line %d\n" % number for number in range(100_000))


class Endless(io.RawIOBase):
    """Bytes of one kind, so many of them, made as they are read."""

    def __init__(self, byte: bytes, size: int) -> None:
        self._byte, self._left = byte, size

    def read(self, size: int = -1) -> bytes:
        size = min(size, self._left)
        self._left -= size
        return self._byte * size


def blocks(data: bytes) -> tuple[list[bytes], Source]:
    source = Source("some", io.BytesIO(data), len(data))
    return list(source.blocks()), source


def test_blocks_are_the_input_and_end_at_lines() -> None:
    found, source = blocks(LINES)
    assert b"".join(found) == LINES
    assert len(found) > 1
    assert all(block.endswith(b"\n") for block in found)
    assert (source.position, source.cut_off, source.overlong) == (len(LINES), "", 0)


def test_a_last_line_without_its_end_is_given_and_noted() -> None:
    found, source = blocks(b"one\ntwo")
    assert b"".join(found) == b"one\ntwo\n"
    assert source.cut_off == "a line"


def test_a_pipe_gives_its_lines_as_they_come() -> None:
    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return self.read(min(size or 20, 20))

    source = Source("pipe", Pipe(b"one line of some length\n" * 3), None)
    assert len(list(source.blocks())) == 3


@pytest.mark.parametrize("end", [b"", b"\nshort\n"])
def test_a_line_of_a_gigabyte_takes_no_memory(end: bytes) -> None:
    tracemalloc.start()
    source = Source("long", Endless(b"x", 1 << 30), 1 << 30)
    found = [len(block) for block in source.blocks()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found, source.overlong) == ([MAX_LINE + 1], 1)
    assert peak < 8 << 20


def test_long_lines_are_cut_and_the_others_stay() -> None:
    long = b"y" * (MAX_LINE + 5)
    found, source = blocks(b"a\n" + long + b"\nb\n" + long * 9 + b"\nc\n")
    assert b"".join(found) == b"a\n" + long[:MAX_LINE] + b"\nb\n" + long[:MAX_LINE] + b"\nc\n"
    assert source.overlong == 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty once unpacked"),
        (bytes(range(256)) * 20, "is binary data .byte 0x00 at offset 0."),
        (b"\x01\x02\x03\x04 text " * 99, "is binary data .byte 0x01 at offset 0."),
        (b"PERFILE2" + b"\0" * 99, "a perf.data file.*perf script -i some"),
        (b"\x17\x08\x44tracing" + b"6\0" * 99, "a trace-cmd file.*trace-cmd report some"),
        (b"\xfd7zXZ\0" + b"\0" * 99, "xz -dc some"),
        (b"BZh91AY" + b"\0" * 99, "bzip2 -dc some"),
        (b"PK\x03\x04" + b"\0" * 99, "a zip archive"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(data: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=f"^some: .*{says}") as refused:
        blocks(data)
    assert "\n" not in str(refused.value)


def test_a_cut_gzip_file_gives_what_it_has() -> None:
    packed = gzip.compress(LINES)
    found, source = blocks(packed[: len(packed) // 2])
    assert LINES.startswith(b"".join(found).rsplit(b"\n", 2)[0])
    assert (source.cut_off, source.compression) == ("gzip data", "gzip")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        open_source(str(tmp_path))
    with pytest.raises(UsageError, match="nothing: cannot be read: No such file"):
        open_source(str(tmp_path / "nothing"))


def test_a_file_has_a_size_and_standard_input_has_none(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"a\n")
    with open_source(str(path)) as source:
        assert (source.size, list(source.blocks())) == (2, [b"a\n"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"b\n")))
    with open_source("-") as source:
        assert (source.size, list(source.blocks())) == (None, [b"b\n"])


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    found, _ = blocks(b"\xef\xbb\xbfone\ntwo\n")
    assert b"".join(found) == b"one\ntwo\n"
    found, _ = blocks(gzip.compress(b"\xef\xbb\xbfone\n"))
    assert b"".join(found) == b"one\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_says_how_to_make_utf_8_of_it(encoding: str) -> None:
    text = "one line and more".encode(encoding)
    if encoding == "utf-16-be":
        text = b"\xfe\xff" + text
    elif encoding == "utf-16-le":
        text = b"\xff\xfe" + text
    with pytest.raises(UsageError, match="is UTF-16 text, expected text: iconv -f UTF-16"):
        blocks(text)


def test_a_disk_that_cannot_be_read_is_said_with_the_inputs_name() -> None:
    class Broken(io.RawIOBase):
        def read(self, _size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(ResourceError, match=r"^some: cannot be read: Input/output error$"):
        list(Source("some", Broken(), None).blocks())  # type: ignore[arg-type]


def test_packed_data_that_ends_before_any_text_is_said_to_be_cut_off() -> None:
    with pytest.raises(UsageError, match=r"^some: gzip data that is cut off before any text$"):
        blocks(gzip.compress(b"one\n")[:10])
