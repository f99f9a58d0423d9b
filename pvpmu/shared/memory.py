"""Named shared memory and semaphores: who owns a name, and how dead owners' names go away.

Names, for a VM called NAME::

    /dev/shm/pvpmu.NAME.host          the host's segment: one exit slot per vCPU
    /dev/shm/pvpmu.NAME.guest         the guest's memory: one page per vCPU
    /dev/shm/pvpmu.NAME.host-live     what the host publishes for the live view; also .guest-live
    /dev/shm/sem.pvpmu.NAME.I.exit    vCPU I's VM-exit; also .entry; owned by the host segment

A segment starts with a header that names its owner (process id and start time), ready word last.
The host segment is made before its semaphores and removed after them, so that a semaphore without
a live host segment has no owner.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import posix_ipc

from pvpmu.shared.closing import Closing
from pvpmu.shared.errors import NameInUseError, PeerError, ResourceError, UsageError
from pvpmu.shared.layout import WORD_BYTES, Layout, Owner
from pvpmu.shared.page import PAGE_SIZE

HEADER_SIZE = PAGE_SIZE
_SHM = Path("/dev/shm")  # noqa: S108 (where shm_open(3) and sem_open(3) keep names)
_PREFIX = "pvpmu."
_VM_NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")
_SEGMENT_FILE = re.compile(r"pvpmu\.(?P<vm>[A-Za-z0-9_-]+)\.(?P<side>(?:host|guest)(?:-live)?)")
_SEMAPHORE_FILE = re.compile(r"sem\.pvpmu\.(?P<vm>[A-Za-z0-9_-]+)\.\d+\.(?:exit|entry)")
_LOCK_TIMEOUT_S = 10
_LOCK_RETRY_S = 0.002

SEMAPHORES = ("exit", "entry")
MAGIC = int.from_bytes(b"pvpmu-sm", "little")
SEGMENT_VERSION = 1

_HEADER = Layout("pvpmu_segment", HEADER_SIZE)
_HEADER.line(Owner.HOST)
_READY = _HEADER.word("ready", "MAGIC once the header is complete; stored last")
_VERSION = _HEADER.word("version", "SEGMENT_VERSION")
_PID = _HEADER.word("pid", "owner's process id")
_START = _HEADER.word("start", "owner's start time, clock ticks since boot (proc_pid_stat(5))")
SEGMENT_HEADER = _HEADER


def checked_vm_name(name: str) -> str:
    """Return ``name`` if it can be a VM name; raises :class:`UsageError`."""
    if not _VM_NAME.fullmatch(name):
        raise UsageError(f"VM name {name!r}: 1 to 48 letters, digits, '-' or '_' are allowed")
    return name


def segment_name(vm: str, side: str) -> str:
    """The segment of ``side``: "host", "guest", "host-live" or "guest-live"."""
    return f"{_PREFIX}{vm}.{side}"


def semaphore_name(vm: str, vcpu: int, kind: str) -> str:
    """The semaphore of a vCPU; ``kind`` is "exit" or "entry"."""
    return f"/{_PREFIX}{vm}.{vcpu}.{kind}"


class Segment(Closing):
    """A mapped segment. ``words`` covers what follows the header, as 64-bit words.

    A context manager: leaving it unmaps, and removes the name if this process created it.
    """

    def __init__(self, shm: shared_memory.SharedMemory, *, owned: bool) -> None:
        self._shm = shm
        self._owned = owned
        assert shm.buf is not None
        self.header = shm.buf[:HEADER_SIZE].cast("Q")
        self.words = shm.buf[HEADER_SIZE : shm.size // WORD_BYTES * WORD_BYTES].cast("Q")

    @property
    def name(self) -> str:
        """The name without a leading slash."""
        return self._shm.name

    @classmethod
    def create(cls, name: str, size: int) -> Segment:
        """Make a zeroed segment with ``size`` bytes after the header.

        Raises :class:`NameInUseError` when the name exists and its owner lives; a dead owner's
        name is removed first. Raises :class:`ResourceError` when memory is refused.
        """
        with _names_locked():
            if _owner_lives(_SHM / name):
                raise NameInUseError(f"{name}: in use by a live process; choose another --name")
            _remove(name)
            free = os.statvfs(_SHM)
            if HEADER_SIZE + size > free.f_bavail * free.f_frsize:
                raise ResourceError(
                    f"{name}: {size} bytes of memory, {_SHM} has "
                    f"{free.f_bavail * free.f_frsize} bytes left"
                )
            try:
                segment = cls(_open(name, create=True, size=HEADER_SIZE + size), owned=True)
            except OSError as error:
                raise ResourceError(f"{name}: cannot make {size} bytes: {error}") from None
            try:
                with (_SHM / name).open("r+b") as file:
                    # Memory that cannot be had must fail here, not as SIGBUS at the first store.
                    os.posix_fallocate(file.fileno(), 0, HEADER_SIZE + size)
            except OSError as error:
                segment.close()
                raise ResourceError(f"{name}: cannot make {size} bytes: {error.strerror}") from None
            segment.header[_VERSION] = SEGMENT_VERSION
            segment.header[_PID] = os.getpid()
            segment.header[_START] = _start_time(os.getpid()) or 0
            segment.header[_READY] = MAGIC
        return segment

    @classmethod
    def attach(cls, name: str, size: int) -> Segment:
        """Map an existing segment of at least ``size`` bytes after the header.

        Raises :class:`PeerError` when it is absent, not ready, of another version or too small.
        """
        inspect_segment(name, size)
        try:
            return cls(_open(name, create=False, size=0), owned=False)
        except (OSError, ValueError) as error:
            raise PeerError(f"{name}: cannot be mapped: {error}") from None

    def close(self) -> None:
        """Unmap; remove the name if created here. Windows cut from it must be gone."""
        self.header.release()
        self.words.release()
        with contextlib.suppress(BufferError):
            self._shm.close()
        if self._owned:
            # Not through SharedMemory.unlink(), which tells the resource tracker.
            _remove(self.name)
            self._owned = False


class Copies(Closing):
    """A segment of any process of this user, read by copying and never mapped.

    Its owner can shrink it without harm, and what it held stays readable after its name has gone.
    A context manager. Raises :class:`PeerError` as :meth:`Segment.attach` does.
    """

    def __init__(self, name: str, size: int) -> None:
        inspect_segment(name, size)
        self.name = name
        try:
            self._file = (_SHM / name).open("rb", buffering=0)
        except OSError as error:
            raise PeerError(f"{name}: {error.strerror}") from None

    def words(self, first: int, count: int) -> memoryview[int]:
        """A copy of ``count`` words from word ``first`` after the header on.

        The kernel copies aligned words whole. Raises :class:`PeerError` if they are not there.
        """
        wanted = count * WORD_BYTES
        raw = os.pread(self._file.fileno(), wanted, HEADER_SIZE + first * WORD_BYTES)
        if len(raw) < wanted:
            raise PeerError(f"{self.name}: {len(raw)} bytes, expected {wanted}: it was cut")
        return memoryview(raw).cast("Q")

    @property
    def owner(self) -> int:
        """The process id that its header names."""
        raw = os.pread(self._file.fileno(), HEADER_SIZE, 0)
        return memoryview(raw).cast("Q")[_PID]

    def owner_lives(self) -> bool:
        """Whether the process that made it still runs and has not removed the name."""
        path = _SHM / self.name
        try:
            same = os.path.samestat(path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return False
        return same and _owner_lives(path)

    def close(self) -> None:
        """Let go."""
        self._file.close()


def live_vms(side: str) -> list[str]:
    """Names of the VMs that have a segment of ``side`` whose owner lives, in order."""
    found = []
    for path in sorted(_SHM.iterdir()):
        segment = _SEGMENT_FILE.fullmatch(path.name)
        if segment is not None and segment["side"] == side and _owner_lives(path):
            found.append(segment["vm"])
    return found


def inspect_segment(name: str, size: int) -> None:
    """Check a peer's segment without mapping it, which its owner could shrink at any time.

    Raises :class:`PeerError` when it is absent, not ready, of another version or smaller than
    ``size`` bytes after the header.
    """
    if not _SEGMENT_FILE.fullmatch(name):
        raise PeerError(f"{name!r}: no name of a shared memory segment")
    try:
        handle = os.open(_SHM / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise PeerError(f"{name}: {error.strerror}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise PeerError(f"{name}: no shared memory segment")
        raw = os.pread(handle, HEADER_SIZE, 0)
    finally:
        os.close(handle)
    if len(raw) < HEADER_SIZE:
        raise PeerError(f"{name}: {len(raw)} bytes, expected a header of {HEADER_SIZE} bytes")
    problem = _problem(memoryview(raw).cast("Q"), status.st_size - HEADER_SIZE, size)
    if problem:
        raise PeerError(f"{name}: {problem}")


def _problem(header: memoryview[int], held: int, size: int) -> str | None:
    """What is wrong with a segment of ``held`` bytes after its header, None if nothing is."""
    if header[_READY] != MAGIC:
        return f"not ready: {header[_READY]:#x}, expected {MAGIC:#x}"
    if header[_VERSION] != SEGMENT_VERSION:
        return f"version {header[_VERSION]}, expected {SEGMENT_VERSION}"
    if held < size:
        return f"{held} bytes, expected at least {size}"
    return None


def owner_lives(name: str) -> bool:
    """Whether the process that made a segment still runs; the segment is complete."""
    return _owner_lives(_SHM / name)


def create_semaphore(name: str) -> posix_ipc.Semaphore:
    """Make a semaphore at 0; a leftover of the same name is replaced.

    Raises :class:`ResourceError`. The caller owns the VM's host segment, so no live process
    uses the name.
    """
    with contextlib.suppress(posix_ipc.ExistentialError, OSError):
        posix_ipc.unlink_semaphore(name)
    try:
        return posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=0)
    except (posix_ipc.Error, OSError) as error:
        raise ResourceError(f"semaphore {name}: {error}") from None


def attach_semaphore(name: str) -> posix_ipc.Semaphore:
    """Open an existing semaphore; raises :class:`PeerError`."""
    try:
        return posix_ipc.Semaphore(name)
    except (posix_ipc.Error, OSError) as error:
        raise PeerError(f"semaphore {name}: {error}") from None


def remove_semaphore(semaphore: posix_ipc.Semaphore) -> None:
    """Remove and close; already gone is fine."""
    with contextlib.suppress(posix_ipc.ExistentialError):
        semaphore.unlink()
    semaphore.close()


@contextlib.contextmanager
def watched(vm: str) -> Iterator[None]:
    """Meanwhile names of this VM are removed by its own host and guest only.

    For who looks at what a process leaves behind: any other host or guest that starts or ends on
    this machine would remove it first. As the lock, it goes with its process and leaves no file.
    Raises :class:`NameInUseError` when somebody else watches the VM.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as watch:
        try:
            watch.bind(_watch_address(vm))
        except OSError as error:
            raise NameInUseError(f"VM {vm}: cannot be watched: {error.strerror}") from None
        yield


def _watch_address(vm: str) -> str:
    return f"\0pvpmu-watch/{vm}"


def _is_watched(vm: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        return other.connect_ex(_watch_address(vm)) == 0


def cleanup(own: str = "") -> tuple[list[str], list[str]]:
    """Remove names whose owners are dead; returns (removed, kept) files of ``/dev/shm``.

    ``own``: the VM of the caller, whose names go even where somebody watches them.
    """
    with _names_locked():
        return _cleanup(own)


def _cleanup(own: str) -> tuple[list[str], list[str]]:
    removed, kept = [], []
    files = sorted(path.name for path in _SHM.iterdir() if path.is_file())
    segments = [found for name in files if (found := _SEGMENT_FILE.fullmatch(name))]
    semaphores = [found for name in files if (found := _SEMAPHORE_FILE.fullmatch(name))]
    live = {segment[0] for segment in segments if _owner_lives(_SHM / segment[0])}
    for found in (*segments, *semaphores):
        name, vm = found[0], found["vm"]
        owner = name if found.re is _SEGMENT_FILE else segment_name(vm, "host")
        if owner in live or (vm != own and _is_watched(vm)):
            kept.append(name)
        elif _remove(name):
            removed.append(name)
    return removed, kept


@contextlib.contextmanager
def _names_locked() -> Iterator[None]:
    """Nobody else of this user makes or removes names meanwhile.

    Looking at an owner and removing its name are two steps. The lock is an abstract socket: it
    goes with its process and leaves no file. Raises :class:`ResourceError` after a while.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                lock.bind(f"\0pvpmu-names-{os.getuid()}")
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                    raise ResourceError(f"names in {_SHM}: cannot lock: {error}") from None
            time.sleep(_LOCK_RETRY_S)
        yield


def _open(name: str, *, create: bool, size: int) -> shared_memory.SharedMemory:
    """Open without the resource tracker, which would remove other processes' names."""
    if sys.version_info >= (3, 13):
        return shared_memory.SharedMemory(name, create=create, size=size, track=False)
    shm = shared_memory.SharedMemory(name, create=create, size=size)
    # Before 3.13 (bpo-38119) attaching registers too, and the first process to exit unlinks.
    resource_tracker.unregister(f"/{name}", "shared_memory")
    return shm


def _remove(name: str) -> bool:
    try:
        (_SHM / name).unlink()
    except OSError:
        return False
    return True


def _owner_lives(path: Path) -> bool:
    """Whether the process that made the segment still runs, and has it mapped.

    Names are locked, so that a header that is not ready has an owner that died while making it.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(HEADER_SIZE)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    if len(raw) < HEADER_SIZE:
        return False
    words = memoryview(raw).cast("Q")
    if words[_READY] != MAGIC:
        return False
    return _start_time(words[_PID]) == words[_START] and _maps(words[_PID], path)


def _maps(pid: int, path: Path) -> bool:
    """Whether a process maps the file; yes where that cannot be told.

    Without this look a guest could name any live process of its user as the owner of its memory.
    """
    try:
        file = path.stat()
        maps = _maps_of(Path(f"/proc/{pid}/maps"))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    return any(line.split()[3:5] == [device, str(file.st_ino)] for line in maps.splitlines())


def _maps_of(path: Path) -> str:
    return path.read_text("utf-8", "replace")


def _start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, None if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    state, start = fields[0], int(fields[19])
    return None if state in "ZX" else start
