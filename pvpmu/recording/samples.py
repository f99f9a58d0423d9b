"""A recording's guest side as what ``perf record`` in the guest would have taken. Pure.

Time is the guest's clock: wall time is that of the processes that play the guest. Runs follow one
another, as each starts its clock anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pvpmu.recording.format import Kind, Record
from pvpmu.recording.reader import LOST, Stream, text_of
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import EVENTS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER, Control
from pvpmu.shared.units import U64_MASK, Ns

_SAMPLE, _MARK, _START = int(Kind.SAMPLE), int(Kind.MARK), int(Control.START)
_MAX_NAME = 15
"""As TASK_COMM_LEN, less the end."""
_MAX_PHASES = 1 << 20


@dataclass(frozen=True, slots=True)
class GuestEvent:
    """An event that the guest's task opened: its name, kind and modes, and Hz or counts."""

    name: str
    kind: int
    modes: int
    frequency: int
    period: int


def guests_of(streams: Sequence[Stream]) -> list[Stream]:
    """The guests' sides; raises :class:`UsageError` where none was recorded."""
    guests = [stream for stream in streams if stream.side == "guest"]
    if not guests:
        raise UsageError(
            "a recording of the host alone has no samples; they are in that of the guest"
        )
    return guests


def guest_events(guests: Sequence[Stream]) -> list[GuestEvent]:
    """The events, by number; raises :class:`UsageError` where guests had different ones."""
    first, *others = [_events_of(stream) for stream in guests]
    if any(events != first for events in others):
        raise UsageError("guests that opened different events cannot stand in one file of samples")
    return first


def program_of(stream: Stream) -> str:
    """The name of the program that ran in the guest: its scenario's."""
    return text_of(stream.meta.get("scenario") or "guest")[:_MAX_NAME]


def phases_of(stream: Stream) -> int:
    """How many phases the program has, each in a page of code of its own."""
    phases = stream.meta.get("code", 0)
    return phases if isinstance(phases, int) and 0 <= phases <= _MAX_PHASES else 0


def samples(
    guests: Sequence[Stream], *, everything: bool = False
) -> Iterator[tuple[Ns, Stream, Record]]:
    """Guest clock, stream and record of each sample, and of each loss, in order of the clock."""
    by_number = {stream.number: stream for stream in guests}
    streams = (_clocked(stream, everything=everything) for stream in guests)
    for time, number, record in heapq.merge(*streams, key=lambda each: each[:2]):
        yield time, by_number[number], record


def _clocked(stream: Stream, *, everything: bool) -> Iterator[tuple[Ns, int, Record]]:
    base = last = 0
    for record in stream.records() if everything else stream.window():
        if record.kind == _MARK and record.code == _START:
            base = last
        last = min(max(base + record.now, last), U64_MASK)
        if record.kind in (_SAMPLE, LOST):
            yield last, stream.number, record


def _events_of(stream: Stream) -> list[GuestEvent]:
    try:
        events = [
            GuestEvent(
                text_of(event["name"]),
                int(event["kind"]),
                int(event.get("modes", MODE_USER | MODE_KERNEL)),
                int(event.get("frequency", 0)),
                int(event.get("period", 0)),
            )
            for event in stream.meta.get("events", ())
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError("damaged metadata: an event of the guest's is none") from None
    if not all(0 <= event.kind < len(EVENTS) for event in events):
        raise UsageError("damaged metadata: an event of the guest's is of no known kind")
    if not all(0 <= per <= U64_MASK for event in events for per in (event.frequency, event.period)):
        raise UsageError("damaged metadata: an event of the guest's has no possible period")
    return events
