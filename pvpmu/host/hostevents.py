"""perf of one physical CPU: the host's own events, beside the vCPU thread's, which are KVM's.

Source: ``ctx_resched`` and ``perf_event_sched_in`` of ``kernel/events/core.c``: pinned events of
the CPU, pinned ones of the task (KVM's), then flexible ones of the CPU. Enabling a pinned event of
the task takes the CPU's flexible ones off and puts on again what fits. Pure.

**Invariants**: a pinned event never moves; a flexible one never keeps a guest's event off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.perf import Attr, PerfContext, PerfEvent
from pvpmu.shared.events import BY_NAME, KINDS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER
from pvpmu.shared.hostload import MAX_PERIOD, HostEvent, HostEventStats, HostLoad, HostLoadStats
from pvpmu.shared.units import Cycles

Retired = Sequence[int] | None


class OwnEvent:
    """One event of the host's load, and what it did since START. ``refused``: perf has no such."""

    __slots__ = ("event", "flexible", "refused", "running", "samples")

    def __init__(self, wanted: HostEvent) -> None:
        modes = MODE_USER | MODE_KERNEL if wanted.guest else 0
        attr = Attr(BY_NAME[wanted.name].kind, modes, pinned=wanted.pinned)
        on_overflow: Callable[[], None] = self._sample if wanted.period else _nothing
        self.flexible = not wanted.pinned
        self.refused = False
        self.samples = 0
        self.running: Cycles = 0
        self.event = PerfEvent(attr, wanted.period or MAX_PERIOD, on_overflow)

    def _sample(self) -> None:
        self.samples += 1


class CpuContext(PerfContext):
    """The context of one physical CPU with ``pmu``.

    ``load``: events that are there from the start, on the counters that nobody else has yet.
    """

    def __init__(self, pmu: PhysicalPmu, load: HostLoad) -> None:
        super().__init__(pmu)
        self._mux_cycles = load.mux_cycles
        self.load = [OwnEvent(wanted) for wanted in load.events]
        self._flexible = [own.event for own in self.load if own.flexible]
        self._rotate_necessary = False
        self._since_turn: Cycles = 0
        self._cycles: Cycles = 0
        self._missed = [0] * KINDS
        for own in self.load:
            self.events.append(own.event)
            if not own.flexible:
                self._put(own.event)
        self.refill()

    def make_room(self) -> None:
        """Flexible events come off: an event of the guest's is about to be enabled."""
        for event in self._flexible:
            if event.counter is not None:
                self._remove(event, event.counter)

    @property
    def flexible_on(self) -> int:
        """How many flexible events have a counter."""
        return sum(event.counter is not None for event in self._flexible)

    def refill(self) -> None:
        """Flexible events go on in turn, up to the first that does not fit."""
        self._rotate_necessary = False
        for event in self._flexible:
            if event.counter is None and not self._put(event):
                self._rotate_necessary = True
                return

    def retired(self, user: Retired, kernel: Retired) -> None:
        """So much was retired since VM-entry: time passes, and flexible events take turns."""
        cycles = sum(counts[0] for counts in (user, kernel) if counts is not None)
        self._cycles += cycles
        for own in self.load:
            if own.event.counter is not None:
                own.running += cycles
        self._since_turn += cycles
        if self._since_turn >= self._mux_cycles:
            self._since_turn %= self._mux_cycles
            if self._rotate_necessary:
                self.make_room()
                self._flexible.append(self._flexible.pop(0))
                self.refill()

    def miss(self, kind: int, modes: int, user: Retired, kernel: Retired) -> None:
        """A guest counter of this kind and modes that had no running event counted none of it."""
        for mode, counts in ((MODE_USER, user), (MODE_KERNEL, kernel)):
            if modes & mode and counts is not None:
                self._missed[kind] += counts[kind]

    def restart(self) -> None:
        """START: everything counts from 0, distances stay."""
        self._cycles = self.refused = 0
        self._missed = [0] * KINDS
        for own in self.load:
            self._settle(own.event)
            own.event.count = own.samples = own.running = 0

    def stats(self, refused: int) -> HostLoadStats:
        """STOP: what was counted since START; ``refused``: by the vCPU thread's context."""
        for own in self.load:
            self._settle(own.event)
        return HostLoadStats(
            [
                HostEventStats(own.samples, own.event.count, own.running, self._cycles, own.refused)
                for own in self.load
            ],
            refused,
            self._missed,
        )

    def _settle(self, event: PerfEvent) -> None:
        if event.counter is not None:
            self._update(event, event.counter)


def _nothing() -> None:
    return None
