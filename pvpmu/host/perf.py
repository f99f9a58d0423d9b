"""Host perf: contexts with their lock, and kernel-created events on the physical PMU.

Every interface takes the context lock. Calls are counted by kind, and so are hardware placements.
Source: ``kernel/events/core.c`` (``perf_event_pause``, ``perf_event_read_value``,
``perf_event_period``, ``perf_event_enable``, ``perf_event_release_kernel``,
``perf_event_create_kernel_counter``, ``perf_event_task_sched_out`` / ``_in``) and
``x86_perf_event_set_period`` / ``_update``.

**Invariants**: an event counts only while ACTIVE; a paused event's count is 0.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from pvpmu.host.hardware import Counter, PhysicalPmu
from pvpmu.shared.tally import (
    CREATE,
    DISABLE,
    ENABLE,
    LOCAL_READS,
    PAUSE,
    PERIOD,
    PLACEMENTS,
    READ_VALUE,
    RELEASE,
    SHARED_LOCKS,
    TALLY_WORDS,
    calls,
)

_MAX_PERIOD = 1 << 63


class State(enum.Enum):
    """perf_event states that matter here."""

    OFF = "off"
    ACTIVE = "active"
    ERROR = "error"
    """A pinned event that found no counter: it does not count and is not tried again."""


@dataclass(frozen=True, slots=True)
class Attr:
    """What to count (perf_event_attr).

    ``kind``: None is an event that this silicon does not have; ``modes``: what of the guest, a
    bitmap of MODE_USER and MODE_KERNEL (the opposite of exclude_user and exclude_kernel), 0 with
    exclude_guest. ``pinned``: it must be on a counter, and is in error when there is none.
    ``exclude_host``: nothing outside the guest counts. ``exclude_idle``: nor do idle cycles; x86
    takes this flag and does nothing about it, a task's events are off the counters then anyway.
    ``raw``: the selector behind a ``kind`` of None, for a machine that may have that event.
    """

    kind: int | None
    modes: int
    pinned: bool = False
    exclude_host: bool = False
    exclude_idle: bool = False
    raw: int | None = field(default=None, compare=False)


class PerfEvent:
    """A host perf_event: ``kind`` as in its ``attr``.

    ``count`` is since the last reset, ``left`` the distance to overflow. ``counter``: the one it
    is on, None unless ACTIVE; ``last``: the one it was on; ``prev``: what that had left when it was
    last looked at. ``masked``: VM-entry leaves that counter
    off in GLOBAL_CTRL. ``failed``: state ERROR.
    """

    __slots__ = (
        "attr",
        "count",
        "counter",
        "failed",
        "kind",
        "last",
        "left",
        "masked",
        "on_overflow",
        "period",
        "prev",
    )

    def __init__(self, attr: Attr, period: int, on_overflow: Callable[[], None]) -> None:
        self.attr = attr
        self.kind = attr.kind
        self.period = period
        self.left = 0
        self.count = 0
        self.prev = 0
        self.counter: Counter | None = None
        self.last: Counter | None = None
        self.masked = False
        self.failed = False
        self.on_overflow = on_overflow

    @property
    def state(self) -> State:
        """perf_event_state."""
        if self.counter is not None:
            return State.ACTIVE
        return State.ERROR if self.failed else State.OFF

    @property
    def counting(self) -> bool:
        """Whether it is on a counter that can count it."""
        return self.counter is not None and self.kind is not None


class Beside(Protocol):
    """The CPU's context, whose flexible events come after this one's pinned ones."""

    @property
    def flexible_on(self) -> int: ...
    def make_room(self) -> None: ...
    def refill(self) -> None: ...
    def take_overflows(self, status: int) -> None: ...


class PerfContext:
    """The perf context of one vCPU thread, or of one CPU. ``pmu``: that of the CPU it is on.

    ``events``: all that belong to it. ``beside``: the CPU's context, where events of it can
    overflow or are flexible. ``refused``: how often an event found no counter. ``tally`` is the
    list of counts in use: calls by kind, then PLACEMENTS, REDUNDANT. Its owner swaps it to
    attribute calls to places.
    """

    def __init__(self, pmu: PhysicalPmu) -> None:
        self.pmu = pmu
        self.events: list[PerfEvent] = []
        self.beside = None
        self.refused = 0
        self.tally = [0] * TALLY_WORDS
        self._active: list[PerfEvent] = []
        self._max_left = pmu.mask >> 1

    @property
    def beside(self) -> Beside | None:
        """The CPU's context, if its events matter."""
        return self._beside

    @beside.setter
    def beside(self, beside: Beside | None) -> None:
        self._beside = beside
        # Decided once, not at each start of a counter.
        self._install = self._put if beside is None else partial(self._put_before, beside)

    def create(self, attr: Attr, period: int, on_overflow: Callable[[], None]) -> PerfEvent | None:
        """perf_event_create_kernel_counter: returns None when the period is refused."""
        self.tally[CREATE] += 1
        if not 0 < period < _MAX_PERIOD:
            return None
        event = PerfEvent(attr, period, on_overflow)
        self.events.append(event)
        self.tally[PLACEMENTS] += self._install(event)
        return event

    def pause(self, event: PerfEvent) -> int:
        """perf_event_pause(event, reset=true): stop, return the count (64 bits), zero it."""
        self.tally[PAUSE] += 1
        counter = event.counter
        if counter is not None:
            self._remove(event, counter)
        event.failed = event.masked = False
        count = event.count
        event.count = 0
        return count

    def read_value(self, event: PerfEvent) -> int:
        """perf_event_read_value: the count, with a running counter's part pulled in."""
        self.tally[READ_VALUE] += 1
        if event.counter is not None:
            self._update(event, event.counter)
        return event.count

    def period(self, event: PerfEvent, period: int) -> bool:
        """perf_event_period: set the period; False when it is 0 or has bit 63 set."""
        self.tally[PERIOD] += 1
        if not 0 < period < _MAX_PERIOD:
            return False
        event.period = period
        counter = event.counter
        if counter is None:
            event.left = period
        else:
            self._update(event, counter)
            event.left = period
            self._restart(event, counter)
        return True

    def enable(self, event: PerfEvent) -> None:
        """perf_event_enable: put the event, and with it the whole context, on the counters."""
        tally = self.tally
        tally[ENABLE] += 1
        if event.counter is None:
            install = self._install
            tally[PLACEMENTS] += install(event)

    def disable(self, event: PerfEvent) -> None:
        """perf_event_disable: stop; the count stays."""
        self.tally[DISABLE] += 1
        event.masked = False
        if event.counter is not None:
            self._remove(event, event.counter)

    def release(self, event: PerfEvent) -> None:
        """perf_event_release_kernel: remove from the context and forget."""
        self.tally[RELEASE] += 1
        if event.counter is not None:
            self._remove(event, event.counter)
        self.events.remove(event)

    def sched_out(self) -> list[PerfEvent]:
        """The thread leaves its CPU: its events leave the counters; returns those that were on."""
        active = self._active.copy()
        for event in active:
            assert event.counter is not None
            self._remove(event, event.counter)
        return active

    def sched_in(self, events: list[PerfEvent], pmu: PhysicalPmu) -> None:
        """The thread comes to a CPU: ``events``, which were on counters, are placed on its PMU.

        Each is placed once, with the distance it had. On another CPU than before any counter will
        do: perf looks for the former one only where ``hw_perf_event.last_cpu`` is this CPU.
        """
        if pmu is not self.pmu:
            self.pmu = pmu
            for event in self.events:
                event.last = None
        for event in events:
            self._install(event)
        self.tally[PLACEMENTS] += len(self._active)

    # Without an interface of perf, and so without its lock: what code can do on the CPU that the
    # events are on, with interrupts off.

    def mask(self, event: PerfEvent) -> None:
        """From the next VM-entry on its counter is off in the guest; the event stays on it.

        Reads the counter as perf_event_read_local does, so that the event's count is exact.
        """
        event.masked = True
        if event.counter is not None:
            self.tally[LOCAL_READS] += 1
            self._update(event, event.counter)
            self.pmu.stop(event.counter)

    def unmask(self, event: PerfEvent) -> None:
        """From the next VM-entry on its counter counts on in the guest."""
        event.masked = False
        if event.counter is not None and event.kind is not None:
            self.pmu.start(event.counter)

    def rearm(self, event: PerfEvent, period: int) -> None:
        """In the PMI handler: overflow next after ``period`` counts from now."""
        event.period = event.left = period
        if event.counter is not None:
            self._restart(event, event.counter)

    def handle_nmi(self) -> None:
        """The host's PMI handler: take overflow status, reload, call overflow callbacks."""
        status = self.pmu.status
        self.pmu.status = 0
        if self._beside is not None:
            self._beside.take_overflows(status)
        self.take_overflows(status)

    def take_overflows(self, status: int) -> None:
        """Those of this context's events, by the counters' overflow ``status``."""
        # A copy: a callback may take its event off.
        for event in self._active.copy():
            counter = event.counter
            if counter is None or not counter.bit & status:
                continue
            self._update(event, counter)
            overflowed = event.left <= 0
            self._restart(event, counter)
            if overflowed:
                event.on_overflow()

    # A pinned event that is enabled has every event of the context taken off and placed again. The
    # others come back to the same counter with the same distance, so only the count changes.

    def _put_before(self, beside: Beside, event: PerfEvent) -> int:
        """Put an event on a counter, flexible ones of the CPU's after it: how many are placed."""
        beside.make_room()
        placed = self._put(event)
        beside.refill()
        return placed and placed + beside.flexible_on

    def _put(self, event: PerfEvent) -> int:
        """Put an event on a counter; returns how many are placed with it, 0 if there was none."""
        counter = event.last
        if counter is None or counter.owner is not event:
            counter = self._counter_for(event)
            if counter is None:
                event.failed = event.attr.pinned
                self.refused += 1
                return 0
        event.counter = counter
        self._reload(event, counter)
        active = self._active
        active.append(event)
        return len(active)

    def _remove(self, event: PerfEvent, counter: Counter) -> None:
        # _update, without a call for each counter that a handler stops.
        left = counter.left
        if left != event.prev:
            delta = event.prev - left
            if delta < 0:
                delta += counter.top
            event.count += delta
            event.left -= delta
        self.pmu.stop(counter)
        event.counter = None
        self._active.remove(event)

    def _counter_for(self, event: PerfEvent) -> Counter | None:
        """A counter, programmed for the event: its last one if that is free, else any that is."""
        counter = event.last
        if counter is None or counter.taken:
            counter = self._free_counter(event.kind) or self._vacated_counter()
        if counter is not None:
            self._program(counter, event)
        return counter

    def _program(self, counter: Counter, event: PerfEvent) -> None:
        counter.owner, event.last = event, counter
        attr = event.attr
        if event.kind is not None:
            self.pmu.program(counter, event.kind, attr.modes, host=not attr.exclude_host)

    def _free_counter(self, kind: int | None) -> Counter | None:
        for counter in self.pmu.counters:
            if not counter.taken and counter.fixed_kind in (None, kind):
                return counter
        return None

    def _vacated_counter(self) -> Counter | None:
        """Move an event from a GP counter to its free fixed one; returns what it leaves."""
        for fixed in self.pmu.counters:
            if fixed.taken or fixed.fixed_kind is None:
                continue
            for event in self._active:
                counter = event.counter
                movable = counter is not None and counter.fixed_kind is None
                if counter is not None and movable and event.kind == fixed.fixed_kind:
                    self._update(event, counter)
                    self.pmu.stop(counter)
                    self._program(fixed, event)
                    event.counter = fixed
                    self._reload(event, fixed)
                    return counter
        return None

    def _update(self, event: PerfEvent, counter: Counter) -> None:
        left = counter.left
        if left != event.prev:
            delta = event.prev - left
            if delta < 0:
                delta += counter.top
            event.prev = left
            event.count += delta
            event.left -= delta

    def _restart(self, event: PerfEvent, counter: Counter) -> None:
        self._reload(event, counter)
        self.tally[PLACEMENTS] += 1

    def _reload(self, event: PerfEvent, counter: Counter) -> None:
        left = event.left
        if left <= 0:
            period = event.period
            event.left = left = period if left <= -period else left + period
        if left > self._max_left:  # noqa: PLR1730 (hot path)
            left = self._max_left
        event.prev = counter.left = left
        if not event.masked and event.kind is not None:
            self.pmu.start(counter)


class SharedLockContext(PerfContext):
    """A context whose lock is taken once for all calls of one exit, with one reschedule.

    No such interface exists; the 2021 mail calls it impractical. Between :meth:`begin` and
    :meth:`end` lies one exit.
    """

    def __init__(self, pmu: PhysicalPmu) -> None:
        super().__init__(pmu)
        self._calls_before = 0
        self._enabled = False

    def begin(self) -> None:
        """An exit begins: nothing holds the lock."""
        self._calls_before = calls(self.tally)
        self._enabled = False

    def end(self) -> None:
        """It ends: count the lock once, and each event that is on a counter placed once."""
        made = calls(self.tally) - self._calls_before
        if made:
            self.tally[SHARED_LOCKS] += made - 1
        if self._enabled:
            self.tally[PLACEMENTS] += len(self._active)
            if self._beside is not None:
                self.tally[PLACEMENTS] += self._beside.flexible_on

    def _put(self, event: PerfEvent) -> int:
        self._enabled = super()._put(event) > 0 or self._enabled
        return 0
