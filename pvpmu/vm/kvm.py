"""KVM through its ioctls: what a VM of one memory and one vCPU per process needs, and no more.

Source: ``Documentation/virt/kvm/api.rst``, ``include/uapi/linux/kvm.h`` (numbers and layouts).
Every failing call names itself, its errno, and what to do about it.
"""

from __future__ import annotations

import ctypes as c
import errno
import fcntl
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pvpmu.shared.errors import ResourceError

DEVICE = Path("/dev/kvm")
_API_VERSION = 12

_GET_API_VERSION = 0xAE00
_CREATE_VM = 0xAE01
_CHECK_EXTENSION = 0xAE03
_GET_VCPU_MMAP_SIZE = 0xAE04
_CREATE_VCPU = 0xAE41
_SET_USER_MEMORY_REGION = 0x4020_AE46
RUN = 0xAE80
_GET_REGS, _SET_REGS = 0x8090_AE81, 0x4090_AE82
_GET_SREGS, _SET_SREGS = 0x8138_AE83, 0x4138_AE84
_SET_SIGNAL_MASK = 0x4004_AE8B
_SET_CPUID2 = 0x4008_AE90
NMI = 0xAE9A
_GET_VCPU_EVENTS = 0x8040_AE9F
_GET_TSC_KHZ = 0xAEA3
_ENABLE_CAP = 0x4068_AEA3
_SET_MSR_FILTER = 0x4188_AEC6

_CAP_USER_MEMORY = 3
_CAP_EXT_CPUID = 7
_CAP_USER_NMI = 22
_CAP_VCPU_EVENTS = 41
_CAP_GET_TSC_KHZ = 61
_CAP_IMMEDIATE_EXIT = 136
_CAP_USER_SPACE_MSR = 188
_CAP_MSR_FILTER = 189
_NEEDED = {
    _CAP_USER_MEMORY: "KVM_CAP_USER_MEMORY",
    _CAP_EXT_CPUID: "KVM_CAP_EXT_CPUID",
    _CAP_USER_NMI: "KVM_CAP_USER_NMI",
    _CAP_VCPU_EVENTS: "KVM_CAP_VCPU_EVENTS",
    _CAP_GET_TSC_KHZ: "KVM_CAP_GET_TSC_KHZ",
    _CAP_IMMEDIATE_EXIT: "KVM_CAP_IMMEDIATE_EXIT",
    _CAP_USER_SPACE_MSR: "KVM_CAP_X86_USER_SPACE_MSR (Linux 5.10)",
    _CAP_MSR_FILTER: "KVM_CAP_X86_MSR_FILTER (Linux 5.10)",
}

MSR_EXIT_INVAL, MSR_EXIT_UNKNOWN, MSR_EXIT_FILTER = 1, 2, 4
"""Why an MSR access comes to user space: KVM would raise #GP, knows no such MSR, or was told to."""
_FILTER_READ_WRITE = 3
_MOST_RANGES = 16

EXIT_IO = 2
EXIT_HLT = 5
EXIT_MMIO = 6
EXIT_SHUTDOWN = 8
EXIT_FAIL_ENTRY = 9
EXIT_INTR = 10
EXIT_INTERNAL_ERROR = 17
EXIT_RDMSR = 29
EXIT_WRMSR = 30
EXIT_NAMES = {
    0: "UNKNOWN", 1: "EXCEPTION", EXIT_IO: "IO", 4: "DEBUG", EXIT_HLT: "HLT", EXIT_MMIO: "MMIO",
    7: "IRQ_WINDOW_OPEN", EXIT_SHUTDOWN: "SHUTDOWN", EXIT_FAIL_ENTRY: "FAIL_ENTRY",
    EXIT_INTR: "INTR", EXIT_INTERNAL_ERROR: "INTERNAL_ERROR", 24: "SYSTEM_EVENT",
    EXIT_RDMSR: "X86_RDMSR", EXIT_WRMSR: "X86_WRMSR", 39: "MEMORY_FAULT",
}  # fmt: skip
"""``kvm_run.exit_reason``."""

IMMEDIATE_EXIT = 1
EXIT_REASON = 8 // 4
UNION_BYTE = 32
IO_PORT = 34 // 2
MSR_ERROR = 32
MSR_REASON = 40 // 4
MSR_INDEX = 44 // 4
MSR_DATA = 48 // 8
"""Where ``struct kvm_run`` has its fields, in units of their own size."""


class Segment(c.Structure):
    """struct kvm_segment."""

    _fields_ = [
        ("base", c.c_uint64), ("limit", c.c_uint32), ("selector", c.c_uint16),
        ("type", c.c_uint8), ("present", c.c_uint8), ("dpl", c.c_uint8), ("db", c.c_uint8),
        ("s", c.c_uint8), ("l", c.c_uint8), ("g", c.c_uint8), ("avl", c.c_uint8),
        ("unusable", c.c_uint8), ("padding", c.c_uint8),
    ]  # fmt: skip


class Table(c.Structure):
    """struct kvm_dtable."""

    _fields_ = [("base", c.c_uint64), ("limit", c.c_uint16), ("padding", c.c_uint16 * 3)]


class SpecialRegisters(c.Structure):
    """struct kvm_sregs."""

    _fields_ = [
        *((name, Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        ("gdt", Table), ("idt", Table),
        *((name, c.c_uint64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", c.c_uint64 * 4),
    ]  # fmt: skip


class Registers(c.Structure):
    """struct kvm_regs."""

    _fields_ = [
        (name, c.c_uint64)
        for name in (
            "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15", "rip", "rflags",
        )
    ]  # fmt: skip


class _Region(c.Structure):
    _fields_ = [
        ("slot", c.c_uint32), ("flags", c.c_uint32), ("guest_phys_addr", c.c_uint64),
        ("memory_size", c.c_uint64), ("userspace_addr", c.c_uint64),
    ]  # fmt: skip


class _EnableCap(c.Structure):
    _fields_ = [
        ("cap", c.c_uint32), ("flags", c.c_uint32), ("args", c.c_uint64 * 4),
        ("pad", c.c_uint8 * 64),
    ]  # fmt: skip


class _FilterRange(c.Structure):
    _fields_ = [
        ("flags", c.c_uint32), ("nmsrs", c.c_uint32), ("base", c.c_uint32), ("bitmap", c.c_void_p)
    ]  # fmt: skip


class _MsrFilter(c.Structure):
    _fields_ = [("flags", c.c_uint32), ("ranges", _FilterRange * _MOST_RANGES)]


class _CpuidEntry(c.Structure):
    _fields_ = [
        (name, c.c_uint32) for name in ("function", "index", "flags", "eax", "ebx", "ecx", "edx")
    ] + [("padding", c.c_uint32 * 3)]


class VcpuEvents(c.Structure):
    """struct kvm_vcpu_events, as far as NMIs go."""

    _fields_ = [
        ("exception", c.c_uint8 * 8), ("interrupt", c.c_uint8 * 4),
        ("nmi_injected", c.c_uint8), ("nmi_pending", c.c_uint8), ("nmi_masked", c.c_uint8),
        ("nmi_pad", c.c_uint8), ("rest", c.c_uint8 * 48),
    ]  # fmt: skip


def unusable() -> str | None:
    """Why no VM can be made here, None if one can."""
    try:
        Kvm().close()
    except ResourceError as error:
        return str(error)
    return None


class Kvm:
    """``/dev/kvm``, open, of the one API version there is, with what a VM here needs.

    Raises :class:`ResourceError`: absent, not permitted, or a capability that is missing.
    """

    def __init__(self) -> None:
        self._fd = _open_device()
        try:
            self._check()
            self.run_bytes = _ioctl(self._fd, "KVM_GET_VCPU_MMAP_SIZE", _GET_VCPU_MMAP_SIZE)
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        version = _ioctl(self._fd, "KVM_GET_API_VERSION", _GET_API_VERSION)
        if version != _API_VERSION:
            raise ResourceError(f"{DEVICE}: API version {version}, expected {_API_VERSION}")
        for number, name in _NEEDED.items():
            if not _ioctl(self._fd, "KVM_CHECK_EXTENSION", _CHECK_EXTENSION, number):
                raise ResourceError(f"{DEVICE}: this kernel has no {name}")

    def vm(self) -> Vm:
        """Make a VM."""
        return Vm(_ioctl(self._fd, "KVM_CREATE_VM", _CREATE_VM), self.run_bytes)

    def close(self) -> None:
        """VMs made from it live on."""
        os.close(self._fd)


class Vm:
    """A VM. Everything of it goes when it and its vCPU are closed, however their process ends."""

    def __init__(self, fd: int, run_bytes: int) -> None:
        self._fd = fd
        self._run_bytes = run_bytes
        self._kept: list[object] = []

    def map(self, slot: int, address: int, words: memoryview[int], size: int) -> None:
        """Put ``size`` bytes of a writable window, page-aligned, at guest-physical ``address``."""
        start = c.c_uint64.from_buffer(words)
        self._kept.append(start)
        region = _Region(slot, 0, address, size, c.addressof(start))
        _ioctl(self._fd, "KVM_SET_USER_MEMORY_REGION", _SET_USER_MEMORY_REGION, region)

    def exit_on_msrs(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Let each access to MSRs of ``ranges`` (first, count) exit to user space.

        So do those that KVM does not know or would refuse (0x834 without an in-kernel APIC).
        """
        cap = _EnableCap(cap=_CAP_USER_SPACE_MSR)
        cap.args[0] = MSR_EXIT_INVAL | MSR_EXIT_UNKNOWN | MSR_EXIT_FILTER
        _ioctl(self._fd, "KVM_ENABLE_CAP (X86_USER_SPACE_MSR)", _ENABLE_CAP, cap)
        wanted = _MsrFilter()
        for entry, (first, count) in zip(wanted.ranges, ranges, strict=False):
            # A clear bit denies: the access is the VMM's.
            bitmap = c.create_string_buffer(-(-count // 8))
            entry.flags, entry.nmsrs, entry.base = _FILTER_READ_WRITE, count, first
            entry.bitmap = c.addressof(bitmap)
            self._kept.append(bitmap)
        _ioctl(self._fd, "KVM_X86_SET_MSR_FILTER", _SET_MSR_FILTER, wanted)

    def vcpu(self) -> Vcpu:
        """Make vCPU 0."""
        return Vcpu(_ioctl(self._fd, "KVM_CREATE_VCPU", _CREATE_VCPU, 0), self._run_bytes)

    def close(self) -> None:
        """The memory's owner may unmap it after this."""
        self._kept.clear()
        os.close(self._fd)


class Vcpu:
    """A vCPU. ``fd``: for RUN and NMI; ``run``: its ``struct kvm_run``."""

    def __init__(self, fd: int, run_bytes: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, run_bytes)
        self.run = memoryview(self._map)

    def set_cpuid(self, leaves: Mapping[int, tuple[int, int, int, int]]) -> None:
        """What CPUID answers: EAX, EBX, ECX, EDX by leaf. Only before the first RUN."""
        table = (_CpuidEntry * len(leaves))(
            *(_CpuidEntry(leaf, 0, 0, *registers) for leaf, registers in sorted(leaves.items()))
        )
        header = len(leaves).to_bytes(8, "little")
        _ioctl(self.fd, "KVM_SET_CPUID2", _SET_CPUID2, bytearray(header + bytes(table)))

    @property
    def registers(self) -> Registers:
        """General registers."""
        registers = Registers()
        _ioctl(self.fd, "KVM_GET_REGS", _GET_REGS, registers)
        return registers

    @registers.setter
    def registers(self, registers: Registers) -> None:
        _ioctl(self.fd, "KVM_SET_REGS", _SET_REGS, registers)

    @property
    def special(self) -> SpecialRegisters:
        """Segment, table and control registers."""
        special = SpecialRegisters()
        _ioctl(self.fd, "KVM_GET_SREGS", _GET_SREGS, special)
        return special

    @special.setter
    def special(self, special: SpecialRegisters) -> None:
        _ioctl(self.fd, "KVM_SET_SREGS", _SET_SREGS, special)

    @property
    def events(self) -> VcpuEvents:
        """NMIs pending and masked, as KVM has them."""
        events = VcpuEvents()
        _ioctl(self.fd, "KVM_GET_VCPU_EVENTS", _GET_VCPU_EVENTS, events)
        return events

    @property
    def tsc_khz(self) -> int:
        """The guest's TSC, kHz."""
        return _ioctl(self.fd, "KVM_GET_TSC_KHZ", _GET_TSC_KHZ)

    def unblock_in_run(self, blocked: Sequence[int]) -> None:
        """Signals blocked during RUN; others that are blocked here interrupt it then (EINTR)."""
        mask = sum(1 << number - 1 for number in blocked)
        raw = (8).to_bytes(4, "little") + mask.to_bytes(8, "little")
        _ioctl(self.fd, "KVM_SET_SIGNAL_MASK", _SET_SIGNAL_MASK, bytearray(raw))

    def close(self) -> None:
        """Windows cut from ``run`` must be gone."""
        self.run.release()
        self._map.close()
        os.close(self.fd)


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ResourceError(
            f"{DEVICE}: absent; load the module kvm_intel or kvm_amd, or switch virtualization on "
            "in the firmware (nested: in the outer hypervisor)"
        ) from None
    except PermissionError:
        raise ResourceError(f"{DEVICE}: not permitted; join the group {_group()}") from None
    except OSError as error:
        raise ResourceError(f"{DEVICE}: {error.strerror}") from None


def _group() -> str:
    """The group that may use the device."""
    try:
        return DEVICE.group()
    except (KeyError, OSError):
        return "kvm"


_HINTS = {
    errno.EPERM: "not permitted here",
    errno.ENOMEM: "no memory left",
    errno.EBUSY: "virtualization is in use by another hypervisor",
    errno.EINVAL: "this kernel refuses the argument",
    errno.ENOTTY: "this kernel has no such call",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
}


def _ioctl(fd: int, name: str, request: int, argument: object = 0) -> int:
    """Any call but RUN; a signal of this process does not make it fail."""
    while True:
        try:
            if isinstance(argument, int):
                return fcntl.ioctl(fd, request, argument)
            view = memoryview(argument).cast("B")  # type: ignore[arg-type]
            return int(fcntl.ioctl(fd, request, view, True))
        except InterruptedError:
            continue
        except OSError as error:
            hint = _HINTS.get(error.errno or 0)
            advice = f" ({hint})" if hint else ""
            raise ResourceError(f"{name}: {error.strerror}{advice}") from None
