"""Write a recording: rings in shared memory, and the thread that takes them to the file.

The rings are memory files without a name, which a worker process inherits; they go with the last
process that has them, however it ends. The thread runs in the main process.

**Invariants**: whoever writes to a ring never waits for the file; what does not get into the file
is counted, in the file where it can be and by :attr:`RecordingFile.outcome` always; a chunk that
could not be written whole is taken back.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import stat
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from pvpmu import __version__
from pvpmu.recording.format import (
    CHUNK_HEADER,
    CHUNK_MAGIC,
    FILE_HEADER,
    FILE_MAGIC,
    RECORD_BYTES,
    VERSION,
    Chunk,
)
from pvpmu.recording.ring import RingReader, RingWriter, ring_bytes
from pvpmu.shared.errors import ResourceError, UsageError

RING_RECORDS = 1 << 17
"""Records of a ring: 6 MiB, a third of a second of the fastest transport."""
_POLL_S = 0.01
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class RingFile:
    """A ring in a memory file: ``handle``, which a worker inherits, and its size."""

    handle: int
    size: int

    def attach(self) -> RingWriter:
        """Map it to write."""
        return RingWriter(memoryview(mmap.mmap(self.handle, self.size)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a recording. ``problem``: why the file could not be written; "" if it could.

    ``written`` and ``lost``: records, of all streams.
    """

    path: Path
    written: int
    lost: int
    problem: str

    @property
    def warning(self) -> str:
        """One line if anything is missing in the file, else ""."""
        if not self.lost:
            return f"{self.path}: {self.problem}" if self.problem else ""
        why = self.problem or "the rings were full"
        return f"{self.path}: {self.lost:,} of {self.lost + self.written:,} records lost: {why}"


class _Stream:
    """One side of one vCPU: its ring and what was done with it."""

    def __init__(self, side: str, vcpu: int, records: int) -> None:
        self.side, self.vcpu = side, vcpu
        size = ring_bytes(records)
        handle = os.memfd_create(f"pvpmu-{side}-{vcpu}")
        self.ring = RingFile(handle, size)
        try:
            # Memory that cannot be had must fail here, not as SIGBUS at the first record. Nor may
            # it be taken from others: where there is too little the kernel kills some process.
            os.posix_fallocate(handle, 0, size)
            self._memory = mmap.mmap(handle, size)
        except OSError as error:
            os.close(handle)
            raise ResourceError(
                f"a ring of {size} bytes for {side} vCPU {vcpu}: {error.strerror}"
            ) from None
        self.window = memoryview(self._memory)
        self.reader = RingReader(self.window)
        self.written = self.discarded = 0

    @property
    def lost(self) -> int:
        return self.reader.dropped + self.discarded

    def close(self) -> None:
        self.reader.close()
        self.window.release()
        with contextlib.suppress(BufferError):
            # Within one process the writer's windows are still there.
            self._memory.close()
        os.close(self.ring.handle)


class RecordingFile:
    """One section of a recording file, written while it is open. A context manager.

    ``meta``: what the section says of itself, JSON values; read when it is entered. ``append``:
    behind what the file has. ``records``: capacity of each ring. Rings are made by :meth:`stream`
    before it is entered.

    Raises :class:`UsageError` for a file that cannot be written, or that somebody else records to.
    """

    def __init__(
        self,
        path: Path,
        meta: dict[str, Any],
        *,
        append: bool = False,
        records: int = RING_RECORDS,
    ) -> None:
        self._path = path
        self.meta = dict(meta)
        self._records = records
        self._streams: list[_Stream] = []
        self._problem = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="recording", daemon=True)
        self._file = _open(path, append=append)
        self._regular = stat.S_ISREG(os.fstat(self._file).st_mode)
        self._good = os.lseek(self._file, 0, os.SEEK_END) if self._regular else 0
        self._totals = (0, 0)

    def stream(self, side: str, vcpu: int) -> RingFile:
        """A new ring, for ``side`` ("host" or "guest") of a vCPU."""
        size = ring_bytes(self._records)
        taken = sum(stream.ring.size for stream in self._streams)
        available = _available_bytes() + taken
        if taken + size > available // 2:
            raise ResourceError(
                f"rings of {taken + size:,} bytes, up to {side} vCPU {vcpu}: {available:,} bytes "
                "of memory are available, of which they may take half (--record-buffer)"
            )
        self._streams.append(_Stream(side, vcpu, self._records))
        return self._streams[-1].ring

    @property
    def handles(self) -> list[int]:
        """The rings' handles, for workers to inherit."""
        return [stream.ring.handle for stream in self._streams]

    @property
    def outcome(self) -> Outcome:
        """What became of it, once it is closed."""
        return Outcome(self._path, *self._totals, self._problem)

    def __enter__(self) -> RecordingFile:
        header = FILE_HEADER.pack(FILE_MAGIC, VERSION, FILE_HEADER.size, RECORD_BYTES, 0)
        self._put([header, *_chunk(Chunk.META, 0, 0, _json(self._described()))])
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        self._drain()
        lost = [stream.lost for stream in self._streams]
        written = [stream.written for stream in self._streams]
        self._totals = sum(written), sum(lost)
        end = {"written": written, "lost": lost, "problem": self._problem}
        # After a failure what was taken back makes room for this.
        self._put(_chunk(Chunk.END, 0, 0, _json(end)))
        for stream in self._streams:
            stream.close()
        os.close(self._file)

    def _described(self) -> dict[str, Any]:
        return {
            "tool": f"pvpmu {__version__}",
            "pid": os.getpid(),
            "node": os.uname().nodename,
            "release": os.uname().release,
            "wall_ns": time.monotonic_ns(),
            "realtime_ns": time.time_ns(),
            **self.meta,
            "streams": [{"side": each.side, "vcpu": each.vcpu} for each in self._streams],
        }

    def _follow(self) -> None:
        while not self._end.wait(_POLL_S):
            self._drain()

    def _drain(self) -> None:
        """Write what waits in every ring, one chunk for each run of it."""
        for number, stream in enumerate(self._streams):
            runs = stream.reader.look()
            for run in runs:
                lost = run.dropped + stream.discarded
                if self._put(_chunk(Chunk.RECORDS, number, lost, *run.pieces)):
                    stream.written += run.records
                else:
                    stream.discarded += run.records
            stream.reader.take(runs)

    def _put(self, parts: Sequence[bytes | memoryview[int]]) -> bool:
        """Write all of it, or none; returns whether it was written."""
        left = [memoryview(part) for part in parts]
        size = sum(map(len, left))
        try:
            while left:
                done = os.writev(self._file, left)
                while left and done >= len(left[0]):
                    done -= len(left.pop(0))
                if left:
                    left[0] = left[0][done:]
        except OSError as error:
            self._problem = self._problem or error.strerror or str(error)
            if self._regular:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._good)
                    os.lseek(self._file, 0, os.SEEK_END)
            return False
        self._good += size
        return True


def append_recording(path: Path, part: Path) -> None:
    """Put a closed recording's sections behind those of another; raises :class:`OSError`."""
    with path.open("ab") as whole, part.open("rb") as more:
        while block := more.read(1 << 20):
            whole.write(block)


def ring_records(mebibytes: int) -> int:
    """How many records a ring of so much memory holds."""
    return (mebibytes << 20) // RECORD_BYTES


def _available_bytes() -> int:
    """Memory that can be had without swapping, as the kernel reckons; endless if it does not."""
    try:
        text = _MEMINFO.read_text("ascii")
    except OSError:
        return 1 << 62
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found is not None else 1 << 62


def _open(path: Path, *, append: bool) -> int:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISCHR(mode):
            # What a device gets is nobody's file: many may write to /dev/null.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not append and stat.S_ISREG(mode):
            os.ftruncate(handle, 0)
    except OSError as error:
        os.close(handle)
        busy = isinstance(error, BlockingIOError)
        why = "somebody else records to it" if busy else f"cannot be written: {error.strerror}"
        raise UsageError(f"{path}: {why}") from None
    return handle


def _chunk(
    kind: Chunk, stream: int, lost: int, *payload: bytes | memoryview[int]
) -> list[bytes | memoryview[int]]:
    size = sum(map(len, payload))
    return [CHUNK_HEADER.pack(CHUNK_MAGIC, kind, stream, size, lost, 0), *payload]


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
