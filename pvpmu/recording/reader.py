"""Read a recording: its sections, their streams, and the records of all of them in order of time.

A file may be cut off anywhere (a run that was killed, a full disk); what comes before is read, and
:attr:`Recording.problem` says where it ends.

**Invariants**: memory does not depend on the number of records, but for 24 bytes or so per chunk.
"""

from __future__ import annotations

import heapq
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pvpmu.recording.format import (
    CHUNK_HEADER,
    CHUNK_MAGIC,
    FILE_HEADER,
    FILE_MAGIC,
    RECORD,
    RECORD_BYTES,
    VERSION,
    Chunk,
    Kind,
    Record,
    record_of,
)
from pvpmu.shared.errors import UsageError
from pvpmu.shared.exits import Control
from pvpmu.shared.process import MAX_VCPUS
from pvpmu.shared.units import U64_MASK

SIDES = ("host", "guest")
LOST = 0
"""Kind of a record that stands for records that were lost here: ``a`` of them."""
_MAX_JSON = 1 << 24
_MAX_PID = 1 << 30
_MAX_TEXT = 200
_KINDS = frozenset(map(int, Kind))
_MARK, _START, _STOP = int(Kind.MARK), int(Control.START), int(Control.STOP)


class _CutOffError(Exception):
    """The file does not go on at byte ``at``."""

    def __init__(self, at: int, what: str) -> None:
        self.at, self.what = at, what
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole records of a chunk: where they are, how many, and how many were lost up to it."""

    offset: int
    records: int
    lost: int


@dataclass(slots=True, eq=False)
class Stream:
    """One side of one vCPU in one section. ``meta``: the section's. ``number``: within the file.

    ``pieces``: where its records are. ``lost_in_all``: as the section's end says. ``unknown``:
    records of no known kind, once all were read.
    """

    number: int
    side: str
    vcpu: int
    meta: dict[str, Any]
    _file: int
    pieces: list[Piece] = field(default_factory=list)
    lost_in_all: int = 0
    unknown: int = 0

    @property
    def design(self) -> str:
        """Name of the design that ran."""
        return text_of(self.meta.get("design", ""))

    @property
    def pid(self) -> int:
        """The process that stands for the VM on the host; it is that of the recording process."""
        pid = self.meta.get("pid", 0)
        return pid if isinstance(pid, int) and 0 <= pid < _MAX_PID else 0

    @property
    def count(self) -> int:
        """Records in the file."""
        return sum(piece.records for piece in self.pieces)

    @property
    def lost(self) -> int:
        """Records that were lost."""
        last = self.pieces[-1].lost if self.pieces else 0
        return max(last, self.lost_in_all)

    def records(self) -> Iterator[Record]:
        """Every record in order; LOST where some are missing."""
        lost = unknown = 0
        last = Record(0, 0, 0, LOST, 0, 0, 0, 0, 0)
        for piece in self.pieces:
            for words in RECORD.iter_unpack(self._read(piece)):
                record = record_of(words)
                if piece.lost > lost:
                    yield record._replace(kind=LOST, a=piece.lost - lost, b=0)
                    lost = piece.lost
                unknown += record.kind not in _KINDS
                yield record
                last = record
        self.unknown = unknown
        if self.lost > lost:
            yield last._replace(kind=LOST, a=self.lost - lost, b=0)

    def window(self) -> Iterator[Record]:
        """Those of the measured windows, with their marks; all, where there is no window.

        LOST comes wherever it is: a mark may be among what was lost.
        """
        if not self.has_window:
            yield from self.records()
            return
        inside = False
        for record in self.records():
            is_mark = record.kind == _MARK
            if is_mark and record.code == _START:
                inside = True
            if inside or record.kind == LOST:
                yield record
            if is_mark and record.code == _STOP:
                inside = False

    @property
    def has_window(self) -> bool:
        """Whether a measured window begins in it."""
        return any(r.kind == _MARK and r.code == _START for r in self.records())

    def _read(self, piece: Piece) -> bytes:
        size = piece.records * RECORD_BYTES
        data = os.pread(self._file, size, piece.offset)
        # A file that still grows, or was cut meanwhile: whole records only.
        return data[: len(data) // RECORD_BYTES * RECORD_BYTES]


class Recording:
    """An open recording. ``problem``: where and how the file ends too early; "" if it does not.

    A context manager. Raises :class:`UsageError` for what is no recording.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.streams: list[Stream] = []
        self.sections: list[dict[str, Any]] = []
        self.problem = ""
        self._open_streams: list[Stream] | None = None
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            self.size = _size(path, self._file)
            self._scan()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    @property
    def designs(self) -> list[str]:
        """Names of the designs, in order."""
        return list(dict.fromkeys(stream.design for stream in self.streams))

    def _scan(self) -> None:
        """Find every chunk; stop where the file does not go on as it must."""
        at = 0
        try:
            while at < self.size:
                if at == 0 or self._at(at, len(FILE_MAGIC)) == FILE_MAGIC:
                    if self._open_streams is not None:
                        self._note(at, "the section before has no end mark: its run was killed")
                    at, self._open_streams = self._section(at), []
                else:
                    at = self._chunk(at)
        except _CutOffError as error:
            self._note(error.at, error.what)
        else:
            if self._open_streams is not None:
                self._note(self.size, "no end mark: the run was killed, or it still runs")

    def _chunk(self, at: int) -> int:
        """Take the chunk at a byte; returns where the next one begins."""
        header = self._at(at, CHUNK_HEADER.size)
        if len(header) < CHUNK_HEADER.size:
            raise _CutOffError(
                at, f"cut off: {len(header)} bytes, a chunk has {CHUNK_HEADER.size} at least"
            )
        magic, kind, number, size, lost, _ = CHUNK_HEADER.unpack(header)
        if magic != CHUNK_MAGIC:
            raise _CutOffError(at, f"no chunk begins here: {magic!r}, expected {CHUNK_MAGIC!r}")
        body = at + CHUNK_HEADER.size
        there = min(size, self.size - body)
        streams = self._open_streams or []
        if kind == Chunk.RECORDS and number < len(streams):
            streams[number].pieces.append(Piece(body, there // RECORD_BYTES, lost))
        if there < size:
            raise _CutOffError(self.size, f"cut off: a chunk of {size} bytes has {there}")
        if kind == Chunk.META and not streams:
            self._open_streams = self._streams_of(self._json(body, size))
        elif kind == Chunk.END:
            self._ended(streams, self._json(body, size))
            self._open_streams = None
        return body + int(size)

    def _section(self, at: int) -> int:
        """Check a section's header; returns where its chunks begin."""
        header = self._at(at, FILE_HEADER.size)
        if not header.startswith(FILE_MAGIC):
            what = "an empty file" if not header else f"begins with {header[:8]!r}"
            raise UsageError(f"{self.path}: no recording: {what}, expected {FILE_MAGIC!r}")
        if len(header) < FILE_HEADER.size:
            if at == 0:
                raise UsageError(
                    f"{self.path}: {len(header)} bytes, expected a header of {FILE_HEADER.size}"
                )
            raise _CutOffError(at, "cut off in a section's header")
        _, version, size, record_bytes, _ = FILE_HEADER.unpack(header)
        if version != VERSION:
            raise UsageError(f"{self.path}: recording of version {version}, expected {VERSION}")
        if record_bytes != RECORD_BYTES or size < FILE_HEADER.size:
            raise UsageError(
                f"{self.path}: records of {record_bytes} bytes, expected {RECORD_BYTES}"
            )
        return at + int(size)

    def _streams_of(self, meta: dict[str, Any]) -> list[Stream]:
        self.sections.append(meta)
        found: list[Stream] = []
        streams = meta.get("streams")
        for entry in streams if isinstance(streams, list) else [streams]:
            side = vcpu = None
            if isinstance(entry, dict):
                side, vcpu = entry.get("side"), entry.get("vcpu")
            if side not in SIDES or not isinstance(vcpu, int) or not 0 <= vcpu < MAX_VCPUS:
                raise UsageError(f"{self.path}: damaged metadata: stream {text_of(entry)}")
            found.append(Stream(len(self.streams) + len(found), side, vcpu, meta, self._file))
        self.streams += found
        return found

    def _ended(self, streams: list[Stream], end: dict[str, Any]) -> None:
        losses = end.get("lost")
        for stream, lost in zip(streams, losses if isinstance(losses, list) else (), strict=False):
            stream.lost_in_all = lost if isinstance(lost, int) and 0 <= lost <= U64_MASK else 0
        if end.get("problem"):
            why = text_of(end["problem"])
            self.problem = self.problem or f"{self.path}: not all was written: {why}"

    def _json(self, at: int, size: int) -> dict[str, Any]:
        try:
            value = json.loads(self._at(at, min(size, _MAX_JSON)))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise UsageError(f"{self.path}: damaged metadata at byte {at:,}")
        return value

    def _at(self, at: int, size: int) -> bytes:
        return os.pread(self._file, size, at)

    def _note(self, at: int, what: str) -> None:
        """Note where reading ends; the first such place is the one to tell of."""
        self.problem = (
            self.problem or f"{self.path}: byte {at:,}: {what}; what comes before is read"
        )


def merged(
    streams: Sequence[Stream], *, everything: bool = False
) -> Iterator[tuple[Stream, Record]]:
    """The records of all these streams in order of wall time, those of one stream in their own.

    ``everything``: also what lies outside the measured windows.
    """

    def of(stream: Stream) -> Iterator[tuple[int, int, Record]]:
        records: Iterable[Record] = stream.records() if everything else stream.window()
        return ((record.wall, stream.number, record) for record in records)

    by_number = {stream.number: stream for stream in streams}
    # Neither tuples nor records of one stream are ever compared beyond its number.
    for _, number, record in heapq.merge(*map(of, streams), key=lambda each: each[:2]):
        yield by_number[number], record


def text_of(value: object) -> str:
    """What a file says, as text that stays on its line."""
    text = value if isinstance(value, str) else repr(value)
    return "".join(c if c.isprintable() else "?" for c in text)[:_MAX_TEXT]


def _size(path: Path, file: int) -> int:
    status = os.fstat(file)
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{path}: is a folder, expected a recording")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: is no file: a recording cannot be read from a pipe or a device")
    size = status.st_size
    if not size:
        raise UsageError(f"{path}: no recording: an empty file")
    return size
