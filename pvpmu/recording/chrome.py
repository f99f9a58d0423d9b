"""Write a recording as Chrome's trace event format, which Perfetto opens. Pure.

A process for each design, in it three tracks for each vCPU: the guest (handlers, operations of
perf, accesses, samples), the host (exits, perf calls within them, PMIs) and the page's state. An
arrow leads from the exit that raised a PMI to the handler that took it. Each process begins at 0,
so that designs that ran one after another stand below each other.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pvpmu.recording import names
from pvpmu.recording.format import FAULT, SPURIOUS, Change, Kind, Pmi, Record
from pvpmu.recording.jsonl import fields
from pvpmu.recording.reader import LOST, Stream
from pvpmu.shared.units import Ns

_NS_PER_US = 1000
_ENCODE = msgspec.json.Encoder().encode
Event = dict[str, Any]


class _Track(enum.IntEnum):
    """Tracks of a vCPU, in the order in which they stand."""

    GUEST = 0
    HOST = 1
    PAGE = 2


_TITLES = {_Track.GUEST: "guest", _Track.HOST: "host", _Track.PAGE: "page"}
_OF_VCPU = 10
"""From one vCPU's first track number to the next one's."""


@dataclass(slots=True, eq=False)
class _Vcpu:
    """One vCPU of one design. ``raised``: flows of PMIs that no handler has taken yet."""

    process: int
    number: int
    exit: Record | None = None
    handler: Record | None = None
    state: tuple[str, str, Ns] | None = None
    raised: list[int] = field(default_factory=list)
    tracks: set[_Track] = field(default_factory=set)


class ChromeTrace:
    """Makes events of records, which come in order of time.

    ``arrows``: whether handlers may come, which PMIs lead to; without a guest's records none do.
    """

    def __init__(self, *, arrows: bool = True) -> None:
        self._arrows = arrows
        self._processes: dict[str, int] = {}
        self._named: set[int] = set()
        self._vcpus: dict[tuple[str, int], _Vcpu] = {}
        self._first: dict[int, Ns] = {}
        self._last: dict[int, Ns] = {}
        self._flows = 0
        self._makers: dict[int, Callable[[_Vcpu, Record], Iterator[Event]]] = {
            LOST: self._lost,
            Kind.EXIT: self._exit,
            Kind.ENTRY: self._entry,
            Kind.PERF_CALL: self._perf_call,
            Kind.PMI: self._pmi,
            Kind.STATE: self._state,
            Kind.MARK: self._mark,
            Kind.ACCESS: self._access,
            Kind.HANDLER_ENTRY: self._handler_entry,
            Kind.HANDLER_EXIT: self._handler_exit,
            Kind.SAMPLE: self._sample,
            Kind.OPERATION: self._operation,
        }

    def events(self, records: Iterable[tuple[Stream, Record]]) -> Iterator[Event]:
        """Every event; what is open at the end is closed there."""
        for stream, record in records:
            maker = self._makers.get(record.kind)
            if maker is None:
                continue
            vcpu = self._vcpus.get((stream.design, stream.vcpu))
            if vcpu is None:
                vcpu = self._new(stream)
                if vcpu.process not in self._named:
                    self._named.add(vcpu.process)
                    title = stream.design or "recording"
                    yield _meta(vcpu.process, 0, "process_name", {"name": title})
            self._last[vcpu.process] = record.wall
            # Of what began earlier the record comes when it ended.
            began = record.wall - (record.b if record.kind in _LASTING else 0)
            self._first.setdefault(vcpu.process, began)
            yield from maker(vcpu, record)
        for vcpu in self._vcpus.values():
            yield from self._close(vcpu)

    # The host ----------------------------------------------------------------------------------

    def _exit(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        vcpu.exit = record
        return iter(())

    def _entry(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        begun, vcpu.exit = vcpu.exit, None
        if begun is not None:
            name = names.exit_label(begun.code, begun.detail)
            arguments = fields(begun) | fields(record)
            yield from self._slice(vcpu, _Track.HOST, name, "exit", begun, record.wall, arguments)

    def _perf_call(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        name = f"perf {names.call_name(record.code)}"
        yield from self._ended(vcpu, _Track.HOST, name, "perf", record)

    def _pmi(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        name = f"PMI {names.pmi_name(record.code)}"
        yield from self._instant(vcpu, _Track.HOST, name, "pmi", record)
        if record.code == Pmi.RAISED and self._arrows:
            self._flows += 1
            vcpu.raised.append(self._flows)
            yield self._flow(vcpu, _Track.HOST, "s", self._flows, record)

    def _state(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        yield from self._end_state(vcpu, record.wall)
        if record.code != Change.UNREGISTER:
            state, by = names.state_name(record.flags), names.change_name(record.code)
            vcpu.state = state, by, record.wall

    def _mark(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        yield from self._instant(vcpu, _Track.HOST, names.control_name(record.code), "run", record)

    def _lost(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        # What was under way may have ended among them.
        vcpu.exit = vcpu.handler = None
        yield from self._instant(vcpu, _Track.HOST, f"{record.a} records lost", "run", record)

    # The guest ---------------------------------------------------------------------------------

    def _access(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        name = names.access_label(record.code, record.detail)
        if record.flags & FAULT:
            name += " (#GP)"
        category = f"access,{names.path_name(record.flags)}"
        yield from self._ended(vcpu, _Track.GUEST, name, category, record)

    def _handler_entry(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        vcpu.handler = record
        for flow in vcpu.raised:
            yield self._flow(vcpu, _Track.GUEST, "f", flow, record)
        vcpu.raised.clear()

    def _handler_exit(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        begun, vcpu.handler = vcpu.handler, None
        if begun is not None:
            name = "NMI handler (spurious)" if record.flags & SPURIOUS else "NMI handler"
            arguments = fields(begun) | fields(record)
            yield from self._slice(
                vcpu, _Track.GUEST, name, "handler", begun, record.wall, arguments
            )

    def _sample(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        yield from self._instant(vcpu, _Track.GUEST, "sample", "sample", record)

    def _operation(self, vcpu: _Vcpu, record: Record) -> Iterator[Event]:
        name = names.operation_name(record.code)
        yield from self._ended(vcpu, _Track.GUEST, name, "operation", record)

    # Events ------------------------------------------------------------------------------------

    def _new(self, stream: Stream) -> _Vcpu:
        process = self._processes.setdefault(stream.design, len(self._processes) + 1)
        vcpu = self._vcpus[stream.design, stream.vcpu] = _Vcpu(process, stream.vcpu)
        return vcpu

    def _thread(self, vcpu: _Vcpu, track: _Track) -> Iterator[Event]:
        """Name a track before its first event."""
        if track not in vcpu.tracks:
            vcpu.tracks.add(track)
            thread = _thread_of(vcpu, track)
            title = f"vCPU {vcpu.number} {_TITLES[track]}"
            yield _meta(vcpu.process, thread, "thread_name", {"name": title})
            yield _meta(vcpu.process, thread, "thread_sort_index", {"sort_index": thread})

    def _slice(
        self,
        vcpu: _Vcpu,
        track: _Track,
        name: str,
        category: str,
        begun: Record,
        end: Ns,
        arguments: Event,
    ) -> Iterator[Event]:
        yield from self._thread(vcpu, track)
        arguments.pop("event", None)
        arguments["guest_ns"], arguments["cycles"] = begun.now, begun.cycles
        yield {
            "ph": "X",
            "name": name,
            "cat": category,
            **self._at(vcpu, track, begun.wall),
            "dur": (end - begun.wall) / _NS_PER_US,
            "args": arguments,
        }

    def _ended(
        self, vcpu: _Vcpu, track: _Track, name: str, category: str, record: Record
    ) -> Iterator[Event]:
        """What a record says when it has ended, with how long it took."""
        begun = record._replace(wall=record.wall - record.b)
        arguments = fields(record)
        yield from self._slice(vcpu, track, name, category, begun, record.wall, arguments)

    def _instant(
        self, vcpu: _Vcpu, track: _Track, name: str, category: str, record: Record
    ) -> Iterator[Event]:
        yield from self._thread(vcpu, track)
        said = {key: value for key, value in fields(record).items() if key != "event"}
        yield {
            "ph": "i",
            "s": "t",
            "name": name,
            "cat": category,
            **self._at(vcpu, track, record.wall),
            "args": said | {"guest_ns": record.now},
        }

    def _flow(self, vcpu: _Vcpu, track: _Track, phase: str, flow: int, record: Record) -> Event:
        event = {"ph": phase, "id": flow, "name": "PMI", "cat": "pmi"}
        if phase == "f":
            # Bind to the slice that begins here, not to the next one.
            event["bp"] = "e"
        return event | self._at(vcpu, track, record.wall)

    def _end_state(self, vcpu: _Vcpu, now: Ns) -> Iterator[Event]:
        if vcpu.state is None:
            return
        (name, by, since), vcpu.state = vcpu.state, None
        begun = Record(since, 0, 0, 0, 0, 0, 0, 0, 0)
        yield from self._thread(vcpu, _Track.PAGE)
        yield {
            "ph": "X",
            "name": name,
            "cat": "state",
            **self._at(vcpu, _Track.PAGE, begun.wall),
            "dur": (now - since) / _NS_PER_US,
            "args": {"by": by},
        }

    def _close(self, vcpu: _Vcpu) -> Iterator[Event]:
        last = self._last[vcpu.process]
        yield from self._end_state(vcpu, last)
        for track, begun, name in (
            (_Track.HOST, vcpu.exit, "exit that did not end"),
            (_Track.GUEST, vcpu.handler, "NMI handler that did not end"),
        ):
            if begun is not None:
                arguments = fields(begun)
                yield from self._slice(vcpu, track, name, "open", begun, last, arguments)

    def _at(self, vcpu: _Vcpu, track: _Track, wall: Ns) -> Event:
        return {
            "pid": vcpu.process,
            "tid": _thread_of(vcpu, track),
            "ts": (wall - self._first[vcpu.process]) / _NS_PER_US,
        }


_LASTING = (Kind.PERF_CALL, Kind.ACCESS, Kind.HANDLER_EXIT, Kind.OPERATION)


def chrome(
    records: Iterable[tuple[Stream, Record]], about: dict[str, Any], *, arrows: bool = True
) -> Iterator[str]:
    """The JSON text in pieces, an event a line; ``about``: what it says of where it comes from."""
    yield '{"displayTimeUnit":"ns","otherData":' + _json(about) + ',"traceEvents":[\n'
    separator = ""
    for event in ChromeTrace(arrows=arrows).events(records):
        yield separator + _json(event)
        separator = ",\n"
    yield "\n]}\n"


def _thread_of(vcpu: _Vcpu, track: _Track) -> int:
    return vcpu.number * _OF_VCPU + track + 1


def _meta(process: int, thread: int, name: str, arguments: Event) -> Event:
    return {"ph": "M", "pid": process, "tid": thread, "name": name, "args": arguments}


def _json(value: Any) -> str:
    return _ENCODE(value).decode()
