"""A vCPU that tells a tracer what it does. Pure; without a tracer nobody makes one.

Exits, entries and perf calls are told as they happen. What became of PMIs and of the page's state
is told before the VM-entry of the exit that brought it about: the difference that the exit made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from pvpmu.host.perf import PerfContext, PerfEvent
from pvpmu.host.pmi import PmiCounts
from pvpmu.host.vcpu import HostVcpu
from pvpmu.recording.format import Change, Op, Pmi, State
from pvpmu.recording.tracer import Tracer
from pvpmu.shared import exits
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.events import CYCLES
from pvpmu.shared.exits import Control, ExitReason, SlotWords
from pvpmu.shared.hostload import NO_LOAD, HostLoad
from pvpmu.shared.profile import KVM_5_14, Profile
from pvpmu.shared.tally import CALL_KINDS, CREATE, PERIOD, RELEASE

_FLOOR, _CONTROL = int(ExitReason.FLOOR), int(ExitReason.CONTROL)
_WRITE = int(ExitReason.MSR_WRITE)
_OP_OF = {int(ExitReason.MSR_READ): Op.RDMSR, _WRITE: Op.WRMSR}
_REASON_MASK, _NMI_BLOCKED, _FAULT = exits.REASON_MASK, exits.NMI_BLOCKED, exits.FAULT_GP
_COUNTS = (
    (Pmi.RAISED, "raised"),
    (Pmi.COALESCED, "coalesced"),
    (Pmi.DROPPED, "dropped"),
    (Pmi.STRAY, "stray"),
    (Pmi.INJECTED, "delivered"),
    (Pmi.LATE, "late"),
)
_amounts = attrgetter(*(name for _, name in _COUNTS))
"""The counts of a PmiCounts, in that order; read at every exit, so as one step."""
_NOTHING = _amounts(PmiCounts())


class _Page(NamedTuple):
    """What is looked at of a page. ``generation``: 0 for none; ``hold``: its number, -1: none."""

    generation: int
    running: bool
    hold: int


_NO_PAGE = _Page(0, running=False, hold=-1)


class TracedVcpu(HostVcpu):
    """The host side of one vCPU, traced; the arguments are :class:`HostVcpu`'s, and ``tracer``."""

    # Not one more attribute of the instance, of which there are as many as are fast.
    __slots__ = ("_tracer",)

    def __init__(
        self,
        slot: SlotWords,
        memory: memoryview[int],
        design: Design,
        cpuid: PmuCpuid,
        profile: Profile = KVM_5_14,
        load: HostLoad = NO_LOAD,
        *,
        tracer: Tracer,
    ) -> None:
        self._tracer = tracer
        super().__init__(slot, memory, design, cpuid, profile, load)

    def watched(self, perf: PerfContext) -> PerfContext:
        """Have every perf call of the vPMU told: its kind, and the host event it was made for."""
        numbers: dict[PerfEvent, int] = {}
        for kind, name in enumerate(CALL_KINDS):
            setattr(perf, name, _told(self._tracer, kind, getattr(perf, name), numbers))
        return perf

    def serve(self) -> int:
        """Serve the exit in the slot, and tell of it."""
        slot, tracer = self._slot, self._tracer
        request = slot[exits.REQUEST]
        tracer.pass_time(slot[exits.CLOCK], tracer.cycles + self._retired_cycles(request))
        reason = request & _REASON_MASK
        counts = self.delivery.counts
        pmis, page = _amounts(counts), self._page_now()
        if reason >= _FLOOR:
            control = slot[exits.VALUE]
            super().serve()
            self._tell(pmis, counts, page, reason)
            if reason == _CONTROL:
                if control == Control.RESET:
                    tracer.cycles = 0
                tracer.mark(control)
                if self.delivery.counts is not counts:
                    # What is counted anew from here on.
                    self._tell_pmis(_NOTHING, self.delivery.counts)
            return reason
        address, value = slot[exits.ADDRESS], slot[exits.VALUE]
        tracer.exit(reason, address, value, nmi_blocked=bool(request & _NMI_BLOCKED))
        super().serve()
        reply, result = slot[exits.REPLY], slot[exits.RESULT]
        if reason in _OP_OF:
            fault = bool(reply & _FAULT)
            data = value if reason == _WRITE else 0 if fault else result
            tracer.msr(_OP_OF[reason], address, data, fault=fault)
        self._tell(pmis, counts, page, reason)
        tracer.entry(reason, reply, result, reply >> exits.VECTOR_SHIFT & 0xFF)
        return reason

    def _retired_cycles(self, request: int) -> int:
        slot, cycles = self._slot, 0
        if request & exits.RETIRED_USER:
            cycles += slot[exits.RETIRED_USER_AT + CYCLES]
        if request & exits.RETIRED_KERNEL:
            cycles += slot[exits.RETIRED_KERNEL_AT + CYCLES]
        return cycles

    def _page_now(self) -> _Page:
        page = self.page
        if page is None:
            return _NO_PAGE
        hold = page.hold
        return _Page(self.generation, page.running, hold.freeze_seq if hold.lasts else -1)

    def _tell(
        self,
        pmis: Sequence[int],
        counts: PmiCounts,
        page: _Page,
        reason: int,
    ) -> None:
        self._tell_pmis(pmis, counts)
        if self.page is None and page is _NO_PAGE:
            return
        after = self._page_now()
        if after != page:
            self._tell_state(page, after, wrote=reason == _WRITE)
        elif (
            reason == _WRITE
            and self.page is not None
            and self.page.rejected
            and self._slot[exits.REPLY] & _FAULT
        ):
            self._tracer.state(Change.REFUSE, State.FROZEN, after.generation)

    def _tell_pmis(self, before: Sequence[int], counts: PmiCounts) -> None:
        after = _amounts(counts)
        if after != before:
            for (what, _), was, now in zip(_COUNTS, before, after, strict=True):
                for _ in range(now - was):
                    self._tracer.pmi(what)

    def _tell_state(self, before: _Page, after: _Page, *, wrote: bool) -> None:
        """One record for each change; a COMMIT may freeze again before its own VM-entry."""
        tell, generation = self._tracer.state, after.generation
        if generation != before.generation:
            if before.generation:
                tell(Change.UNREGISTER, State.TRAP_ONLY, before.generation)
            if generation:
                now = State.RUNNING if after.running else State.FROZEN
                tell(Change.REGISTER, now, generation)
            return
        froze = after.hold not in (-1, before.hold)
        if not before.running and (after.running or froze):
            # Whatever the exit was: a design without a COMMIT starts at the next one of any kind.
            tell(Change.COMMIT, State.RUNNING, generation)
        if froze:
            tell(Change.FREEZE, State.FROZEN, generation)
        elif before.running and not after.running:
            tell(Change.STOP if wrote else Change.OTHER, State.FROZEN, generation)


def _told(
    tracer: Tracer, kind: int, call: Callable[..., Any], numbers: dict[PerfEvent, int]
) -> Callable[..., Any]:
    """Wrap one kind of perf call. ``numbers``: of the host's events, in order of creation."""
    clock, tell, serial = tracer.clock, tracer.perf_call, itertools.count(1)

    def create(attr: Any, period: int, on_overflow: Callable[[], None]) -> PerfEvent | None:
        start = clock()
        event: PerfEvent | None = call(attr, period, on_overflow)
        number = next(serial)
        if event is not None:
            numbers[event] = number
        tell(kind, number, attr.kind, attr.modes, period, start)
        return event

    def other(event: PerfEvent, *arguments: int) -> Any:
        start = clock()
        result = call(event, *arguments)
        value = arguments[0] if kind == PERIOD else result or 0
        number = numbers.pop(event, 0) if kind == RELEASE else numbers.get(event, 0)
        tell(kind, number, event.kind, event.attr.modes, value, start)
        return result

    return create if kind == CREATE else other
