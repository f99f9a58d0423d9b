"""Host perf whose calls are made on real events, for their time, while the model counts.

* :class:`MirroredContext`: it counts all events. For a thread on which no guest code runs.
* :class:`MixedContext`: it counts those that the kernel has none for. For a vCPU's thread.
"""

from __future__ import annotations

from collections.abc import Callable

from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.perf import Attr, PerfContext, PerfEvent
from pvpmu.host.perf_linux import MAX_PERIOD, NEVER, LinuxContext, LinuxEvent
from pvpmu.host.perf_sources import Sources
from pvpmu.shared.calltimes import CallTimes
from pvpmu.shared.tally import CREATE, DISABLE, ENABLE, PAUSE, PERIOD, READ_VALUE, RELEASE
from pvpmu.shared.units import Ns


class MirroredContext(PerfContext):
    """The model, and each of its calls on a real event of this thread as well, for its time.

    What the kernel refuses, the model does not count either.
    """

    def __init__(self, pmu: PhysicalPmu, sources: Sources, clock: Callable[[], Ns]) -> None:
        super().__init__(pmu)
        self._shadow = LinuxContext(pmu, sources, clock)
        self._shadow.place = lambda: self.tally
        self._real: dict[int, PerfEvent] = {}

    @property
    def times(self) -> CallTimes:
        """What the calls took, on the real events."""
        return self._shadow.times

    def restart(self) -> None:
        """Times start at 0 here."""
        self._shadow.restart()

    def ns_in(self, tally: list[int]) -> Ns:
        """What calls took that were counted in this tally."""
        return self._shadow.ns_in(tally)

    def create(self, attr: Attr, period: int, on_overflow: Callable[[], None]) -> PerfEvent | None:
        real = None
        if 0 < period < MAX_PERIOD:
            # It must never send a signal to a thread that waits for none.
            real = self._shadow.create(attr, NEVER, _nothing)
            if real is None:
                self.tally[CREATE] += 1
                return None
        event = super().create(attr, period, on_overflow)
        if event is not None and real is not None:
            self._real[id(event)] = real
        return event

    def pause(self, event: PerfEvent) -> int:
        self._shadow.pause(self._real[id(event)])
        return super().pause(event)

    def read_value(self, event: PerfEvent) -> int:
        self._shadow.read_value(self._real[id(event)])
        return super().read_value(event)

    def period(self, event: PerfEvent, period: int) -> bool:
        self._shadow.period(self._real[id(event)], NEVER)
        return super().period(event, period)

    def enable(self, event: PerfEvent) -> None:
        self._shadow.enable(self._real[id(event)])
        super().enable(event)

    def disable(self, event: PerfEvent) -> None:
        self._shadow.disable(self._real[id(event)])
        super().disable(event)

    def release(self, event: PerfEvent) -> None:
        self._shadow.release(self._real.pop(id(event)))
        super().release(event)

    def close(self) -> None:
        """Every real event is gone."""
        self._real.clear()
        self._shadow.close()


class MixedContext(MirroredContext):
    """The kernel's own events, and of those that it lacks the model's, mirrored.

    ``pmu`` counts the model's only: what the guest's program tells that it retires is not counted
    twice.
    """

    def __init__(self, pmu: PhysicalPmu, sources: Sources, clock: Callable[[], Ns]) -> None:
        super().__init__(pmu, sources, clock)
        self._sources = sources

    def create(self, attr: Attr, period: int, on_overflow: Callable[[], None]) -> PerfEvent | None:
        if self._sources.source_of(attr) is None:
            return super().create(attr, period, on_overflow)
        self.tally[CREATE] += 1
        event = self._shadow.create(attr, period, on_overflow)
        if event is not None:
            self.events.append(event)
        return event

    def pause(self, event: PerfEvent) -> int:
        if not isinstance(event, LinuxEvent):
            return super().pause(event)
        self.tally[PAUSE] += 1
        return self._shadow.pause(event)

    def read_value(self, event: PerfEvent) -> int:
        if not isinstance(event, LinuxEvent):
            return super().read_value(event)
        self.tally[READ_VALUE] += 1
        return self._shadow.read_value(event)

    def period(self, event: PerfEvent, period: int) -> bool:
        if not isinstance(event, LinuxEvent):
            return super().period(event, period)
        self.tally[PERIOD] += 1
        return self._shadow.period(event, period)

    def enable(self, event: PerfEvent) -> None:
        if not isinstance(event, LinuxEvent):
            super().enable(event)
            return
        self.tally[ENABLE] += 1
        self._shadow.enable(event)

    def disable(self, event: PerfEvent) -> None:
        if not isinstance(event, LinuxEvent):
            super().disable(event)
            return
        self.tally[DISABLE] += 1
        self._shadow.disable(event)

    def release(self, event: PerfEvent) -> None:
        if not isinstance(event, LinuxEvent):
            super().release(event)
            return
        self.tally[RELEASE] += 1
        self._shadow.release(event)
        self.events.remove(event)

    def rearm(self, event: PerfEvent, period: int) -> None:
        if isinstance(event, LinuxEvent):
            self._shadow.rearm(event, period)
        else:
            super().rearm(event, period)

    def handle_nmi(self) -> None:
        super().handle_nmi()
        self._shadow.handle_nmi()


def _nothing() -> None:
    return None
