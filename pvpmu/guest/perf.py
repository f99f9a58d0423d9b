"""The guest's perf core: what asks the PMU driver to do things, and keeps the samples.

Source: ``kernel/events/core.c`` (``__perf_event_account_interrupt``, ``perf_adjust_period``,
``perf_adjust_freq_unthr_context``, ``rotate_ctx``). Pure: the guest clock is passed in.

**Invariants**: the sample buffer never exceeds its capacity; the digest covers every sample.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pvpmu.guest.pmu import HwEvent, PmuDriver
from pvpmu.shared.events import Event
from pvpmu.shared.units import NS_PER_S, Ns

_THROTTLED = -1
_SAMPLE = struct.Struct("<QIQQQ")


@dataclass(frozen=True, slots=True)
class EventConfig:
    """One event to open: ``frequency`` in Hz, or ``period`` in counts, or neither (counting).

    With a frequency, ``initial_period`` is where the adjustment starts (counts).
    """

    event: Event
    frequency: int = 0
    period: int = 0
    initial_period: int = 1


@dataclass(slots=True, eq=False)
class PerfEvent:
    """struct perf_event in the guest. Times are ns of guest clock."""

    number: int
    config: EventConfig
    hw: HwEvent
    interrupts: int = 0
    interrupts_seq: int = -1
    freq_time: Ns = 0
    freq_count: int = 0
    enabled_ns: Ns = 0
    running_ns: Ns = 0
    since: Ns = 0
    samples: int = 0

    @property
    def sampling(self) -> bool:
        """Whether overflows are samples."""
        return bool(self.config.frequency or self.config.period)


class Sample(NamedTuple):
    """One sample: guest clock (ns), event number, virtual ip, period (counts), event count."""

    time: Ns
    event: int
    ip: int
    period: int
    event_count: int


@dataclass(slots=True)
class SampleLog:
    """Counts and digests all samples, keeps the last ``capacity`` of them."""

    capacity: int
    total: int = 0
    kept: deque[Sample] = field(init=False)
    _digest: hashlib._Hash = field(init=False)

    def __post_init__(self) -> None:
        self.kept = deque(maxlen=self.capacity)
        self._digest = hashlib.sha256()

    def add(self, sample: Sample) -> None:
        """Record one sample."""
        self.total += 1
        self.kept.append(sample)
        self._digest.update(_SAMPLE.pack(*sample))

    @property
    def digest(self) -> str:
        """SHA-256 over all samples in order, hex."""
        return self._digest.hexdigest()


class PerfCore:
    """perf of one CPU: the events of one task, in opening order."""

    def __init__(
        self,
        driver: PmuDriver,
        configs: Sequence[EventConfig],
        *,
        hz: int,
        max_sample_rate: int,
        sample_capacity: int = 0,
    ) -> None:
        self._driver = driver
        self._tick_ns = NS_PER_S // hz
        self._max_samples_per_tick = -(-max_sample_rate // hz)
        self.events = [
            _open(number, config, driver.max_period) for number, config in enumerate(configs)
        ]
        self._order = list(self.events)
        self._in: list[PerfEvent] = []
        self._by_hw = {event.hw: event for event in self.events}
        self._now: Ns = 0
        self._ip = 0
        self._scheduled = False
        self._tick_seq = 0
        self._throttled = 0
        self.throttles = 0
        self.samples = SampleLog(sample_capacity)

    @property
    def rotates(self) -> bool:
        """Whether events outnumber counters."""
        return self._scheduled and len(self._in) < len(self.events)

    def sched_in(self, now: Ns) -> None:
        """The task gets the CPU: put on as many events as fit."""
        self._scheduled = True
        for event in self.events:
            event.since = now
        self._driver.disable()
        self._driver.enable([event.hw for event in self._place(now)])

    def sched_out(self, now: Ns) -> None:
        """The task loses the CPU, if it had it: take every event off, with its count."""
        if not self._scheduled:
            return
        self._account(now)
        self._driver.disable()
        self._take_off()
        self._driver.enable()
        self._scheduled = False

    def rotate(self, now: Ns) -> None:
        """Multiplexing: all flexible events off, the first to the end, as many on as fit."""
        if not self.rotates:
            return
        self._account(now)
        self._driver.disable()
        self._take_off()
        self._order.append(self._order.pop(0))
        self._driver.enable([event.hw for event in self._place(now)])

    def tick(self) -> None:
        """Timer tick: unthrottle, and adjust the period of frequency-mode events."""
        self._tick_seq += 1
        throttled, self._throttled = self._throttled, 0
        on = [event for event in self._in if event.hw.counter is not None]
        if not throttled and not any(event.config.frequency for event in on):
            return
        self._driver.disable()
        for event in on:
            self._tick_event(event)
        self._driver.enable()

    def handle_nmi(self, now: Ns, ip: int) -> int:
        """The NMI handler; returns the number of status bits handled."""
        self._now, self._ip = now, ip
        return self._driver.handle_pmi(self._overflow)

    def _tick_event(self, event: PerfEvent) -> None:
        hw, driver = event.hw, self._driver
        if event.interrupts == _THROTTLED:
            event.interrupts = 0
            driver.start(hw, reload=False)
        if not event.config.frequency:
            return
        driver.stop(hw, update=True)
        delta = hw.count - event.freq_count
        event.freq_count = hw.count
        if delta > 0:
            self._adjust_period(event, self._tick_ns, delta, stopped=True)
        driver.start(hw, reload=delta > 0)

    def _overflow(self, hw: HwEvent) -> bool:
        """perf_event_overflow, inside :meth:`handle_nmi`."""
        event = self._by_hw[hw]
        if not event.sampling:
            return False
        now = self._now
        throttle = self._account_interrupt(event, now)
        event.samples += 1
        self.samples.add(Sample(now, event.number, self._ip, hw.last_period, hw.count))
        return throttle

    def _account_interrupt(self, event: PerfEvent, now: Ns) -> bool:
        throttle = False
        if event.interrupts_seq != self._tick_seq:
            event.interrupts_seq = self._tick_seq
            event.interrupts = 1
        else:
            event.interrupts += 1
            if event.interrupts >= self._max_samples_per_tick:
                self._throttled += 1
                self.throttles += 1
                event.interrupts = _THROTTLED
                throttle = True
        if event.config.frequency:
            elapsed = now - event.freq_time
            event.freq_time = now
            if 0 < elapsed < 2 * self._tick_ns:
                self._adjust_period(event, elapsed, event.hw.last_period, stopped=False)
        return throttle

    def _adjust_period(self, event: PerfEvent, elapsed: Ns, count: int, *, stopped: bool) -> None:
        """perf_adjust_period: move 1/8 of the way to the period that gives the frequency."""
        hw = event.hw
        target = count * NS_PER_S // (elapsed * event.config.frequency)
        step = target - hw.sample_period + 7
        hw.sample_period += step // 8 if step >= 0 else -(-step // 8)
        hw.sample_period = hw.sample_period or 1
        if hw.left > 8 * hw.sample_period:
            if not stopped:
                self._driver.stop(hw, update=True)
            hw.left = 0
            if not stopped:
                self._driver.start(hw, reload=True)

    def _place(self, now: Ns) -> list[PerfEvent]:
        for event in self._order:
            # Linux stops at the first event that does not fit (can_add_hw).
            if not self._driver.assign(event.hw):
                break
            event.since = now
            self._in.append(event)
        return self._in

    def _take_off(self) -> None:
        for event in self._in:
            self._driver.release(event.hw)
        self._in = []

    def _account(self, now: Ns) -> None:
        for event in self.events:
            elapsed = now - event.since
            event.enabled_ns += elapsed
            if event in self._in:
                event.running_ns += elapsed
            event.since = now


def _open(number: int, config: EventConfig, longest: int) -> PerfEvent:
    counting = not (config.frequency or config.period)
    # A counting event still needs a period: as in Linux, the longest the driver can program.
    period = longest if counting else config.period or config.initial_period
    hw = HwEvent(config.event, period, left=period)
    return PerfEvent(number, config, hw)
