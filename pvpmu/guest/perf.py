"""The guest's perf core: what asks the PMU driver to do things, and keeps the samples.

Source: ``kernel/events/core.c`` (``__perf_event_account_interrupt``, ``perf_adjust_period``,
``perf_adjust_freq_unthr_context``, ``perf_event_sched_in``, ``perf_rotate_context``,
``__perf_event_read``). Pure: the guest clock is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pvpmu.guest.perf_context import FLEXIBLE, PINNED, THROTTLED, EventContext
from pvpmu.guest.perf_event import EventConfig, PerfEvent, Sample, SampleLog, opened
from pvpmu.guest.pmu import HwEvent, PmuDriver
from pvpmu.guest.rate_limit import RateLimit
from pvpmu.shared.units import NS_PER_S, Ns


class PerfCore:
    """perf of one CPU: the events of one task, and those of the CPU itself, in opening order.

    ``on_sample``: told of each sample, after it was taken.
    """

    def __init__(
        self,
        driver: PmuDriver,
        configs: Sequence[EventConfig],
        *,
        hz: int,
        max_sample_rate: int,
        cpu_time_max_percent: int = 0,
        sample_capacity: int = 0,
    ) -> None:
        self._driver = driver
        # What is added to a step that shortens the period, before it is divided by 8.
        self._rounding = -7 if driver.generation.rounds_evenly else 7
        self._tick_ns = NS_PER_S // hz
        self.limit = RateLimit(
            hz=hz, max_sample_rate=max_sample_rate, cpu_time_max_percent=cpu_time_max_percent
        )
        self.events = [
            opened(number, config, driver.max_period) for number, config in enumerate(configs)
        ]
        self._cpu = EventContext(driver, [e for e in self.events if e.config.per_cpu])
        self._task = EventContext(driver, [e for e in self.events if not e.config.per_cpu])
        self._contexts = (self._cpu, self._task)
        self._by_hw = {event.hw: event for event in self.events}
        self._now: Ns = 0
        self._ip = 0
        self._tick_seq = 0
        self._throttled = 0
        self.throttles = 0
        self.on_sample: Callable[[PerfEvent], None] | None = None
        self.samples = SampleLog(sample_capacity)

    @property
    def rotates(self) -> bool:
        """Whether an event waits for a counter, so that the multiplexing timer runs."""
        return any(context.rotate_necessary for context in self._contexts)

    @property
    def counts_now(self) -> bool:
        """Whether an event has a counter."""
        return any(event.on for event in self.events)

    def start(self, now: Ns) -> None:
        """The CPU's own events are opened, before any task has the CPU."""
        self._cpu.schedule(now)
        if self._cpu.events:
            self._driver.disable()
            self._place()

    def stop(self, now: Ns) -> None:
        """The CPU's own events are closed."""
        self._cpu.account(now)
        if self._cpu.events:
            self._driver.disable()
            self._cpu.unschedule()
            self._driver.enable()

    def sched_in(self, now: Ns) -> None:
        """The task gets the CPU: put on as many events as fit."""
        self._cpu.account(now)
        self._task.schedule(now)
        if not self._task.events:
            return
        self._driver.disable()
        if self._task.pinned:
            self._cpu.take_off(FLEXIBLE)
        self._place()

    def sched_out(self, now: Ns) -> None:
        """The task loses the CPU, if it had it: take its events off, with their counts."""
        if not self._task.scheduled:
            return
        self._task.account(now)
        if self._task.events:
            self._driver.disable()
        self._task.unschedule()
        if self._task.events:
            self._driver.enable()

    def rotate(self, now: Ns) -> None:
        """Multiplexing: flexible events off, the first to the end, as many on as fit."""
        turning = [context for context in self._contexts if context.rotate_necessary]
        if not turning:
            return
        for context in self._contexts:
            context.account(now)
        self._driver.disable()
        # A task's events make room for the CPU's, not the other way round.
        self._task.take_off(FLEXIBLE)
        if self._cpu in turning:
            self._cpu.take_off(FLEXIBLE)
        for context in turning:
            context.rotate()
        self._place()

    def read(self) -> None:
        """Another process reads the counts: those on a counter need its present value."""
        for event in self.events:
            if event.on:
                self._driver.update(event.hw)

    def tick(self) -> None:
        """Timer tick: unthrottle, and adjust the period of frequency-mode events."""
        self._tick_seq += 1
        throttled, self._throttled = self._throttled, 0
        for context in (self._task, self._cpu):
            on = context.on
            if on and (throttled or context.has_frequency):
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
        if event.interrupts == THROTTLED:
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
        if self.on_sample is not None:
            self.on_sample(event)
        return throttle

    def _account_interrupt(self, event: PerfEvent, now: Ns) -> bool:
        throttle = False
        if event.interrupts_seq != self._tick_seq:
            event.interrupts_seq = self._tick_seq
            event.interrupts = 1
        else:
            event.interrupts += 1
            if event.interrupts >= self.limit.max_per_tick:
                self._throttled += 1
                self.throttles += 1
                event.interrupts = THROTTLED
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
        step = target - hw.sample_period
        step += 7 if step >= 0 else self._rounding
        hw.sample_period += step // 8 if step >= 0 else -(-step // 8)
        hw.sample_period = hw.sample_period or 1
        if hw.left > 8 * hw.sample_period:
            if not stopped:
                self._driver.stop(hw, update=True)
            hw.left = 0
            if not stopped:
                self._driver.start(hw, reload=True)

    def _place(self) -> None:
        """perf_event_sched_in, with the PMU disabled: pinned before flexible, CPU before task."""
        fresh = [
            event.hw
            for which in (PINNED, FLEXIBLE)
            for context in self._contexts
            for event in context.place(which)
        ]
        self._driver.enable(fresh)
