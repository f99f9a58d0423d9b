"""Read event lines: ``trace-cmd report``, ftrace's ``trace``, ``perf script``; one event a line.

What stands before the time stamp (command, thread, CPU, flags) takes few different values, so a
line is cut at its first ``": "``, and what is before is looked up; only a new one is examined.

**Invariants**: memory does not depend on the length of a trace.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pvpmu.shared.histogram import Histogram
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.shared.units import NS_PER_S
from pvpmu.trace.counts import Access, Counts
from pvpmu.trace.names import (
    READ,
    WRITE,
    MsrClass,
    exit_name,
    exit_number_name,
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
_MAX_BODIES = 1 << 16
_MAX_ADDRESS = 0xFFFF_FFFF
_REST = -1
"""Stands for the threads beyond those that are followed."""

_PREFIX = re.compile(
    rb"\s*(?P<comm>.*?)(?P<dash>[-\s])\s*(?P<pid>\d+)(?:/(?P<tid>\d+))?\s+"
    rb"(?:\(\s*[-\d]+\)\s+)?(?:\[\d+\]|\d+[\w.#]{4,6})(?:\s+[\w.#]{4,6})?\s+(?P<stamp>\d+\.\d+):\s"
)
_LOST = re.compile(
    rb"(?:CPU:\d+ \[.*(?:LOST|DROPPED).*\]|.*\bLOST \d+ events|.*\[\d+ EVENTS DROPPED\])"
)
_HEADING = re.compile(rb"\s*(?:#|cpus=\d|version = |CPU \d+ is empty|\s*$)")
_EVENT = re.compile(rb"\s*(?:[\w-]+:)?([\w-]+)\s*\Z")
_VCPU = re.compile(rb"\bvcpu(?:_id=| )(\d+)")
_COMM_VCPU = re.compile(rb"CPU (\d+)/KVM\Z")
_FIELD = re.compile(rb"\b(\w+)=(0x[0-9a-fA-F]+|\w+)")
_MSR_TEXT = re.compile(
    rb"\s*msr_(?P<op>read|write) (?P<ecx>[0-9a-f]+) = 0x(?P<data>[0-9a-f]+)"
    rb"(?P<fault> \(#GP\))?\s*\Z"
)
_UNKNOWN_REASON = re.compile(rb"reason UNKNOWN \((\d+)\)")
_UNPARSED = b"[FAILED TO PARSE]"


_PLAIN = Control.PLAIN


@dataclass(slots=True, eq=False)
class Thread:
    """One thread of the trace. ``vcpu``: its number where the trace says it, else None.

    ``exits``: by reason as printed. ``exit_stamp``: time of its last exit.
    """

    tid: int
    comm: str
    vcpu: int | None
    tracker: Tracker
    exits: Counter[bytes] = field(default_factory=Counter)
    exit_stamp: bytes = b""
    looked_for_vcpu: bool = False


class _Kind(enum.Enum):
    MSR = 0
    EXIT = 1
    OTHER = 2


@dataclass(slots=True, eq=False)
class _Event:
    """One way in which a trace spells an event's name."""

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
    events. ``styles``: how lines name a thread, and the first line that does so (``dash``: ftrace
    and trace-cmd; ``space``: perf). ``handler_ns``: from a handler's first exit to its last one.

    ``on_odd`` is told number and text of each line that is neither an event, a heading nor a
    tracer's note. ``sink_of``: makes for each thread what takes its operations in order.
    """

    def __init__(self, sink_of: Callable[[Thread], Sink] | None = None) -> None:
        self.counts = Counts()
        self.lines = 0
        self.on_odd: Callable[[int, bytes], None] = lambda _number, _line: None
        self.events: Counter[str] = Counter()
        self.lost = 0
        self.styles: dict[str, int] = {}
        self.shapes = Shapes()
        self.handler_ns = Histogram()
        self.first_stamp = self.last_stamp = b""
        self.threads: dict[int, Thread] = {}
        self._sink_of = sink_of
        self._prefixes: dict[bytes, Thread] = {}
        self._events: dict[bytes, _Event] = {}
        self._bodies: dict[bytes, _Msr] = {}
        self._beginnings: dict[bytes, _Msr] = {}
        self._stamp = b""

    @property
    def duration_ns(self) -> int:
        """From the first event to the last."""
        return max(_ns(self.last_stamp) - _ns(self.first_stamp), 0) if self.first_stamp else 0

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
            name, _, body = rest.partition(b": ")
            event = events.get(name)
            if event is None:
                event = self._new_event(name)
                if event is None:
                    self.on_odd(self.lines, line)
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
            beginning, _, value = body.partition(b" = ")
            msr = self._beginnings.get(beginning)
            if msr is None or value[-1:] == b")":
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
        thread.exit_stamp = stamp
        thread.exits[reason] += 1
        if reason in _RDPMC_REASONS:
            thread.tracker.access(RDPMC_TOKEN, _PLAIN, b"", stamp)
        if not thread.looked_for_vcpu:
            self._look_for_vcpu(thread, body)
        return True

    def finish(self) -> None:
        """The input has ended: close what is open and add everything up."""
        for thread in self.threads.values():
            thread.tracker.finish()
            for reason, count in thread.exits.items():
                self.counts.exits[exit_name(reason.decode("ascii", "replace"))] += count
        self._fold_bodies()
        for event in self._events.values():
            self.events[event.name] += event.count
        self.last_stamp = self._stamp

    # What is new -----------------------------------------------------------------------------

    def _new_prefix(self, prefix: bytes, line: bytes) -> tuple[Thread, bytes, bytes] | None:
        """Find the thread of a line whose beginning is new: it, the time stamp and the rest."""
        found = _PREFIX.match(line)
        if found is None:
            self._no_event(line)
            return None
        style = "dash" if found["dash"] == b"-" else "space"
        self.styles.setdefault(style, self.lines)
        tid = int(found["tid"] or found["pid"])
        thread = self.threads.get(tid)
        if thread is None:
            thread = self._new_thread(tid, found["comm"].strip())
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
            vcpu = _COMM_VCPU.search(comm)
            tracker = Tracker(self.shapes, self._time_handler)
            thread = Thread(
                number, comm.decode("utf-8", "replace"), int(vcpu[1]) if vcpu else None, tracker
            )
            if self._sink_of is not None:
                tracker.sink = self._sink_of(thread)
            self.threads[number] = thread
        return thread

    def _new_event(self, spelled: bytes) -> _Event | None:
        found = _EVENT.match(spelled)
        if found is None:
            return None
        name = found[1].decode("ascii")
        event = _Event(name, _KIND_OF.get(name, _Kind.OTHER))
        if len(self._events) < _MAX_EVENTS:
            self._events[spelled] = event
        return event

    def _new_msr(self, body: bytes, beginning: bytes) -> _Msr | None:
        """Read a kvm_msr event of a text that is new."""
        parsed = _parse_msr(body)
        if parsed is None:
            return None
        op, address, number, fault = parsed
        if not _MSR_TEXT.match(body):
            beginning = b""
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
            (self.counts.faults if msr.fault else self.counts.msr)[msr.access] += msr.count
            msr.count = 0

    def _odd_reason(self, body: bytes) -> bytes:
        """The reason of a kvm_exit that does not name one: by number, of -R or of a fallback."""
        unknown = _UNKNOWN_REASON.search(body)
        fields = dict(_FIELD.findall(body))
        number = unknown[1] if unknown else fields.get(b"exit_reason", b"")
        amd = fields.get(b"isa") == b"2"
        try:
            code = int(number, 0)
        except ValueError:
            return number if number.isascii() and number.replace(b"_", b"").isalnum() else b""
        name = exit_number_name(code if amd else code & 0xFFFF, amd=amd)
        return name.encode("ascii")

    def _look_for_vcpu(self, thread: Thread, body: bytes) -> None:
        thread.looked_for_vcpu = True
        found = _VCPU.search(body)
        if found is not None:
            thread.vcpu = int(found[1])

    def _time_handler(self, start: bytes, end: bytes) -> None:
        self.handler_ns.record(_ns(end) - _ns(start))

    # Lines that are no events ----------------------------------------------------------------

    def _no_event(self, line: bytes) -> None:
        if _LOST.match(line):
            self.lost += 1
            for thread in self.threads.values():
                thread.tracker.lost()
        elif not _HEADING.match(line):
            self.on_odd(self.lines, line)


def is_event(line: bytes) -> bool:
    """Whether this is an event line."""
    found = _PREFIX.match(line)
    return (
        found is not None and _EVENT.match(line[found.end() - 1 :].partition(b": ")[0]) is not None
    )


def value_of(body: bytes) -> int:
    """The value of a kvm_msr event that was understood; 0 for RDPMC's empty body."""
    parsed = _parse_msr(body)
    return parsed[2] if parsed is not None else 0


def _parse_msr(body: bytes) -> tuple[int, int, int, bool] | None:
    """READ or WRITE, address, value and whether it faulted; None: not understood."""
    plain = _MSR_TEXT.match(body)
    if plain is not None:
        op = WRITE if plain["op"] == b"write" else READ
        fault = plain["fault"] is not None
        address, value = int(plain["ecx"], 16), int(plain["data"], 16)
    else:
        fields = dict(_FIELD.findall(body))
        # The fallback prints unsigned numbers in decimal, -R as the event's own format.
        base = 10 if _UNPARSED in body else 16
        try:
            op = WRITE if int(fields[b"write"]) else READ
            address, value = (
                int(fields[name], 16 if fields[name].startswith(b"0x") else base)
                for name in (b"ecx", b"data")
            )
            fault = int(fields.get(b"exception", b"0")) != 0
        except (KeyError, ValueError):
            return None
    return (op, address, value, fault) if address <= _MAX_ADDRESS else None


def _ns(stamp: bytes) -> int:
    """Seconds with 6 or 9 decimals as ns."""
    seconds, _, fraction = stamp.partition(b".")
    return int(seconds) * NS_PER_S + int(fraction.ljust(9, b"0")[:9])


_IS_MSR, _IS_EXIT = _Kind.MSR, _Kind.EXIT
_KIND_OF = {"kvm_msr": _IS_MSR, "kvm_exit": _IS_EXIT}
_RDPMC_REASONS = frozenset((b"RDPMC", b"rdpmc", b"EXIT_RDPMC"))
