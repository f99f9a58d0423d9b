"""The events of one task or of one CPU, and which of them have counters.

Source: ``struct perf_event_context``; ``merge_sched_in``, ``ctx_sched_out``, ``rotate_ctx`` of
``kernel/events/core.c``. Pure.

**Invariants**: an event has a counter only while its context is scheduled; a pinned event that
found none stays in error; flexible ones go on in turn, up to the first that does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

from pvpmu.guest.perf_event import PerfEvent
from pvpmu.guest.pmu import PmuDriver
from pvpmu.shared.units import Ns

PINNED, FLEXIBLE = "pinned", "flexible"
"""The classes of events, the first one first."""
THROTTLED = -1
"""``PerfEvent.interrupts`` of an event that throttling stopped (MAX_INTERRUPTS)."""


class EventContext:
    """struct perf_event_context. ``rotate_necessary``: a flexible event found no counter."""

    def __init__(self, driver: PmuDriver, events: Sequence[PerfEvent]) -> None:
        self._driver = driver
        self.events = tuple(events)
        self.pinned = tuple(event for event in events if event.config.pinned)
        self._flexible = [event for event in events if not event.config.pinned]
        self.has_frequency = any(event.config.frequency for event in events)
        self.scheduled = False
        self.rotate_necessary = False
        self._placed = {PINNED: False, FLEXIBLE: False}

    @property
    def on(self) -> list[PerfEvent]:
        """The events that have a counter, in opening order."""
        return [event for event in self.events if event.on]

    def schedule(self, now: Ns) -> None:
        """Its task gets the CPU: time counts as enabled; :meth:`place` gives counters."""
        self.scheduled = True
        for event in self.events:
            event.since = now

    def account(self, now: Ns) -> None:
        """Bring enabled and running times up to date, if it is scheduled."""
        if self.scheduled:
            for event in self.events:
                event.account(now)

    def place(self, which: str) -> list[PerfEvent]:
        """Put PINNED or FLEXIBLE events on counters, unless they were; returns those that went on.

        As in Linux the first event that does not fit ends it (can_add_hw).
        """
        if not self.scheduled or self._placed[which]:
            return []
        self._placed[which] = True
        fresh: list[PerfEvent] = []
        for event in self.pinned if which == PINNED else self._flexible:
            if event.failed:
                continue
            if not self._driver.assign(event.hw):
                self._left_out(which)
                break
            if event.interrupts == THROTTLED:
                event.interrupts = 0
            fresh.append(event)
        return fresh

    def take_off(self, *classes: str) -> None:
        """Take events of these classes off their counters, with their counts."""
        for event in self.on:
            if (PINNED if event.config.pinned else FLEXIBLE) in classes:
                self._driver.release(event.hw)
        for which in classes:
            self._placed[which] = False
        if FLEXIBLE in classes:
            self.rotate_necessary = False

    def unschedule(self) -> None:
        """Its task loses the CPU: everything comes off."""
        self.take_off(PINNED, FLEXIBLE)
        self.scheduled = False

    def rotate(self) -> None:
        """The flexible event whose turn was first goes to the end."""
        if self._flexible:
            self._flexible.append(self._flexible.pop(0))

    def _left_out(self, which: str) -> None:
        if which == FLEXIBLE:
            self.rotate_necessary = True
            return
        for event in self.pinned:
            event.failed = event.failed or not event.on
