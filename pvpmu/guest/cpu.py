"""The guest's vCPU: retires the workload, exits, takes interrupts. Pure but for ``cross``.

**Invariants**: the vCPU is stopped while it exits; NMIs are taken at VM-entry only and never
nest, nor do fixed interrupts, whose handlers end with EOI and IRET; every exit carries what was
retired since the last VM-entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add
from typing import Protocol

from pvpmu.guest.live import live_entries
from pvpmu.guest.passing import PASSED_AS, passes
from pvpmu.guest.registration import PageUser
from pvpmu.shared import exits
from pvpmu.shared.errors import GeneralProtectionError, PeerError
from pvpmu.shared.events import KINDS
from pvpmu.shared.exits import (
    MODE_KERNEL,
    MODE_USER,
    ExitReason,
    SlotWords,
    reason_name,
    store_words,
)
from pvpmu.shared.units import Cycles, Ns

# Plain ints, and names of this module: an IntEnum member, or a look-up in another module, is slow
# beside what an exit does.
_EXCEPTION_NMI = int(ExitReason.EXCEPTION_NMI)
_EXTERNAL_INTERRUPT = int(ExitReason.EXTERNAL_INTERRUPT)
_NMI_WINDOW = int(ExitReason.NMI_WINDOW)
_MSR_READ = int(ExitReason.MSR_READ)
_MSR_WRITE = int(ExitReason.MSR_WRITE)
_INTERRUPT_WINDOW = int(ExitReason.INTERRUPT_WINDOW)
_NMI_BLOCKED = exits.NMI_BLOCKED
_INTERRUPTIBLE = exits.INTERRUPTIBLE
_REQUEST, _ADDRESS, _VALUE = exits.REQUEST, exits.ADDRESS, exits.VALUE
_REPLY, _RESULT = exits.REPLY, exits.RESULT
_PASSED, _FAULT_GP = exits.PASSED, exits.FAULT_GP
_RETIRED_USER, _RETIRED_KERNEL = exits.RETIRED_USER, exits.RETIRED_KERNEL
_RETIRED = _RETIRED_USER | _RETIRED_KERNEL
_NONE = [0] * KINDS
"""Nothing retired yet; never changed in place."""
_LIVE_VERSION = exits.LIVE_VERSION
_USER_AT, _KERNEL_AT = exits.RETIRED_USER_AT, exits.RETIRED_KERNEL_AT

_OVERFLOW = int(ExitReason.OVERFLOW)
_OPS = {
    int(ExitReason.MSR_READ): "rdmsr",
    int(ExitReason.MSR_WRITE): "wrmsr",
    int(ExitReason.RDPMC): "rdpmc",
}
_NEVER_FAULT = frozenset(ExitReason) - {
    ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC, ExitReason.CONTROL,
}  # fmt: skip
_MOST_WINDOWS = 16
"""Windows open one inside another only as long as the host injects at each: two are normal."""


class Program(Protocol):
    """What runs on the vCPU."""

    cycles: Cycles

    @property
    def now(self) -> Ns: ...
    @property
    def ip(self) -> int: ...
    @property
    def phase_left(self) -> Cycles: ...
    def cycles_until(self, kind: int, count: int) -> Cycles | None: ...
    def retire(self, cycles: Cycles) -> list[int]: ...


class Vcpu(PageUser):
    """One guest CPU.

    ``slot``: the exit slot's words. ``cross``: hand over to the host and wait for VM-entry.
    ``skid``: cycles from overflow to PMI. ``latency``: cycles from injection to the handler's
    first access. ``tail``: cycles from the handler's last access to IRET.

    Hooks: ``on_injection``, when an NMI is injected, with the program where it was interrupted;
    ``on_nmi``, the handler; ``on_interrupt``, that of a vector. ``on_retire``: counts by kind and
    mode that retired; ``before_retire``: the live entries (kind, modes, distance), and the cycles
    and mode that the program is about to run.
    """

    __slots__ = (
        "_flags",
        "_in_service",
        "_irq_window",
        "_kernel",
        "_latency",
        "_live",
        "_live_version",
        "_nmi_window",
        "_pmi_due",
        "_skid",
        "_slot",
        "_tail",
        "_user",
        "_windows",
        "before_retire",
        "on_injection",
        "on_interrupt",
        "on_nmi",
        "on_retire",
        "program",
    )

    def __init__(
        self,
        slot: SlotWords,
        cross: Callable[[], object],
        *,
        skid: Cycles = 0,
        latency: Cycles = 0,
        tail: Cycles = 0,
    ) -> None:
        self._slot = slot
        super().__init__(cross)
        self._skid = skid
        self._latency = latency
        self._tail = tail
        self._flags = 0
        self._nmi_window = False
        self._irq_window = False
        self._in_service = False
        self._windows = 0
        self._user = self._kernel = _NONE
        self._live: list[list[int]] = []
        self._live_version = -1
        self._pmi_due: Cycles | None = None
        self.program: Program | None = None
        self.on_nmi: Callable[[], None] = _unhandled
        self.on_injection: Callable[[], None] = _unhandled
        self.on_interrupt: Callable[[int], None] = _unhandled_vector
        self.on_retire: Callable[[Sequence[int], int], None] = _ignored
        self.before_retire: Callable[[Sequence[Sequence[int]], Cycles, int], None] | None = None

    # Exits and entries -----------------------------------------------------------------------

    def exit(self, reason: int, address: int = 0, value: int = 0) -> int:
        """Exit, wait for VM-entry, take an injected NMI; returns the value read.

        An access that the host lets pass (the word ``passed``) reaches the silicon and is no exit.
        Raises :class:`GeneralProtectionError` when the access faulted, :class:`PeerError` when
        the reply is none that a host may give.
        """
        slot = self._slot
        if slot[_PASSED] and reason in PASSED_AS and passes(slot[_PASSED], reason, address):
            if self._ask_silicon(PASSED_AS[reason], address, value) & exits.FAULT_GP:
                raise self._fault(reason, address, value)
            return slot[_RESULT]
        request = reason | self._flags
        if request & _RETIRED:
            self._store_retired()
        slot[_ADDRESS] = address
        slot[_VALUE] = value
        slot[_REQUEST] = request
        # A callable that an instance holds is called fastest as a local.
        cross = self._cross
        cross()
        reply = slot[_REPLY]
        if not reply:
            return slot[_RESULT]
        result = slot[_RESULT]
        self._entered_with(reply)
        if reply & _FAULT_GP:
            raise self._fault(reason & exits.REASON_MASK, address, value)
        return result

    def _ask_silicon(self, what: int, address: int = 0, value: int = 0) -> int:
        """What needs no host, but the silicon, which is host code: reply flags.

        Nothing is injected, and a PMI that is due stays so.
        """
        slot, due = self._slot, self._pmi_due
        request = what | self._flags
        if request & _RETIRED:
            self._store_retired()
        self._pmi_due = due
        slot[_ADDRESS] = address
        slot[_VALUE] = value
        slot[_REQUEST] = request
        self._cross()
        return slot[_REPLY]

    @staticmethod
    def _fault(reason: int, address: int, value: int) -> Exception:
        if reason in _NEVER_FAULT:
            return PeerError(f"the host answers {reason_name(reason)} with #GP")
        return GeneralProtectionError(_OPS.get(reason, "exit"), address, value)

    def user_rdpmc(self, ecx: int, *, pce: bool) -> int:
        """RDPMC at CPL 3 in protected mode: it exits, if CR4.PCE lets it (rule ACC-9).

        The privilege check comes before the exit. Source: SDM vol. 3C, 26.1.1.
        """
        if not pce:
            raise GeneralProtectionError("rdpmc", ecx)
        return self.trapped.rdpmc(ecx)

    def _entered_with(self, reply: int) -> None:
        if reply & exits.WANT_NMI_WINDOW:
            self._nmi_window = True
        if reply & exits.WANT_IRQ_WINDOW:
            self._irq_window = True
        if reply & exits.INJECT_NMI:
            if self._flags & _NMI_BLOCKED:
                raise PeerError("the host injects an NMI while NMIs are blocked")
            # Through an interrupt gate: IF is clear until IRET.
            interruptible = self._flags & _INTERRUPTIBLE
            self._flags = self._flags & ~_INTERRUPTIBLE | _NMI_BLOCKED
            self.on_injection()
            if self._latency:
                self._run_cycles(self._latency, MODE_KERNEL)
            self.on_nmi()
            if self._tail:
                self._run_cycles(self._tail, MODE_KERNEL)
            self._flags = self._flags & ~(_NMI_BLOCKED | _INTERRUPTIBLE) | interruptible
            if self._nmi_window:
                self._nmi_window = False
                self._window(_NMI_WINDOW)
        elif reply & exits.INJECT_IRQ:
            self._take_interrupt(reply >> exits.VECTOR_SHIFT & 0xFF)
        self._open_window()

    def _window(self, reason: int) -> None:
        self._windows += 1
        if self._windows > _MOST_WINDOWS:
            raise PeerError(f"the host injects at each of {_MOST_WINDOWS} windows in a row")
        self.exit(reason)
        self._windows -= 1

    def _take_interrupt(self, vector: int) -> None:
        if not self._flags & _INTERRUPTIBLE:
            raise PeerError(f"the host injects vector {vector:#x} while none can be taken")
        self._flags &= ~_INTERRUPTIBLE
        self._in_service = True
        self.on_interrupt(vector)
        self._in_service = False
        # It could be taken, so IF was set; IRET brings that back.
        self._flags |= _INTERRUPTIBLE

    def _open_window(self) -> None:
        if self._irq_window and self._flags & _INTERRUPTIBLE:
            self._irq_window = False
            self._window(_INTERRUPT_WINDOW)

    def set_interrupt_flag(self, *, enabled: bool) -> None:
        """RFLAGS.IF (STI, CLI), which fixed interrupts wait for. In a handler it does nothing.

        A handler starts with IF clear, and its IRET brings back what was before.
        """
        if self._in_service or self._flags & _NMI_BLOCKED:
            return
        self._flags &= ~_INTERRUPTIBLE
        if enabled:
            self._flags |= _INTERRUPTIBLE
            self._open_window()

    # Running ---------------------------------------------------------------------------------

    def run_until(self, cycle: Cycles, mode: int = MODE_USER, *, stop_at_pmi: bool = False) -> None:
        """Run the program, at CPL 3 unless told otherwise, until its cycle count is ``cycle``.

        ``stop_at_pmi``: or until after the next physical PMI, which may have taken guest time.
        """
        self._run_to(cycle, mode, stop_at_pmi=stop_at_pmi)

    def retire(self, counts: Sequence[int], mode: int = MODE_USER) -> None:
        """Account counts by event kind as retired since the last VM-entry."""
        self.on_retire(counts, mode)
        for entry in self._live_entries():
            if entry[1] & mode:
                entry[2] -= counts[entry[0]]
        if mode == MODE_USER:
            self._user = _sum(self._user, counts)
            self._flags |= _RETIRED_USER
        else:
            self._kernel = _sum(self._kernel, counts)
            self._flags |= _RETIRED_KERNEL

    def distances(self) -> list[int]:
        """By event kind: counts until the nearest live counter of it overflows; 0 without one."""
        nearest = [0] * KINDS
        for kind, _, distance in self._live_entries():
            if not nearest[kind] or distance < nearest[kind]:
                nearest[kind] = distance
        return nearest

    def pmi_exit(self, *, stray: bool = False) -> None:
        """The physical PMI: an EXCEPTION_NMI exit, which ``stray`` makes deliver twice.

        With a passed-through PMU it is an EXTERNAL_INTERRUPT exit, if the silicon interrupts.
        """
        flags = exits.STRAY_PMI if stray else 0
        if not self._slot[_PASSED] & exits.PMI_BY_VECTOR:
            self.exit(_EXCEPTION_NMI | flags)
            return
        raised = self._ask_silicon(_OVERFLOW) & exits.PMI_RAISED
        self._pmi_due = None
        if raised or stray:
            self.exit(_EXTERNAL_INTERRUPT | flags)

    def _run_cycles(self, cycles: Cycles, mode: int) -> None:
        if self.program is not None:
            self._run_to(self.program.cycles + cycles, mode)

    def _run_to(self, target: Cycles, mode: int, *, stop_at_pmi: bool = False) -> None:
        program = self.program
        assert program is not None
        while (room := target - program.cycles) > 0:
            step = min(room, program.phase_left)
            overflow = None
            if self._pmi_due is None:
                overflow = self._cycles_to_overflow(program, mode)
                if overflow is not None:
                    step = min(step, overflow)
            else:
                step = min(step, self._pmi_due)
            if self.before_retire is not None:
                self.before_retire(self._live_entries(), step, mode)
            self.retire(program.retire(step), mode)
            if self._pmi_due is not None:
                self._pmi_due -= step
            elif step == overflow:
                self._pmi_due = self._skid
            if self._pmi_due == 0:
                self.pmi_exit()
                if stop_at_pmi:
                    return

    def _live_entries(self) -> list[list[int]]:
        if self._slot[_LIVE_VERSION] != self._live_version:
            self._load_live()
        return self._live

    def _cycles_to_overflow(self, program: Program, mode: int) -> Cycles | None:
        nearest = None
        for kind, modes, distance in self._live_entries():
            # One that has overflowed and was not armed again will not do so soon.
            if modes & mode and distance > 0:
                cycles = program.cycles_until(kind, distance)
                if cycles is not None and (nearest is None or cycles < nearest):
                    nearest = cycles
        return nearest

    def _load_live(self) -> None:
        """Follow the counters that the host started or stopped since the last look."""
        self._live_version = self._slot[_LIVE_VERSION]
        self._live = live_entries(self._slot)

    def _store_retired(self) -> None:
        """Put the retired counts into the slot; any PMI due is taken at this exit."""
        if self._flags & _RETIRED_USER:
            store_words(self._slot, _USER_AT, self._user)
            self._user = _NONE
        if self._flags & _RETIRED_KERNEL:
            store_words(self._slot, _KERNEL_AT, self._kernel)
            self._kernel = _NONE
        self._flags &= ~_RETIRED
        self._pmi_due = None


def _sum(before: list[int], counts: Sequence[int]) -> list[int]:
    return list(counts if before is _NONE else map(add, before, counts))


def _unhandled() -> None:
    return None


def _unhandled_vector(_: int) -> None:
    return None


def _ignored(_counts: Sequence[int], _mode: int) -> None:
    return None
