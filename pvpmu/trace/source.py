"""Open a trace: a file or standard input, compressed or not, as blocks of whole lines.

**Invariants**: memory does not depend on the length of the input or of a line; a block ends at a
line's end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pvpmu.shared.errors import ResourceError, UsageError
from pvpmu.trace.unpack import Unpacker, compression_of

MAX_LINE = 1 << 14
"""Bytes of a line that are kept: no tool here prints a longer one."""
_READ = 1 << 18
_HEAD = 1 << 16
_MAGIC_BYTES = 16
_BOM = b"\xef\xbb\xbf"
_TEXT = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A, 0x0D} | frozenset(range(0x80, 0x100))
_CONTROL_SHARE = 50
"""One control character in so many bytes is no text."""

_OTHER_FILES = (
    (
        b"PVPMUREC",
        "a recording",
        "pvpmu trace export --format ftrace {file} | pvpmu whatif -",
    ),
    (b"PERFILE2", "a perf.data file", "perf script -i {file} | pvpmu whatif -"),
    (b"\x17\x08\x44tracing", "a trace-cmd file", "trace-cmd report {file} | pvpmu whatif -"),
    (b"\xfd7zXZ\0", "xz data", "xz -dc {file} | pvpmu whatif -"),
    (b"BZh", "bzip2 data", "bzip2 -dc {file} | pvpmu whatif -"),
    (b"\xff\xfe", "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {file} | pvpmu whatif -"),
    (b"\xfe\xff", "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {file} | pvpmu whatif -"),
    (b"PK\x03\x04", "a zip archive", "unzip -p {file} | pvpmu whatif -"),
)


class Source:
    """One trace to read, once.

    ``name``: for messages. ``size``: bytes of the file, None where nobody knows. ``position``:
    bytes of it read so far. ``overlong``: lines that were cut at MAX_LINE. ``cut_off``: what the
    input ended in the middle of, "" where it did not.
    """

    def __init__(self, name: str, file: BinaryIO, size: int | None) -> None:
        self.name = name
        self.size = size
        self.position = 0
        self.overlong = 0
        self.cut_off = ""
        self.compression = ""
        self._file = file

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._file is not sys.stdin.buffer:
            self._file.close()

    def blocks(self) -> Iterator[bytes]:
        """Yield blocks of whole lines; raises :class:`UsageError` when this is no text."""
        rest = b""
        skipping = False
        for piece in self._text():
            data = piece
            if skipping:
                _, newline, data = data.partition(b"\n")
                if not newline:
                    continue
                skipping = False
            end = data.rfind(b"\n") + 1
            if end:
                yield from self._whole(rest + data[:end])
                rest = data[end:]
            else:
                rest += data
            if len(rest) > MAX_LINE:
                self.overlong += 1
                yield rest[:MAX_LINE] + b"\n"
                rest, skipping = b"", True
        if rest:
            self.cut_off = self.cut_off or "a line"
            yield rest + b"\n"

    def _whole(self, block: bytes) -> Iterator[bytes]:
        """Cut lines that are too long out of a block; nearly always there is none."""
        if len(block) <= MAX_LINE or max(map(len, block.split(b"\n"))) <= MAX_LINE:
            yield block
            return
        for line in block.splitlines(keepends=True):
            if len(line) > MAX_LINE:
                self.overlong += 1
                yield line[:MAX_LINE] + b"\n"
            else:
                yield line

    def _text(self) -> Iterator[bytes]:
        raw = self._raw()
        first = b""
        while len(first) < _MAGIC_BYTES and (piece := next(raw, b"")):
            first += piece
        if not first:
            raise UsageError(f"{self.name}: is empty, expected a trace")
        self._refuse_other_files(first)
        self.compression = compression_of(first)
        if not self.compression:
            yield from self._checked(_chain(first, raw))
            return
        unpacker = Unpacker(self.name, self.compression, _chain(first, raw))
        yield from self._checked(self._noting_its_end(unpacker))

    def _noting_its_end(self, unpacker: Unpacker) -> Iterator[bytes]:
        yield from unpacker
        if unpacker.cut_off:
            self.cut_off = f"{self.compression} data"

    def _checked(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Refuse input whose beginning is no text; a byte order mark is no part of it."""
        empty = True
        for piece in pieces:
            if empty and piece:
                empty = False
                self._refuse_binary(piece[:_HEAD])
                yield piece.removeprefix(_BOM)
            else:
                yield piece
        if empty and self.cut_off:
            raise UsageError(f"{self.name}: {self.cut_off} that is cut off before any text")
        if empty:
            raise UsageError(f"{self.name}: is empty once unpacked, expected a trace")

    def _refuse_binary(self, head: bytes) -> None:
        zero = head.find(b"\0")
        odd = [at for at, byte in enumerate(head) if byte not in _TEXT]
        if zero >= 0 or len(odd) * _CONTROL_SHARE > len(head):
            at = zero if zero >= 0 else odd[0]
            raise UsageError(
                f"{self.name}: is binary data (byte {head[at]:#04x} at offset {at}), expected the "
                "text of a trace"
            )

    def _refuse_other_files(self, head: bytes) -> None:
        for magic, what, how in _OTHER_FILES:
            if head.startswith(magic):
                raise UsageError(
                    f"{self.name}: is {what}, expected text: {how.format(file=self.name)}"
                )

    def _raw(self) -> Iterator[bytes]:
        # read1 gives what a pipe has: a live trace is not held back until a piece is full.
        read = getattr(self._file, "read1", self._file.read)
        while piece := self._read_with(read):
            self.position += len(piece)
            yield piece

    def _read_with(self, read: Callable[[int], bytes]) -> bytes:
        try:
            return read(_READ)
        except OSError as error:
            why = error.strerror or error
            raise ResourceError(f"{self.name}: cannot be read: {why}") from None


def open_source(path: str) -> Source:
    """Open a file, or standard input for ``-``; raises :class:`UsageError`."""
    if path == "-":
        return Source("standard input", sys.stdin.buffer, None)
    file = Path(path)
    if file.is_dir():
        raise UsageError(f"{file}: is a folder, expected a trace")
    try:
        handle = file.open("rb")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    size = file.stat().st_size if file.is_file() else None
    return Source(path, handle, size)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
