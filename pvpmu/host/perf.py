"""Host perf: one task context with its lock, and kernel-created events on the physical PMU.

Every interface takes the context lock and is counted by kind, as are locks and hardware
placements. Source: ``kernel/events/core.c`` (``perf_event_pause``, ``perf_event_read_value``,
``perf_event_period``, ``perf_event_enable``, ``perf_event_release_kernel``,
``perf_event_create_kernel_counter``) and ``x86_perf_event_set_period`` / ``_update``.

**Invariants**: an event counts only while ACTIVE; a paused event's count is 0.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from pvpmu.host.hardware import Counter, PhysicalPmu
from pvpmu.shared.tally import (
    CREATE,
    DISABLE,
    ENABLE,
    LOCKS,
    PAUSE,
    PERIOD,
    PLACEMENTS,
    READ_VALUE,
    RELEASE,
    TALLY_WORDS,
)

_MAX_PERIOD = 1 << 63


class State(enum.Enum):
    """perf_event states that matter here."""

    OFF = "off"
    ACTIVE = "active"
    ERROR = "error"
    """A pinned event that found no counter: it does not count and is not tried again."""


_OFF, _ACTIVE, _ERROR = State.OFF, State.ACTIVE, State.ERROR


@dataclass(frozen=True, slots=True)
class Attr:
    """What to count.

    ``kind``: None is an event that this silicon does not have; ``modes``: a bitmap of MODE_USER
    and MODE_KERNEL.
    """

    kind: int | None
    modes: int


class PerfEvent:
    """A host perf_event.

    ``count`` is since the last reset, ``left`` the distance to overflow; ``counting``: it is on a
    counter that can count it.
    """

    __slots__ = (
        "attr",
        "count",
        "counter",
        "counting",
        "last",
        "left",
        "on_overflow",
        "period",
        "prev",
        "state",
    )

    def __init__(self, attr: Attr, period: int, on_overflow: Callable[[], None]) -> None:
        self.attr = attr
        self.period = period
        self.left = 0
        self.count = 0
        self.prev = 0
        self.counter: Counter | None = None
        self.last: Counter | None = None
        self.state = _OFF
        self.counting = False
        self.on_overflow = on_overflow


class PerfContext:
    """The perf context of one vCPU thread.

    ``tally`` is the list of counts in use: calls by kind, then LOCKS, PLACEMENTS, REDUNDANT.
    Its owner swaps it to attribute calls to places.
    """

    def __init__(self, pmu: PhysicalPmu) -> None:
        self.pmu = pmu
        self.tally = [0] * TALLY_WORDS
        self._active: list[PerfEvent] = []
        self._mask = pmu.mask
        self._wrap = pmu.mask + 1
        self._max_left = pmu.mask >> 1

    def create(self, attr: Attr, period: int, on_overflow: Callable[[], None]) -> PerfEvent | None:
        """perf_event_create_kernel_counter: returns None when the period is refused."""
        tally = self.tally
        tally[CREATE] += 1
        tally[LOCKS] += 1
        if not 0 < period < _MAX_PERIOD:
            return None
        event = PerfEvent(attr, period, on_overflow)
        self._install(event)
        return event

    def pause(self, event: PerfEvent) -> int:
        """perf_event_pause(event, reset=true): stop, return the count (64 bits), zero it."""
        tally = self.tally
        tally[PAUSE] += 1
        tally[LOCKS] += 1
        if event.state is _ACTIVE:
            self._remove(event)
        elif event.state is _ERROR:
            event.state = _OFF
        count = event.count
        event.count = 0
        return count

    def read_value(self, event: PerfEvent) -> int:
        """perf_event_read_value: the count, with a running counter's part pulled in."""
        tally = self.tally
        tally[READ_VALUE] += 1
        tally[LOCKS] += 1
        if event.state is _ACTIVE:
            self._update(event)
        return event.count

    def period(self, event: PerfEvent, period: int) -> bool:
        """perf_event_period: set the period; False when it is 0 or has bit 63 set."""
        tally = self.tally
        tally[PERIOD] += 1
        tally[LOCKS] += 1
        if not 0 < period < _MAX_PERIOD:
            return False
        event.period = period
        if event.state is _ACTIVE:
            self._update(event)
            event.left = 0
            self._restart(event)
        else:
            event.left = 0
        return True

    def enable(self, event: PerfEvent) -> None:
        """perf_event_enable: put the event, and with it the whole context, on the counters."""
        tally = self.tally
        tally[ENABLE] += 1
        tally[LOCKS] += 1
        if event.state is not _ACTIVE:
            self._install(event)

    def disable(self, event: PerfEvent) -> None:
        """perf_event_disable: stop; the count stays."""
        tally = self.tally
        tally[DISABLE] += 1
        tally[LOCKS] += 1
        if event.state is _ACTIVE:
            self._remove(event)

    def release(self, event: PerfEvent) -> None:
        """perf_event_release_kernel: remove from the context and forget."""
        tally = self.tally
        tally[RELEASE] += 1
        tally[LOCKS] += 1
        if event.state is _ACTIVE:
            self._remove(event)

    def handle_nmi(self) -> None:
        """The host's PMI handler: take overflow status, reload, call overflow callbacks."""
        status = self.pmu.status
        self.pmu.status = 0
        for event in [e for e in self._active if e.counter and e.counter.bit & status]:
            self._update(event)
            overflowed = event.left <= 0
            self._restart(event)
            if overflowed:
                event.on_overflow()

    def _install(self, event: PerfEvent) -> None:
        counter = event.last
        if counter is None or counter.taken:
            kind = event.attr.kind
            counter = self._free_counter(kind) or self._vacated_counter()
            if counter is None:
                event.state = _ERROR
                return
        event.state = _ACTIVE
        event.counting = event.attr.kind is not None
        event.counter = event.last = counter
        counter.taken = True
        self._active.append(event)
        self._reload(event, counter)
        # A pinned event reschedules the whole context: every event of it is placed again. The
        # others come back to the same counter with the same distance, so only the count changes.
        self.tally[PLACEMENTS] += len(self._active)

    def _remove(self, event: PerfEvent) -> None:
        self._update(event)
        counter = event.counter
        assert counter is not None
        self.pmu.stop(counter)
        counter.taken = False
        event.counter = None
        self._active.remove(event)
        event.state = _OFF
        event.counting = False

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
                if counter is not None and movable and event.attr.kind == fixed.fixed_kind:
                    self._update(event)
                    self.pmu.stop(counter)
                    counter.taken, fixed.taken = False, True
                    event.counter = event.last = fixed
                    self._reload(event, fixed)
                    return counter
        return None

    def _update(self, event: PerfEvent) -> None:
        counter = event.counter
        assert counter is not None
        value = counter.value
        if value != event.prev:
            delta = (value - event.prev) & self._mask
            event.prev = value
            event.count += delta
            event.left -= delta

    def _restart(self, event: PerfEvent) -> None:
        assert event.counter is not None
        self._reload(event, event.counter)
        self.tally[PLACEMENTS] += 1

    def _reload(self, event: PerfEvent, counter: Counter) -> None:
        left = event.left
        if left <= 0:
            period = event.period
            event.left = left = period if left <= -period else left + period
        ahead = left if left < self._max_left else self._max_left  # noqa: FURB136 (hot path)
        event.prev = value = self._wrap - ahead
        kind = event.attr.kind
        if kind is None:
            counter.value = value
        else:
            self.pmu.start(counter, kind, event.attr.modes, value)
