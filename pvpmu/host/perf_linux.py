"""Host perf over perf_event_open(2): the interface of :mod:`pvpmu.host.perf`, on the kernel's own.

A call here is one of the kernel's interfaces (``perf_event_pause`` and so on), and takes one system
call or more: pause is DISABLE, read and RESET. Both are counted and timed, each for itself. Every
system call takes the context's lock in the kernel, as the interface does there.

* :class:`LinuxContext`: the events count, on this thread, and overflow by signal. For a vCPU's
  thread, where guest code runs.
* :class:`MirroredContext`: the model counts and overflows, as ever; each call is made on a real
  event as well, for its time. For a thread on which no guest code runs.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from pvpmu.host import perf_open
from pvpmu.host.hardware import Counter, PhysicalPmu
from pvpmu.host.perf import Attr, PerfContext, PerfEvent
from pvpmu.shared.calltimes import SYSTEM_CALLS, CallTimes
from pvpmu.shared.errors import ResourceError
from pvpmu.shared.events import (
    BRANCH_MISSES,
    BRANCHES,
    CACHE_MISSES,
    CACHE_REFERENCES,
    CYCLES,
    EVENTS,
    INSTRUCTIONS,
    REF_CYCLES,
)
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER
from pvpmu.shared.tally import (
    CREATE,
    DISABLE,
    ENABLE,
    PAUSE,
    PERIOD,
    READ_VALUE,
    RELEASE,
)
from pvpmu.shared.units import Ns

OVERFLOW_SIGNAL = signal.SIGRTMIN + 1
OVERFLOW_SIGNALS = frozenset((OVERFLOW_SIGNAL, signal.SIGIO))
"""The other comes instead where too many are pending already (fcntl(2), F_SETSIG)."""
_DISABLE, _ENABLE, _RESET, _PERIOD, _READ, _OPEN, _CLOSE = range(len(SYSTEM_CALLS))
_REQUESTS = {
    _DISABLE: perf_open.IOC_DISABLE,
    _ENABLE: perf_open.IOC_ENABLE,
    _RESET: perf_open.IOC_RESET,
}
_SW_DUMMY = 9
_HARDWARE = {
    CYCLES: 0, INSTRUCTIONS: 1, CACHE_REFERENCES: 2, CACHE_MISSES: 3, BRANCHES: 4,
    BRANCH_MISSES: 5, REF_CYCLES: 9,
}  # fmt: skip
_CLOCKS = {CYCLES: perf_open.SW_CPU_CLOCK, REF_CYCLES: perf_open.SW_TASK_CLOCK}
_RAW_KIND = -1
"""Of an event that this machine counts though it is no architectural one."""
_NEVER = 1 << 62
_MAX_PERIOD = 1 << 63
_F_SETSIG, _F_SETOWN_EX, _F_OWNER_TID = 10, 15, 0
_PLACED = Counter(0, None)
"""Where a real event is while it is enabled: the kernel does not say."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What stands for the architectural events here.

    ``of``: (type, config) by kind; a kind that lacks is an event that never counts. ``clocks``:
    the counts are ns of software clocks, which include the host's time on the thread.
    """

    of: dict[int, tuple[int, int]]
    clocks: bool

    def source_of(self, attr: Attr) -> tuple[int, int] | None:
        """Type and config of what an event is counted by; None if nothing here counts it."""
        if attr.kind is not None:
            return self.of.get(attr.kind)
        if attr.raw is None or self.clocks:
            return None
        return perf_open.TYPE_RAW, attr.raw

    @property
    def described(self) -> str:
        """In a line, for every report."""
        if not self.clocks:
            return "perf_event_open: hardware and raw events, pinned, exclude_host"
        missing = ", ".join(event.name for event in EVENTS if event.kind not in self.of)
        return (
            "perf_event_open without a PMU: cpu-clock stands for cpu-cycles and task-clock for "
            f"ref-cycles, in ns, and includes host time; {missing} are dummy events, which exist "
            "and never count"
        )


def sources_here() -> Sources:
    """Those of this machine."""
    if perf_open.has_pmu():
        found = {kind: (perf_open.TYPE_HARDWARE, config) for kind, config in _HARDWARE.items()}
        return Sources(found, clocks=False)
    clocks = {kind: (perf_open.TYPE_SOFTWARE, config) for kind, config in _CLOCKS.items()}
    return Sources(clocks, clocks=True)


def why_not() -> str | None:
    """Why no event can be made on this thread, None if one can."""
    try:
        handle = perf_open.opened(
            _attr_of(sources_here(), Attr(CYCLES, MODE_USER), _NEVER), "cycles"
        )
    except ResourceError as error:
        return str(error)
    os.close(handle)
    return None


class _Handles:
    """The system calls on events, counted and timed."""

    def __init__(self, sources: Sources, clock: Callable[[], Ns]) -> None:
        self._sources = sources
        self._clock = clock
        self.times = CallTimes()

    def open(self, attr: Attr, period: int, *, signals: bool) -> int:
        """A new event that counts at once, and sends OVERFLOW_SIGNAL to this thread if asked."""
        wanted = _attr_of(self._sources, attr, period)
        start = self._clock()
        handle = perf_open.opened(wanted, f"event of kind {attr.kind}")
        self._note(_OPEN, start)
        if signals:
            owner = struct.pack("ii", _F_OWNER_TID, threading.get_native_id())
            fcntl.fcntl(handle, _F_SETOWN_EX, owner)
            fcntl.fcntl(handle, _F_SETSIG, int(OVERFLOW_SIGNAL))
            fcntl.fcntl(handle, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        return handle

    def act(self, handle: int, what: int) -> None:
        """DISABLE, ENABLE or RESET."""
        start = self._clock()
        fcntl.ioctl(handle, _REQUESTS[what], 0)
        self._note(what, start)

    def read(self, handle: int) -> int:
        """The count."""
        start = self._clock()
        value = perf_open.value_of(handle)
        self._note(_READ, start)
        return value

    def period(self, handle: int, period: int) -> bool:
        """PERIOD; False if the kernel refuses."""
        start = self._clock()
        try:
            perf_open.set_period(handle, period)
        except OSError:
            return False
        finally:
            self._note(_PERIOD, start)
        return True

    def close(self, handle: int) -> None:
        """The event is gone."""
        start = self._clock()
        os.close(handle)
        self._note(_CLOSE, start)

    def _note(self, what: int, start: Ns) -> None:
        self.times.system[what] += 1
        self.times.system_ns[what] += self._clock() - start


class LinuxEvent(PerfEvent):
    """A perf_event of the kernel's. ``handle``: its file descriptor; -1 once released."""

    __slots__ = ("handle",)

    def __init__(self, attr: Attr, period: int, on_overflow: Callable[[], None]) -> None:
        super().__init__(attr, period, on_overflow)
        self.left = period
        self.handle = -1


class LinuxContext(PerfContext):
    """The events of this thread, by perf_event_open(2).

    ``clock``: wall ns. ``place``: the tally whose calls these are.

    An overflow is found where the count has reached the period: at
    :meth:`handle_nmi`, when the signal has interrupted the guest, or at a stop or read that comes
    first, as the interrupt would have.
    """

    def __init__(self, pmu: PhysicalPmu, sources: Sources, clock: Callable[[], Ns]) -> None:
        super().__init__(pmu)
        self._clock = clock
        self._sources = sources
        self._handles = _Handles(sources, clock)
        self.place: Callable[[], list[int]] = lambda: self.tally
        self.restart()

    def restart(self) -> None:
        """Times start at 0 here."""
        self.times = self._handles.times = CallTimes()
        self._by_place: dict[int, Ns] = {}

    def ns_in(self, tally: list[int]) -> Ns:
        """What calls took that were counted in this tally."""
        return self._by_place.get(id(tally), 0)

    def create(self, attr: Attr, period: int, on_overflow: Callable[[], None]) -> PerfEvent | None:
        self.tally[CREATE] += 1
        if not 0 < period < _MAX_PERIOD:
            return None
        start = self._clock()
        event = LinuxEvent(attr, period, on_overflow)
        event.handle = self._handles.open(attr, period, signals=True)
        self._place(event)
        self.events.append(event)
        self._note(CREATE, start)
        return event

    def pause(self, event: PerfEvent) -> int:
        self.tally[PAUSE] += 1
        handle, start = _handle(event), self._clock()
        self._handles.act(handle, _DISABLE)
        count = self._handles.read(handle)
        self._handles.act(handle, _RESET)
        self._note(PAUSE, start)
        if event.counter is not None:
            self._take(event, count)
            event.counter = None
        event.count = event.prev = 0
        return count

    def read_value(self, event: PerfEvent) -> int:
        self.tally[READ_VALUE] += 1
        start = self._clock()
        count = self._handles.read(_handle(event))
        self._note(READ_VALUE, start)
        self._take(event, count)
        return count

    def period(self, event: PerfEvent, period: int) -> bool:
        self.tally[PERIOD] += 1
        start = self._clock()
        done = 0 < period < _MAX_PERIOD and self._handles.period(_handle(event), period)
        self._note(PERIOD, start)
        if done:
            event.period = event.left = period
        return done

    def enable(self, event: PerfEvent) -> None:
        self.tally[ENABLE] += 1
        start = self._clock()
        self._handles.act(_handle(event), _ENABLE)
        self._note(ENABLE, start)
        self._place(event)

    def disable(self, event: PerfEvent) -> None:
        self.tally[DISABLE] += 1
        start = self._clock()
        self._handles.act(_handle(event), _DISABLE)
        self._note(DISABLE, start)
        event.counter = None

    def release(self, event: PerfEvent) -> None:
        self.tally[RELEASE] += 1
        start = self._clock()
        self._handles.close(_handle(event))
        self._note(RELEASE, start)
        event.counter = None
        self.events.remove(event)

    def rearm(self, event: PerfEvent, period: int) -> None:
        self._handles.period(_handle(event), period)
        event.period = event.left = period

    def handle_nmi(self) -> None:
        for event in self.events.copy():
            if event.counter is not None:
                self._take(event, self._handles.read(_handle(event)))

    def sched_out(self) -> list[PerfEvent]:
        """The kernel does that by itself."""
        return []

    def sched_in(self, events: list[PerfEvent], pmu: PhysicalPmu) -> None:
        """Likewise."""

    def close(self) -> None:
        """Every event is gone."""
        while self.events:
            event = self.events.pop()
            event.counter = None
            os.close(_handle(event))

    def _place(self, event: PerfEvent) -> None:
        event.counter = _PLACED
        if self._sources.source_of(event.attr) is None:
            event.kind = None
        elif event.kind is None:
            event.kind = _RAW_KIND

    def _take(self, event: PerfEvent, count: int) -> None:
        """Take a count that was read, and the overflow that it may mean."""
        event.left -= count - event.prev
        event.count = event.prev = count
        if event.left <= 0 and event.kind is not None:
            event.left += event.period if event.left > -event.period else -event.left + event.period
            event.on_overflow()

    def _note(self, kind: int, start: Ns) -> None:
        took = self._clock() - start
        self.times.calls[kind] += 1
        self.times.call_ns[kind] += took
        place = id(self.place())
        self._by_place[place] = self._by_place.get(place, 0) + took


class MirroredContext(PerfContext):
    """The model, and each of its calls on a real event of this thread as well, for its time."""

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
        event = super().create(attr, period, on_overflow)
        if event is not None:
            # It must never send a signal to a thread that waits for none.
            real = self._shadow.create(attr, _NEVER, _nothing)
            assert real is not None
            self._real[id(event)] = real
        return event

    def pause(self, event: PerfEvent) -> int:
        self._shadow.pause(self._real[id(event)])
        return super().pause(event)

    def read_value(self, event: PerfEvent) -> int:
        self._shadow.read_value(self._real[id(event)])
        return super().read_value(event)

    def period(self, event: PerfEvent, period: int) -> bool:
        self._shadow.period(self._real[id(event)], _NEVER)
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


def group_times(count: int, rounds: int, clock: Callable[[], Ns]) -> dict[str, list[Ns]]:
    """Stop and start so many events of this thread, ns: one after another, and as one group.

    By "apart" and "group". A group is what no interface of KVM's uses: one call for its leader.
    """
    sources = sources_here()
    attr = Attr(CYCLES, MODE_USER | MODE_KERNEL)
    found: dict[str, list[Ns]] = {}
    for name in ("apart", "group"):
        handles: list[int] = []
        try:
            for _ in range(count):
                leader = handles[0] if handles and name == "group" else -1
                wanted = _attr_of(sources, attr, _NEVER)
                handles.append(perf_open.opened(wanted, "a group's event", group=leader))
            targets, flag = (handles, 0) if name == "apart" else (handles[:1], perf_open.FLAG_GROUP)
            spans = found[name] = []
            for _ in range(rounds):
                start = clock()
                for request in (perf_open.IOC_DISABLE, perf_open.IOC_ENABLE):
                    for handle in targets:
                        fcntl.ioctl(handle, request, flag)
                spans.append(clock() - start)
        finally:
            for handle in handles:
                os.close(handle)
    return found


def _attr_of(sources: Sources, attr: Attr, period: int) -> perf_open.Attr:
    """perf_event_attr as KVM asks for it, of what this machine has."""
    kind, config = sources.source_of(attr) or (perf_open.TYPE_SOFTWARE, _SW_DUMMY)
    flags = 0
    if kind in (perf_open.TYPE_HARDWARE, perf_open.TYPE_RAW):
        flags = perf_open.PINNED | perf_open.EXCLUDE_HOST | perf_open.EXCLUDE_IDLE
        flags |= 0 if attr.modes & MODE_USER else perf_open.EXCLUDE_USER
        flags |= 0 if attr.modes & MODE_KERNEL else perf_open.EXCLUDE_KERNEL
    return perf_open.Attr(type=kind, config=config, sample_period=period, flags=flags)


def _handle(event: PerfEvent) -> int:
    assert isinstance(event, LinuxEvent)
    return event.handle


def _nothing() -> None:
    return None
