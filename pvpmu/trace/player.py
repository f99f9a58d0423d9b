"""Play a sequence of PMU accesses on a vCPU: the trace's, with PMIs where its handlers begin.

What a trace cannot give is chosen here. A selector keeps its enable bit and gets an event and a
privilege level of its own, so that each counter can overflow when it must; LVTPC keeps its mask
bit; a counter's highest bit is set, since host perf's longest period is half of what a counter
holds. Nothing is retired but what makes counters overflow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.machine import Machine, Progress
from pvpmu.guest.msr import MsrAccess
from pvpmu.guest.scenario import Races
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import (
    EVTSEL_EN,
    EVTSEL_INT,
    EVTSEL_OS,
    EVTSEL_USR,
    FIXED_BASE,
    FIXED_EN,
    FIXED_USR,
    LVT_MASKED,
    LVT_NMI,
    PmuCpuid,
)
from pvpmu.shared.design import GuestDesign
from pvpmu.shared.errors import GeneralProtectionError
from pvpmu.shared.events import EVENTS, FIXED_KIND, KINDS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER, Control, ExitReason
from pvpmu.shared.registers import BY_ADDRESS, Register, Role
from pvpmu.trace.names import RDPMC, READ, WRITE
from pvpmu.trace.tokens import COUNTER_ROLES, counter_of

PMI, END, LATE, MEASURE, NATURAL = range(3, 8)
"""Steps that are no accesses.

PMI: the counters of ``value`` (by global index, 0: none) overflow, an EXCEPTION_NMI exit follows,
and its handler are the steps up to END. LATE: they overflow, and the next exit finds it; that
handler's steps come right after it. MEASURE: a Control, START or STOP of the statistics.
NATURAL: an exit for another reason (HLT)."""

_GENERAL = tuple(event for event in EVENTS if event.fixed is None)
"""Events that no fixed counter counts: with two privilege levels, two for each."""
_LEVELS = ((MODE_USER, EVTSEL_USR), (MODE_KERNEL, EVTSEL_OS))
_LEGACY_SIGN = 1 << 31


class Step(NamedTuple):
    """An access (READ, WRITE, RDPMC; ``address`` is the MSR or ECX), or one of the above."""

    what: int
    address: int = 0
    value: int = 0


@dataclass(slots=True)
class Played:
    """What came of it.

    ``accesses``: how many were played. ``pmis``: handlers that began with an injected NMI;
    ``without_nmi``: handlers played although none came; ``unscripted``: NMIs that the trace does
    not have, answered by a short handler; ``extra``: the accesses of those. ``not_live``:
    overflows wanted of a counter that does not count. ``status_reads``, ``status_equal``: reads of
    GLOBAL_STATUS, and those that gave what the trace's did. ``refused``: accesses that ended in
    #GP, by (op, address).
    """

    accesses: int = 0
    extra: int = 0
    pmis: int = 0
    without_nmi: int = 0
    unscripted: int = 0
    not_live: int = 0
    status_reads: int = 0
    status_equal: int = 0
    refused: Counter[tuple[int, int]] = field(default_factory=Counter)
    page_registered: bool = False


class Player:
    """Plays steps on one vCPU of a machine, from its reset on; ``guest``: a design's side of it."""

    def __init__(self, machine: Machine, guest: GuestDesign) -> None:
        self.vcpu: Vcpu = machine.vcpu(Races())
        vcpu = self.vcpu
        vcpu.exit(ExitReason.CONTROL, value=Control.RESET)
        vcpu.forget_page()
        self._cpuid: PmuCpuid = vcpu.pmu_cpuid()
        self.played = Played()
        self.played.page_registered = vcpu.register_page(
            machine.memory, machine.page_address, guest=guest
        )
        self._access: MsrAccess = vcpu.seam if self.played.page_registered else vcpu.trapped
        self._counts: dict[int, int] = {}
        self._selectors = 0
        self._fixed_ctrl = 0
        self._awaiting = False
        self._late = False
        self._steps: Iterator[tuple[int, int, int]] = iter(())
        vcpu.on_nmi = self._on_nmi

    def play(self, steps: Iterable[tuple[int, int, int]]) -> None:
        """Play all of them; each is a :class:`Step` or the same as a plain tuple."""
        self._steps = iter(steps)
        self._run()

    def _run(self) -> None:
        """Play up to an END or the last step."""
        for what, address, value in self._steps:
            if what <= RDPMC:
                self._one(what, address, value)
            elif what == PMI:
                self._pmi(value)
            elif what == LATE:
                self._late = self._overflow(value)
            elif what == MEASURE:
                self.vcpu.exit(ExitReason.CONTROL, value=value)
            elif what == NATURAL:
                self.vcpu.exit(ExitReason.HLT)
            elif self._late:
                # The handler's end, and no NMI has come: its steps were played without one.
                self._late = False
                self.played.without_nmi += 1
            else:
                return

    # Accesses --------------------------------------------------------------------------------

    def _one(self, what: int, address: int, value: int) -> None:
        played = self.played
        played.accesses += 1
        try:
            if what == WRITE:
                self._write(address, value)
            elif what == READ:
                got = self._access.rdmsr(address)
                if address == msr.GLOBAL_STATUS:
                    played.status_reads += 1
                    played.status_equal += got == value
            else:
                self._access.rdpmc(address)
        except GeneralProtectionError:
            played.refused[what, address] += 1

    def _write(self, address: int, value: int) -> None:
        register = BY_ADDRESS[address]
        role = register.role
        value = self._chosen(register, value)
        self._access.wrmsr(address, value)
        if role is Role.FIXED_CTR_CTRL:
            self._fixed_ctrl = value
        elif role in COUNTER_ROLES:
            index = counter_of(register)
            assert index is not None
            if role is Role.PERFCTR:
                value -= _LEGACY_SIGN << 1
            self._counts[index] = value & self._mask(index)

    def _chosen(self, register: Register, value: int) -> int:
        """The value to write for the trace's, within what this PMU has."""
        role, cpuid = register.role, self._cpuid
        if role is Role.EVTSEL:
            return self._selector(register.index, on=bool(value & EVTSEL_EN))
        if role is Role.GLOBAL_CTRL:
            return value & cpuid.counters or (cpuid.counters if value else 0)
        if role is Role.LVTPC:
            return LVT_NMI | value & LVT_MASKED
        if role is Role.PERFCTR:
            return value & 0xFFFF_FFFF | _LEGACY_SIGN
        if role in COUNTER_ROLES:
            index = counter_of(register)
            assert index is not None
            return value & self._mask(index) | self._mask(index) + 1 >> 1
        return value & ~register.reserved(cpuid)

    def _mask(self, index: int) -> int:
        """The values that a counter can hold."""
        return self._cpuid.fixed_mask if index >= FIXED_BASE else self._cpuid.gp_mask

    def _selector(self, index: int, *, on: bool) -> int:
        """A selector whose event no other counter counts at that privilege level."""
        self._selectors = self._selectors & ~(1 << index) | on << index
        event = _GENERAL[index % len(_GENERAL)]
        _, level = _LEVELS[index // len(_GENERAL) % len(_LEVELS)]
        return event.selector | EVTSEL_INT | level | (EVTSEL_EN if on else 0)

    # PMIs ------------------------------------------------------------------------------------

    def _pmi(self, counters: int) -> None:
        real = bool(counters) and self._overflow(counters)
        self._awaiting = True
        # Without an overflow only the host's own second delivery brings an NMI.
        self.vcpu.pmi_exit(stray=not real)
        if self._awaiting:
            self._awaiting = False
            self.played.without_nmi += 1
            self._run()

    def _on_nmi(self) -> None:
        seam = self.vcpu.seam
        seam.handler_begins()
        self._handle()
        seam.handler_ends()

    def _handle(self) -> None:
        if self._awaiting or self._late:
            self._awaiting = self._late = False
            self.played.pmis += 1
            self._run()
        else:
            self.played.unscripted += 1
            self._short_handler()

    def _short_handler(self) -> None:
        """What Linux would do at least: acknowledge and go on."""
        access = self._access
        access.wrmsr(msr.GLOBAL_CTRL, 0)
        status = access.rdmsr(msr.GLOBAL_STATUS)
        if status:
            access.wrmsr(msr.OVF_CTRL, status)
        access.wrmsr(msr.GLOBAL_CTRL, self._cpuid.counters)
        access.wrmsr(msr.LVTPC, LVT_NMI)
        self.played.extra += 5 if status else 4

    def _overflow(self, counters: int) -> bool:
        """Retire what makes these counters overflow; returns whether any will."""
        retired: dict[int, list[int]] = {}
        while counters:
            index = (counters & -counters).bit_length() - 1
            counters &= counters - 1
            found = self._counted(index)
            if found is None:
                self.played.not_live += 1
                continue
            kind, mode = found
            left = self._mask(index) + 1 - self._counts.get(index, 0)
            retired.setdefault(mode, [0] * KINDS)[kind] += left
            self._counts[index] = 0
        for mode, counts in retired.items():
            self.vcpu.retire(counts, mode)
        return bool(retired)

    def _counted(self, index: int) -> tuple[int, int] | None:
        """Event kind and mode that a counter counts; None while it is disabled."""
        if index < FIXED_BASE:
            if not self._selectors >> index & 1:
                return None
            mode, _ = _LEVELS[index // len(_GENERAL) % len(_LEVELS)]
            return _GENERAL[index % len(_GENERAL)].kind, mode
        nibble = self._fixed_ctrl >> 4 * (index - FIXED_BASE)
        if not nibble & FIXED_EN:
            return None
        return FIXED_KIND[index - FIXED_BASE], MODE_USER if nibble & FIXED_USR else MODE_KERNEL


@dataclass(frozen=True, slots=True)
class PlayJob:
    """A job for a guest's vCPU: play some steps; ``guest``: the guest's side of a design."""

    steps: Sequence[Step]
    guest: GuestDesign = field(default_factory=GuestDesign)

    def do(self, machine: Machine, progress: Progress) -> Played:
        """Return a :class:`Played`."""
        player = Player(machine, self.guest)
        player.play(self.steps)
        progress(1.0)
        return player.played
