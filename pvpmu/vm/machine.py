"""One vCPU of a VM in this process: its memory, its registers at the start, one entry at a time.

Each vCPU has a process of its own, and there a KVM VM over the memory that all of them share: no
lock of the interpreter is common to them. They share nothing else, so that the guest cannot tell.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Iterator, Mapping

from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import FEATURE_LEAF, LEAF, Leaf
from pvpmu.shared.errors import PeerError, ResourceError
from pvpmu.shared.exits import LEAF_FEATURES, LEAF_SIGNATURE, SLOT_SIZE
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.vm import kvm, layout
from pvpmu.vm.build import RDPMC_MSR
from pvpmu.vm.layout import (
    CODE_SELECTOR,
    DATA_SELECTOR,
    LARGE_PAGE,
    SLOTS,
    TASK_SELECTOR,
    MemoryMap,
)

_HEADER_AT = 64
_GATES_AT = 0x100
_TASK_BYTES = 104
_STACK_0_AT = 4
_VECTORS = layout.VECTORS
_NMI_VECTOR, _GP_VECTOR = 2, 13
_DONE, _GATE_INT = layout.DONE_VECTOR, layout.GATE_VECTOR
_GATE, _USER_GATE = 0x8E, 0xEE
"""Present, 64-bit interrupt gate, DPL 0 and 3."""
_GDT = (
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00CF_FB00_0000_FFFF,
    0x00CF_F300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
)
"""Code and data of CPL 0; for SYSRET 32-bit code, data, code of CPL 3; then the TSS."""
_PRESENT_WRITABLE, _LARGE = 0x7, 0x80
"""Of a page table's entry; CPL 3 may use it, too."""
_STATE_WINDOW, _STATE_USER, _STATE_STACKS = 1, 3, 7
"""Words of the guest's state, as its start.S has them."""
_CR0, _CR4, _EFER = 0x8005_0033, 0x620, 0xD00
"""PE MP ET NE WP AM PG; PAE OSFXSR OSXMMEXCPT; SCE LME LMA NXE."""
_INTEL = struct.unpack("<3I", b"GenuineIntel")
_SIGNATURE_LEAF = 0
_FAMILY_6 = 0x0006_06A6
_FEATURES_EDX = 0x0783_FBFF
_EXTENDED = {0x8000_0000: (0x8000_0001, 0, 0, 0), 0x8000_0001: (0, 0, 1, 0x2C10_0800)}
"""Long mode, NX, SYSCALL, 1 GB pages, RDTSCP; LAHF."""

Leaves = Mapping[int, Leaf]


def pmu_msrs() -> list[tuple[int, int]]:
    """Ranges (first, count) of the MSRs that the vPMU answers, joined where they meet."""
    addresses = sorted({*msr.BY_ADDRESS, RDPMC_MSR, *_legacy()} - {msr.LVTPC})
    ranges: list[tuple[int, int]] = []
    for address in addresses:
        first, count = ranges[-1] if ranges else (0, 0)
        if ranges and address <= first + count + _GAP:
            ranges[-1] = first, address - first + 1
        else:
            ranges.append((address, 1))
    return ranges


_GAP = 1


def _legacy() -> Iterator[int]:
    """Beside the declared ones: what KVM's own PMU would answer and this host refuses."""
    yield from range(0x186, 0x18E + 1)


class Machine:
    """A vCPU that is ready to run the guest's program.

    ``memory``, ``slots``: both segments' windows, mapped for the whole life of this. ``leaves``:
    what CPUID answers of the PMU. ``user``: driver and program run at CPL 3. Raises
    :class:`ResourceError`.
    """

    def __init__(
        self,
        memory: memoryview[int],
        slots: memoryview[int],
        where: MemoryMap,
        vcpu: int,
        program: bytes,
        leaves: Leaves,
        *,
        user: bool,
    ) -> None:
        self.box = _window(memory, where.box(vcpu), PAGE_SIZE)
        self.state = _window(memory, where.state(vcpu), layout.STATE_SIZE)
        self.log = _window(memory, where.log(vcpu), 8 * layout.LOG_WORDS)
        _load(memory, where, program)
        self._fill_box(where, vcpu)
        system = kvm.Kvm()
        try:
            self._vm = system.vm()
        finally:
            system.close()
        self._vm.map(0, 0, memory, where.memory_bytes)
        self._vm.map(1, SLOTS, slots, where.slots_bytes)
        self._vm.exit_on_msrs(pmu_msrs())
        self.vcpu = self._vm.vcpu()
        self.vcpu.set_cpuid(cpuid_table(leaves))
        self._start(memory, where, vcpu, program, user=user)
        self.run8 = self.vcpu.run
        self.run16 = self.vcpu.run.cast("H")
        self.run32 = self.vcpu.run.cast("I")
        self.run64 = self.vcpu.run.cast("Q")
        self.tsc_khz = self.vcpu.tsc_khz

    def _fill_box(self, where: MemoryMap, vcpu: int) -> None:
        box = self.box
        box[layout.COMMAND] = layout.Command.NONE
        box[layout.PAGE_ADDRESS] = vcpu * PAGE_SIZE
        box[layout.SLOT_ADDRESS] = SLOTS + vcpu * SLOT_SIZE
        box[layout.LOG_ADDRESS] = where.log(vcpu)
        box[layout.LOGGED] = box[layout.FLAGS] = 0

    def _start(
        self,
        memory: memoryview[int],
        where: MemoryMap,
        vcpu: int,
        program: bytes,
        *,
        user: bool,
    ) -> None:
        tables, state = where.tables(vcpu), where.state(vcpu)
        _fill_state(_window(memory, state, layout.STATE_SIZE), where, vcpu, user=user)
        _fill_tables(_window(memory, tables, PAGE_SIZE), where, vcpu, program)
        special = self.vcpu.special
        special.cr0, special.cr4, special.efer = _CR0, _CR4, _EFER
        special.cr3 = where.page_tables
        _segment(special.cs, CODE_SELECTOR, kind=0xB, long=True)
        for name in ("ds", "es", "fs", "gs", "ss"):
            _segment(getattr(special, name), DATA_SELECTOR, kind=0x3)
        special.gs.base = state
        task = special.tr
        task.base, task.limit, task.selector = (
            tables + layout.TASK_AT,
            _TASK_BYTES - 1,
            TASK_SELECTOR,
        )
        task.type, task.present, task.s, task.g = 0xB, 1, 0, 0
        special.gdt.base, special.gdt.limit = tables, len(_GDT) * 8 + 16 - 1
        special.idt.base, special.idt.limit = tables + _GATES_AT, _VECTORS * 16 - 1
        self.vcpu.special = special
        registers = self.vcpu.registers
        registers.rip = where.program
        registers.rsp = where.stack_top(vcpu)
        registers.rdi = where.box(vcpu)
        registers.rflags = 0x2
        self.vcpu.registers = registers

    def enter(self) -> int:
        """One VM-entry; returns KVM's exit reason. A signal ends it with InterruptedError."""
        fcntl.ioctl(self.vcpu.fd, kvm.RUN, 0)
        return self.run32[kvm.EXIT_REASON]

    def inject_nmi(self) -> None:
        """KVM_NMI: at the next entry that can take it."""
        fcntl.ioctl(self.vcpu.fd, kvm.NMI, 0)

    def want_nmi_window(self) -> None:
        """Have the guest make an NMI-window exit as soon as its handler's IRET is done."""
        self.state[_STATE_WINDOW] = 1

    def refuse(self, reason: int) -> PeerError:
        """What an exit means that no guest of this project makes on purpose."""
        run = self.run64
        rip = self.vcpu.registers.rip
        name = kvm.EXIT_NAMES.get(reason, str(reason))
        if reason == kvm.EXIT_SHUTDOWN:
            return PeerError(f"the guest shut down by a triple fault at {rip:#x}")
        if reason == kvm.EXIT_INTERNAL_ERROR:
            suberror = self.run32[kvm.UNION_BYTE // 4]
            return PeerError(
                f"KVM gives up with internal error {suberror} at {rip:#x} (1: an instruction that "
                "it cannot emulate; see dmesg)"
            )
        if reason == kvm.EXIT_FAIL_ENTRY:
            return PeerError(
                f"KVM cannot enter the guest: hardware reason {run[kvm.UNION_BYTE // 8]:#x} at "
                f"{rip:#x} (see dmesg)"
            )
        if reason == kvm.EXIT_MMIO:
            address = run[kvm.UNION_BYTE // 8]
            return PeerError(f"the guest reached {address:#x}, where no memory is, at {rip:#x}")
        return PeerError(f"KVM exit {name}, which this guest never makes, at {rip:#x}")

    def close(self) -> None:
        """Everything of KVM's goes."""
        for window in (self.run16, self.run32, self.run64, self.box, self.state, self.log):
            window.release()
        self.vcpu.close()
        self._vm.close()


def cpuid_table(leaves: Leaves) -> dict[int, Leaf]:
    """The whole of CPUID: an Intel processor of 64 bits with this PMU."""
    ebx, edx, ecx = _INTEL
    return {
        _SIGNATURE_LEAF: (LEAF, ebx, ecx, edx),
        FEATURE_LEAF: (_FAMILY_6, 0, leaves[FEATURE_LEAF][2], _FEATURES_EDX),
        LEAF: leaves[LEAF],
        LEAF_SIGNATURE: leaves[LEAF_SIGNATURE],
        LEAF_FEATURES: leaves[LEAF_FEATURES],
        **_EXTENDED,
    }


def _load(memory: memoryview[int], where: MemoryMap, program: bytes) -> None:
    """Program and page tables. Every vCPU stores the same."""
    padded = program + bytes(-len(program) % 8)
    _window(memory, where.program, len(padded))[:] = memoryview(padded).cast("Q")
    tables = _window(memory, where.page_tables, layout.TABLE_PAGES * PAGE_SIZE)
    entries = PAGE_SIZE // 8
    tables[0] = where.page_tables + PAGE_SIZE | _PRESENT_WRITABLE
    alias = layout.ALIAS >> 30
    tables[entries + alias] = where.page_tables + 2 * PAGE_SIZE | _PRESENT_WRITABLE
    for gigabyte in range(layout.TABLE_PAGES - 2):
        directory = 2 + gigabyte
        tables[entries + gigabyte] = where.page_tables + directory * PAGE_SIZE | _PRESENT_WRITABLE
        for entry in range(entries):
            address = gigabyte << 30 | entry * LARGE_PAGE
            tables[directory * entries + entry] = address | _LARGE | _PRESENT_WRITABLE


def _fill_state(state: memoryview[int], where: MemoryMap, vcpu: int, *, user: bool) -> None:
    state[:] = memoryview(bytes(state.nbytes)).cast("Q")
    state[0] = where.state(vcpu)
    state[_STATE_USER] = int(user)
    for which in (1, 2):
        state[_STATE_STACKS + which - 1] = where.stack_top(vcpu, which)


def _fill_tables(tables: memoryview[int], where: MemoryMap, vcpu: int, program: bytes) -> None:
    raw = bytearray(PAGE_SIZE)
    task = where.tables(vcpu) + layout.TASK_AT
    low = _TASK_BYTES - 1 | (task & 0xFF_FFFF) << 16 | 0x89 << 40 | (task >> 24 & 0xFF) << 56
    struct.pack_into(f"<{len(_GDT) + 2}Q", raw, 0, *_GDT, low, task >> 32)
    struct.pack_into("<Q", raw, layout.TASK_AT + _STACK_0_AT, where.stack_top(vcpu, 2))
    nmi, fault, done, gate, other = struct.unpack_from("<5Q", program, _HEADER_AT)
    entries = {_NMI_VECTOR: nmi, _GP_VECTOR: fault, _DONE: done, _GATE_INT: gate}
    for vector in range(_VECTORS):
        entry = where.program + entries.get(vector, other)
        kind = _USER_GATE if vector in (_DONE, _GATE_INT) else _GATE
        low = entry & 0xFFFF | CODE_SELECTOR << 16 | kind << 40 | (entry >> 16 & 0xFFFF) << 48
        struct.pack_into("<2Q", raw, _GATES_AT + 16 * vector, low, entry >> 32)
    tables[:] = memoryview(raw).cast("Q")


def _window(memory: memoryview[int], address: int, size: int) -> memoryview[int]:
    if (address + size) > len(memory) * 8:
        raise ResourceError(f"guest memory of {len(memory) * 8} bytes ends before {address:#x}")
    return memory[address // 8 : (address + size) // 8]


def _segment(segment: kvm.Segment, selector: int, *, kind: int, long: bool = False) -> None:
    segment.base, segment.limit, segment.selector = 0, 0xFFFF_FFFF, selector
    segment.type, segment.present, segment.dpl, segment.s = kind, 1, 0, 1
    segment.db, segment.l, segment.g = int(not long), int(long), 1
