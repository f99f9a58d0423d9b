"""perf_event_open(2) and its ioctls: what counters on a thread of this process need.

Source: perf_event_open(2), ``include/uapi/linux/perf_event.h``. Every failing call names itself,
its errno, and what to do about it.
"""

from __future__ import annotations

import ctypes as c
import errno
import fcntl
import os
import platform
import struct
from pathlib import Path

from pvpmu.shared.errors import ResourceError

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
_SOURCES = Path("/sys/bus/event_source/devices")
_CLOEXEC = 8
_READ_BYTES = 8

TYPE_HARDWARE, TYPE_SOFTWARE, TYPE_TRACEPOINT, TYPE_RAW = 0, 1, 2, 4
SW_CPU_CLOCK, SW_TASK_CLOCK = 0, 1

DISABLED, PINNED = 1 << 0, 1 << 2
EXCLUDE_USER, EXCLUDE_KERNEL, EXCLUDE_HV, EXCLUDE_IDLE = 1 << 4, 1 << 5, 1 << 6, 1 << 7
EXCLUDE_HOST, EXCLUDE_GUEST = 1 << 19, 1 << 20
"""Bits of the flag word."""

IOC_ENABLE, IOC_DISABLE, IOC_RESET = 0x2400, 0x2401, 0x2403
_IOC_PERIOD, _IOC_SET_FILTER = 0x4008_2404, 0x4008_2406
FLAG_GROUP = 1
"""Argument of the first three: the whole group of a leader."""
_MISSING = (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV)


class MissingEventError(ResourceError):
    """The kernel has no such event here."""


class Attr(c.Structure):
    """struct perf_event_attr, its first version and what follows as zeros."""

    _fields_ = [
        ("type", c.c_uint32), ("size", c.c_uint32), ("config", c.c_uint64),
        ("sample_period", c.c_uint64), ("sample_type", c.c_uint64), ("read_format", c.c_uint64),
        ("flags", c.c_uint64), ("wakeup_events", c.c_uint32), ("bp_type", c.c_uint32),
        ("config1", c.c_uint64), ("config2", c.c_uint64), ("rest", c.c_uint64 * 7),
    ]  # fmt: skip


def has_pmu() -> bool:
    """Whether the kernel drives a hardware PMU here."""
    return any((_SOURCES / name).exists() for name in ("cpu", "cpu_core", "armv8_pmuv3_0"))


def opened(attr: Attr, what: str, *, group: int = -1) -> int:
    """A counter of the calling thread, on whatever CPU it runs: its file descriptor.

    ``what`` names it in errors. Raises :class:`ResourceError`, :class:`MissingEventError` among it.
    """
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise ResourceError(f"perf_event_open: no system call number for {platform.machine()}")
    attr.size = c.sizeof(Attr)
    libc = c.CDLL(None, use_errno=True)
    # Thread 0 (this one), any CPU.
    handle = int(libc.syscall(number, c.byref(attr), 0, -1, group, c.c_ulong(_CLOEXEC)))
    if handle < 0:
        number = c.get_errno()
        kind = MissingEventError if number in _MISSING else ResourceError
        raise kind(_refusal(what, number))
    return handle


def value_of(handle: int) -> int:
    """The count, 64 bits."""
    return int.from_bytes(os.read(handle, _READ_BYTES), "little")


def set_period(handle: int, period: int) -> None:
    """PERF_EVENT_IOC_PERIOD; raises OSError for one that is refused."""
    fcntl.ioctl(handle, _IOC_PERIOD, struct.pack("Q", period))


def set_filter(handle: int, text: str) -> None:
    """PERF_EVENT_IOC_SET_FILTER of a tracepoint; raises :class:`ResourceError`."""
    try:
        fcntl.ioctl(handle, _IOC_SET_FILTER, text.encode() + b"\0")
    except OSError as error:
        raise ResourceError(f"perf filter {text!r}: {error.strerror}") from None


def _refusal(what: str, number: int) -> str:
    text = f"perf_event_open of {what}: {os.strerror(number)}"
    if number in (errno.EACCES, errno.EPERM):
        try:
            level = _PARANOID.read_text("ascii").strip()
        except OSError:
            level = "unknown"
        return f"{text} ({_PARANOID} is {level}; CAP_PERFMON or a lower level is needed)"
    if number in _MISSING:
        return f"{text} (this machine's PMU has no such event, or there is no PMU)"
    if number == errno.EMFILE:
        return f"{text} (raise the limit of open files, ulimit -n)"
    return text
