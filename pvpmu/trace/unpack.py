"""Decompress a trace piece by piece: gzip and zstd, never more than a bounded amount at once.

**Invariants**: what one call returns is bounded, however little input it comes from.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from pvpmu.shared.errors import UsageError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""Begins a zstd frame without data (RFC 8878 3.1.2); what pzstd writes begins with one."""
_PIECE = 1 << 18
_ZSTD_INPUT = 512
"""A zstd block gives at most 128 KiB from three bytes: so much input bounds what comes out."""


def compression_of(head: bytes) -> str:
    """What data that begins so is compressed with: gzip, zstd, or "" for neither."""
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    return "zstd" if head.startswith(ZSTD_MAGIC) or _SKIPPABLE.match(head) else ""


class Unpacker:
    """Compressed bytes in, text out. ``cut_off``: the input ended inside a member or frame.

    ``name``: of the input, for messages. ``kind``: gzip or zstd.
    """

    def __init__(self, name: str, kind: str, pieces: Iterator[bytes]) -> None:
        self._name = name
        self._kind = kind
        self._pieces = pieces
        self.cut_off = False

    def __iter__(self) -> Iterator[bytes]:
        """Yield pieces of text; raises :class:`UsageError` for damaged data."""
        unpack = self._gunzip if self._kind == "gzip" else self._unzstd
        yield from unpack()

    def _gunzip(self) -> Iterator[bytes]:
        stream = zlib.decompressobj(wbits=31)
        for piece in self._pieces:
            data = piece
            while data:
                if stream.eof:
                    data = data.lstrip(b"\0")  # padding between members, as gzip allows
                    if not data:
                        break
                    stream = zlib.decompressobj(wbits=31)
                try:
                    yield stream.decompress(data, _PIECE)
                except zlib.error as error:
                    raise UsageError(f"{self._name}: gzip data is damaged: {error}") from None
                self.cut_off = not stream.eof
                data = stream.unused_data if stream.eof else stream.unconsumed_tail

    def _unzstd(self) -> Iterator[bytes]:
        new, failure = _zstd()
        stream = new()
        for piece in self._pieces:
            for at in range(0, len(piece), _ZSTD_INPUT):
                data = piece[at : at + _ZSTD_INPUT]
                while data:
                    if stream.eof:
                        stream = new()
                    try:
                        yield stream.decompress(data)
                    except failure as error:
                        raise UsageError(f"{self._name}: zstd data is damaged: {error}") from None
                    self.cut_off = not stream.eof
                    data = stream.unused_data if stream.eof else b""


def _zstd() -> tuple[Callable[[], Any], type[Exception]]:
    """A decompressor's constructor and what it raises; Python 3.14 brings its own."""
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415

        return zstd.ZstdDecompressor, zstd.ZstdError
    if importlib.util.find_spec("zstandard") is None:
        raise UsageError(
            "zstd data needs Python 3.14 or the package zstandard (pip install 'pvpmu[zstd]'); "
            "or: zstd -dc FILE | pvpmu whatif -"
        )
    import zstandard  # noqa: PLC0415

    return zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError
