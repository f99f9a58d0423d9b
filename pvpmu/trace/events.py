"""Read event lines: ``trace-cmd report``, ftrace's ``trace``, ``perf script``; one event a line.

What stands before the time stamp (command, thread, CPU, flags) takes few different values, so a
line is cut at its first ``": "``, and what is before is looked up; only a new one is examined.

**Invariants**: memory does not depend on the length of a trace.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pvpmu.shared.histogram import Histogram
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.trace import eventtext
from pvpmu.trace.counts import Access, Counts
from pvpmu.trace.names import (
    MsrClass,
    exit_name,
    msr_class,
)
from pvpmu.trace.tokens import (
    DETAIL_OF,
    RDPMC_TOKEN,
    Control,
    Token,
    control_of,
    fields_of,
    token_of,
)
from pvpmu.trace.tracker import Shapes, Sink, Tracker

_MAX_PREFIXES = 1 << 16
_MAX_THREADS = 1 << 12
_MAX_EVENTS = 1 << 10
_MAX_BODIES = 1 << 13
_LONGEST_STAMP = 25
"""As in eventtext.PREFIX: 12 digits, a point, 12 digits."""
_REST = -1
"""Stands for the threads beyond those that are followed."""
_FURTHER = b"(further ones)"
"""Stands for names beyond those that are kept apart."""

_UNSEEN = b"\0"
"""Begins no event: a thread's first exit is looked at."""

_PLAIN = Control.PLAIN


@dataclass(slots=True, eq=False)
class Thread:
    """One thread of the trace. ``vcpu``: its number where the trace says it, else None.

    ``exits``: by reason as printed. ``exit_stamp``: time of its last exit. ``says``: how its
    kvm_exit events begin, where that is the vCPU's number. ``several``: they have several numbers.
    """

    tid: int
    comm: str
    vcpu: int | None
    tracker: Tracker
    exits: Counter[bytes] = field(default_factory=Counter)
    exit_stamp: bytes = b""
    says: bytes = _UNSEEN
    several: bool = False


class _Kind(enum.Enum):
    MSR = 0
    EXIT = 1
    OTHER = 2


@dataclass(slots=True, eq=False)
class _Event:
    """An event of the trace, however it is spelled (with its system's name, a period)."""

    name: str
    kind: _Kind
    count: int = 0


@dataclass(slots=True, eq=False)
class _Msr:
    """What kvm_msr lines of one text, or of one beginning, stand for."""

    access: Access
    pmu: bool
    fault: bool = False
    token: Token = 0
    control: Control = _PLAIN
    count: int = 0


class EventReader:
    """Takes blocks of lines; everything that was read is in its attributes after ``finish``.

    ``lines``: how many. ``events``: by name. ``lost``: how often the tracer says that it lost
    events. ``back_in_time``: exits that the same thread's exit before them is later than.
    ``styles``: how lines name a thread, and the first line that does so (``dash``: ftrace and
    trace-cmd; ``space``: perf). ``handler_ns``: from a handler's first exit to its last one.

    ``on_odd`` is told number and text of each line that is neither an event, a heading nor a
    tracer's note. ``sink_of``: makes for each thread what takes its operations in order.
    """

    def __init__(self, sink_of: Callable[[Thread], Sink] | None = None) -> None:
        self.counts = Counts()
        self.lines = 0
        self.on_odd: Callable[[int, bytes], None] = lambda _number, _line: None
        self.events: Counter[str] = Counter()
        self.lost = 0
        self.back_in_time = 0
        self.styles: dict[str, int] = {}
        self.shapes = Shapes()
        self.handler_ns = Histogram()
        self.first_stamp = self.last_stamp = b""
        self.threads: dict[int, Thread] = {}
        self._sink_of = sink_of
        self._prefixes: dict[bytes, Thread] = {}
        self._events: dict[bytes, _Event] = {}
        self._named: dict[str, _Event] = {}
        self._bodies: dict[bytes, _Msr] = {}
        self._beginnings: dict[bytes, _Msr] = {}
        self._reasons: dict[tuple[bytes, bool], bytes] = {}
        self._spelled: set[bytes] = set()
        self._rdpmc: set[bytes] = set()
        self._further = _Event(_FURTHER.decode(), _Kind.OTHER)
        self._stamp = b""

    @property
    def duration_ns(self) -> int:
        """From the first event to the last."""
        return (
            max(eventtext.ns_of(self.last_stamp) - eventtext.ns_of(self.first_stamp), 0)
            if self.first_stamp
            else 0
        )

    @property
    def ignored_threads(self) -> bool:
        """Whether there were more threads than are followed."""
        return _REST in self.threads

    def feed(self, block: bytes) -> None:
        """Take whole lines."""
        prefixes, events = self._prefixes, self._events
        for line in block.splitlines():
            self.lines += 1
            head, _, rest = line.partition(b": ")
            prefix, _, stamp = head.rpartition(b" ")
            thread = prefixes.get(prefix)
            if thread is None:
                found = self._new_prefix(prefix, line)
                if found is None:
                    continue
                thread, stamp, rest = found
            elif len(stamp) > _LONGEST_STAMP or not stamp.replace(b".", b"", 1).isdigit():
                self.on_odd(self.lines, line)
                continue
            name, _, body = rest.partition(b": ")
            event = events.get(name)
            if event is None:
                event = self._new_event(name)
                if event is None:
                    self._no_event(line)
                    continue
            event.count += 1
            if (event.kind is _IS_MSR and not self._msr(thread, body, stamp)) or (
                event.kind is _IS_EXIT and not self._exit(thread, body, stamp)
            ):
                event.count -= 1
                self.on_odd(self.lines, line)
                continue
            self._stamp = stamp

    def _msr(self, thread: Thread, body: bytes, stamp: bytes) -> bool:
        """Take a kvm_msr event; returns whether it was understood."""
        msr = self._bodies.get(body)
        if msr is None:
            beginning, text, value = body.partition(b" = ")
            if text:
                # An instruction's address and symbol may follow, which end in a parenthesis, too.
                worked = _FAULT not in value
            else:
                beginning, _, value = body.partition(b" data=")
                worked = value.endswith(b"exception=0")
            msr = self._beginnings.get(beginning)
            if msr is None or not worked:
                msr = self._new_msr(body, beginning)
                if msr is None:
                    return False
        msr.count += 1
        if msr.pmu:
            thread.tracker.access(msr.token, msr.control, body, thread.exit_stamp or stamp)
        return True

    def _exit(self, thread: Thread, body: bytes, stamp: bytes) -> bool:
        """Take a kvm_exit event; returns whether it was understood."""
        at = body.find(b"reason ")
        reason = body[at + 7 :].partition(b" ")[0] if at >= 0 else b"UNKNOWN"
        if reason == b"UNKNOWN":
            reason = self._odd_reason(body)
            if not reason:
                return False
        if reason not in self._spelled:
            if len(self._spelled) < _MAX_EVENTS:
                self._spelled.add(reason)
                # However it is spelled: counted and in order it must be the same.
                if exit_name(reason.decode("ascii", "replace")) == "RDPMC":
                    self._rdpmc.add(reason)
            else:
                reason = _FURTHER
        if stamp < thread.exit_stamp and _before(stamp, thread.exit_stamp):
            self.back_in_time += 1
        thread.exit_stamp = stamp
        thread.exits[reason] += 1
        if reason in self._rdpmc:
            thread.tracker.access(RDPMC_TOKEN, _PLAIN, b"", stamp)
        if not body.startswith(thread.says):
            _look_for_vcpu(thread, body)
        return True

    def finish(self) -> None:
        """The input has ended: close what is open and add everything up."""
        for thread in self.threads.values():
            thread.tracker.finish()
            for reason, count in thread.exits.items():
                self.counts.add_exit(exit_name(reason.decode("ascii", "replace")), count)
        self._fold_bodies()
        for event in (*self._named.values(), self._further):
            if event.count:
                self.events[event.name] += event.count
        self.last_stamp = self._stamp

    # What is new -----------------------------------------------------------------------------

    def _new_prefix(self, prefix: bytes, line: bytes) -> tuple[Thread, bytes, bytes] | None:
        """Find the thread of a line whose beginning is new: it, the time stamp and the rest."""
        if eventtext.CHAIN.match(line):
            return None
        found = eventtext.PREFIX.match(line)
        if found is None:
            self._no_event(line)
            return None
        style = "dash" if found["dash"] == b"-" else "space"
        self.styles.setdefault(style, self.lines)
        tid = int(found["tid"] or found["pid"])
        thread = self.threads.get(tid)
        if thread is None:
            # perf script prints none without -F comm.
            thread = self._new_thread(tid, (found["comm"] or b"").strip())
        stamp = found["stamp"]
        self.first_stamp = self.first_stamp or stamp
        if line.startswith(prefix + b" " + stamp):
            if len(self._prefixes) >= _MAX_PREFIXES:
                self._prefixes.clear()
            self._prefixes[prefix] = thread
        return thread, stamp, line[found.end() - 1 :]

    def _new_thread(self, tid: int, comm: bytes) -> Thread:
        number = _REST if len(self.threads) >= _MAX_THREADS else tid
        thread = self.threads.get(number)
        if thread is None:
            vcpu = eventtext.COMM_VCPU.search(comm)
            tracker = Tracker(self.shapes, self._time_handler)
            thread = Thread(
                number, comm.decode("utf-8", "replace"), int(vcpu[1]) if vcpu else None, tracker
            )
            if self._sink_of is not None:
                tracker.sink = self._sink_of(thread)
            self.threads[number] = thread
        return thread

    def _new_event(self, spelled: bytes) -> _Event | None:
        found = eventtext.EVENT.match(spelled)
        if found is None:
            return None
        name = found[1].decode("ascii")
        event = self._named.get(name)
        if event is None:
            kind = _KIND_OF.get(name, _Kind.OTHER)
            if len(self._named) >= _MAX_EVENTS and kind is _Kind.OTHER:
                return self._further
            event = self._named[name] = _Event(name, kind)
        if len(self._events) >= _MAX_EVENTS:
            self._events.clear()
        self._events[spelled] = event
        return event

    def _new_msr(self, body: bytes, beginning: bytes) -> _Msr | None:
        """Read a kvm_msr event of a text that is new."""
        parsed = eventtext.parse_msr(body)
        if parsed is None:
            return None
        op, address, number, fault = parsed
        msr = _Msr((op, address), pmu=False, fault=fault)
        if not fault and msr_class(op, address) is MsrClass.PMU:
            register = BY_ADDRESS[address]
            msr.pmu = True
            msr.token = token_of(op, address, number)
            msr.control = control_of(op, register, fields_of(msr.token).detail)
            if register.role in DETAIL_OF:
                beginning = b""
        if beginning and not fault:
            self._remember(self._beginnings, beginning, msr)
        else:
            self._remember(self._bodies, body, msr)
        return msr

    def _remember(self, table: dict[bytes, _Msr], key: bytes, msr: _Msr) -> None:
        if len(table) >= _MAX_BODIES:
            self._fold(table)
            table.clear()
        table[key] = msr

    def _fold_bodies(self) -> None:
        self._fold(self._bodies)
        self._fold(self._beginnings)

    def _fold(self, table: dict[bytes, _Msr]) -> None:
        for msr in table.values():
            self.counts.add_msr(*msr.access, msr.count, fault=msr.fault)
            msr.count = 0

    def _odd_reason(self, body: bytes) -> bytes:
        """The reason of a kvm_exit that does not name one: by number, of -R or of a fallback."""
        given = eventtext.reason_text(body)
        reason = self._reasons.get(given)
        if reason is None:
            number, amd = given
            reason = eventtext.reason_named(number, amd=amd)
            if len(self._reasons) < _MAX_EVENTS:
                self._reasons[given] = reason
        return reason

    def _time_handler(self, start: bytes, end: bytes) -> None:
        self.handler_ns.record(eventtext.ns_of(end) - eventtext.ns_of(start))

    # Lines that are no events ----------------------------------------------------------------

    def _no_event(self, line: bytes) -> None:
        if eventtext.LOST.match(line):
            self.lost += 1
            for thread in self.threads.values():
                thread.tracker.lost()
        elif not eventtext.HEADING.match(line):
            self.on_odd(self.lines, line)


def _look_for_vcpu(thread: Thread, body: bytes) -> None:
    """A thread's first exit, or one that does not begin with the vCPU's number as that did."""
    found = eventtext.VCPU.search(body)
    if thread.says == _UNSEEN:
        thread.says = b""
        if found is not None:
            thread.vcpu = int(found[1])
            thread.says = body[: found.end() + 1] if found.start() == 0 else b""
    elif found is not None:
        thread.several = True
        thread.says = b""


def _before(one: bytes, other: bytes) -> bool:
    return eventtext.ns_of(one) < eventtext.ns_of(other)


_FAULT = eventtext.FAULT
_IS_MSR, _IS_EXIT = _Kind.MSR, _Kind.EXIT
_KIND_OF = {"kvm_msr": _IS_MSR, "kvm_exit": _IS_EXIT}
