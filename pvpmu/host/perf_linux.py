"""Host perf over perf_event_open(2): the interface of :mod:`pvpmu.host.perf`, on the kernel's own.

A call here is one of the kernel's interfaces (``perf_event_pause`` and so on), and takes one system
call or more: pause is DISABLE, read and RESET. Both are counted and timed, each for itself. Every
system call takes the context's lock in the kernel, as the interface does there. The events count
on this thread, and overflow by signal.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import threading
from collections.abc import Callable

from pvpmu.host import perf_open
from pvpmu.host.hardware import PHYSICAL_WIDTH, Counter, PhysicalPmu
from pvpmu.host.perf import Attr, PerfContext, PerfEvent
from pvpmu.host.perf_sources import Sources, attr_of, sources_here
from pvpmu.shared.calltimes import SYSTEM_CALLS, CallTimes
from pvpmu.shared.events import CYCLES
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
_RAW_KIND = -1
"""Of an event that this machine counts though it is no architectural one."""
NEVER = 1 << 62
"""A period: no overflow comes."""
MAX_PERIOD = 1 << 63
_F_SETSIG, _F_SETOWN_EX, _F_OWNER_TID = 10, 15, 0
_PLACED = Counter(0, None, PHYSICAL_WIDTH)
"""Where a real event is while it is enabled: the kernel does not say."""


class _Handles:
    """The system calls on events, counted and timed."""

    def __init__(self, sources: Sources, clock: Callable[[], Ns]) -> None:
        self._sources = sources
        self._clock = clock
        self.times = CallTimes()

    def open(self, attr: Attr, period: int, *, signals: bool) -> int:
        """A new event that counts at once, and sends OVERFLOW_SIGNAL to this thread if asked.

        Raises :class:`MissingEventError` where the kernel has none such.
        """
        wanted = attr_of(self._sources, attr, period)
        start = self._clock()
        try:
            handle = perf_open.opened(wanted, f"event of kind {attr.kind}")
        finally:
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
    first, as the interrupt would have. An event that ``sources`` lack is refused or a dummy that
    never counts, as they say.
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
        """As the model's; None also for an event that the kernel refuses (ENOENT)."""
        self.tally[CREATE] += 1
        if not 0 < period < MAX_PERIOD:
            return None
        start = self._clock()
        event = LinuxEvent(attr, period, on_overflow)
        try:
            event.handle = self._handles.open(attr, period, signals=True)
        except perf_open.MissingEventError:
            return None
        finally:
            self._note(CREATE, start)
        self._place(event)
        self.events.append(event)
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
        done = 0 < period < MAX_PERIOD and self._handles.period(_handle(event), period)
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
            if event.counting:
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
                wanted = attr_of(sources, attr, NEVER)
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


def _handle(event: PerfEvent) -> int:
    assert isinstance(event, LinuxEvent)
    return event.handle
