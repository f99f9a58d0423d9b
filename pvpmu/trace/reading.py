"""Read a trace of any format: find the format, feed its reader, keep what it did not understand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pvpmu.shared.errors import UsageError
from pvpmu.trace.counts import Counts
from pvpmu.trace.events import EventReader, Thread
from pvpmu.trace.eventtext import NEARLY, TICKS, is_event
from pvpmu.trace.source import MAX_LINE, Source
from pvpmu.trace.tables import TABLES, Line, TableReader
from pvpmu.trace.tracker import Sink

EVENTS = "events"
FORMATS = (EVENTS, *TABLES)
"""What ``--format`` takes; ``events``: ``trace-cmd report``, ftrace's trace, ``perf script``."""
_HEAD_BYTES = 1 << 18
_HEAD_LINES = 2000
_EXAMPLES = 5
_EXAMPLE_CHARACTERS = 120
_SUSPECTS = 1000
"""Lines that are not understood and looked at again, for another format's."""

OnProgress = Callable[[int], None]
"""Told how many bytes of the input have been read."""


@dataclass(slots=True)
class Unknown:
    """Lines that were not understood: how many, and the first of them with their numbers."""

    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)

    def add(self, number: int, line: bytes | str) -> None:
        """Count one line."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append((number, printable(line)))


@dataclass(slots=True)
class Trace:
    """One input, read to its end. ``events``: its reader, where it has events."""

    format: str
    counts: Counts
    lines: int
    unknown: Unknown
    notes: list[str]
    events: EventReader | None = None


def read_trace(
    source: Source,
    *,
    wanted: str | None = None,
    sink_of: Callable[[Thread], Sink] | None = None,
    on_progress: OnProgress | None = None,
) -> Trace:
    """Read it all; ``wanted``: its format, found out if None. ``sink_of``: see EventReader.

    Raises :class:`UsageError` for input that is no trace, or of two formats.
    """
    blocks = source.blocks()
    try:
        return _read(source, blocks, wanted, sink_of, on_progress)
    except UsageError:
        # Damaged data may unpack to anything; only their end tells.
        if source.compression and source.size is not None:
            for _ in blocks:
                pass
        raise


def _read(
    source: Source,
    blocks: Iterator[bytes],
    wanted: str | None,
    sink_of: Callable[[Thread], Sink] | None,
    on_progress: OnProgress | None,
) -> Trace:
    head: list[bytes] = []
    name = wanted or _detect(source, blocks, head)
    reading = _Events(sink_of) if name == EVENTS else _Table(TABLES[name]())
    watch = _Watch(name, reading, checks=wanted is None)
    for block in _chain(head, blocks):
        with _named(source):
            reading.feed(block, watch.unknown_line)
        if on_progress is not None:
            on_progress(source.position)
    with _named(source):
        trace = reading.finish(name, watch.unknown)
    if not reading.data:
        first = watch.unknown.examples[0][1] if watch.unknown.examples else "nothing but headings"
        raise UsageError(
            f"{source.name}: no line of format {name} in {trace.lines:,} lines; first: {first!r}"
        )
    _note_source(source, trace)
    return trace


@contextlib.contextmanager
def _named(source: Source) -> Iterator[None]:
    """What is wrong with the input is said with its name."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{source.name}: {error}") from None


def _note_source(source: Source, trace: Trace) -> None:
    # A list that somebody pasted need not end with a line's end.
    in_line = source.cut_off == "a line"
    if source.cut_off and (not in_line or trace.format == EVENTS):
        trace.notes.append(
            f"the input ends in the middle of {source.cut_off}: the answer covers what came before"
        )
    if source.overlong:
        trace.notes.append(f"lines longer than {MAX_LINE:,} bytes: {source.overlong:,}")


# Finding the format ------------------------------------------------------------------------------


def _detect(source: Source, blocks: Iterator[bytes], head: list[bytes]) -> str:
    """The format of the first lines, which stay in ``head``."""
    tried: list[bytes] = []
    size = 0
    for block in blocks:
        head.append(block)
        size += len(block)
        tried += block.splitlines()[: _HEAD_LINES - len(tried)]
        with _named(source):
            found = format_of(tried)
        if found is not None:
            return found
        if size >= _HEAD_BYTES or len(tried) >= _HEAD_LINES or source.overlong:
            break
    if source.overlong:
        raise UsageError(
            f"{source.name}: line {len(tried)} is longer than {MAX_LINE:,} bytes, which no line "
            "of a trace is"
        )
    ticks = next((line for line in tried if TICKS.match(line)), None)
    if ticks is not None:
        raise UsageError(
            f"{source.name}: time stamps that are no seconds, first: {printable(ticks)!r}; "
            "expected those of a clock of time (trace_clock: mono; trace-cmd record -C mono)"
        )
    nearly = next((line for line in tried if NEARLY.match(line)), None)
    if nearly is not None:
        raise UsageError(
            f"{source.name}: events of perf script without thread id or time stamp, first: "
            f"{printable(nearly)!r}; expected at least perf script -F tid,time,event,trace"
        )
    first = next((printable(line) for line in tried if line.strip()), "")
    raise UsageError(
        f"{source.name}: no line of a known format in the first {len(tried):,} lines; first: "
        f"{first!r}; known: {', '.join(FORMATS)} (--format)"
    )


def format_of(lines: list[bytes]) -> str | None:
    """The one format that some of these lines are of; None: no line is of any.

    Raises :class:`UsageError` when lines are of two.
    """
    first_of: dict[str, int] = {}
    for name in FORMATS:
        numbers = _understood(name, lines)
        if numbers:
            first_of[name] = numbers[0]
            of_this = set(numbers)
            others = [
                (other, line)
                for other, line in ((o, _first_other(o, lines, of_this)) for o in FORMATS)
                if other != name and line is not None
            ]
            if not others:
                return name
    if not first_of:
        return None
    (one, at), (other, there) = sorted(first_of.items(), key=lambda item: item[1])[:2]
    raise _mixed(one, at, other, there)


def _mixed(one: str, at: int, other: str, there: int) -> UsageError:
    return UsageError(
        f"lines of two formats: {one} (line {at}) and {other} (line {there}); separate them, or "
        "say which to read with --format"
    )


def _understood(name: str, lines: list[bytes]) -> list[int]:
    """Numbers of the lines that hold data of a format."""
    if name == EVENTS:
        return [number for number, line in enumerate(lines, 1) if is_event(line)]
    reader = TABLES[name]()
    return [
        number
        for number, line in enumerate(lines, 1)
        if reader.line(line.decode("utf-8", "replace")) is Line.DATA
    ]


def _first_other(name: str, lines: list[bytes], but: set[int]) -> int | None:
    return next((number for number in _understood(name, lines) if number not in but), None)


class _Watch:
    """Keeps the lines that a reader does not understand, and asks whether another would."""

    def __init__(self, name: str, reading: _Events | _Table, *, checks: bool) -> None:
        self.unknown = Unknown()
        self._name = name
        self._reading = reading
        self._left = _SUSPECTS if checks else 0

    def unknown_line(self, number: int, line: bytes) -> None:
        """Take one."""
        self.unknown.add(number, line)
        if not self._left:
            return
        self._left -= 1
        for other in FORMATS:
            if other != self._name and _understood(other, [line]):
                raise _mixed(self._name, self._reading.first, other, number)


# Feeding -----------------------------------------------------------------------------------------

_OnUnknown = Callable[[int, bytes], None]


class _Events:
    """Feeds event lines. ``data``: whether any was understood, once it is finished."""

    def __init__(self, sink_of: Callable[[Thread], Sink] | None) -> None:
        self._reader = EventReader(sink_of)

    @property
    def first(self) -> int:
        return min(self._reader.styles.values(), default=1)

    @property
    def data(self) -> bool:
        return bool(self._reader.events)

    def feed(self, block: bytes, on_unknown: _OnUnknown) -> None:
        reader = self._reader
        reader.on_odd = on_unknown
        reader.feed(block)
        if len(reader.styles) > 1:
            raise UsageError(
                f"lines of two tools: perf script (line {reader.styles['space']}) and trace-cmd or "
                f"ftrace (line {reader.styles['dash']}); separate them"
            )

    def finish(self, name: str, unknown: Unknown) -> Trace:
        reader = self._reader
        reader.finish()
        notes = []
        if reader.lost:
            notes.append(
                f"the tracer lost events {reader.lost} times; what was under way is not attributed"
            )
        if reader.back_in_time:
            notes.append(
                f"time goes back within a thread {reader.back_in_time:,} times: traces put "
                "together, or stamps that are differences; what stands there twice counts twice"
            )
        if reader.ignored_threads:
            notes.append("there are more threads than are followed apart: the rest count as one")
        several = [str(thread.tid) for thread in reader.threads.values() if thread.several]
        if several:
            shown = ", ".join(several[:_EXAMPLES]) + (", ..." if several[_EXAMPLES:] else "")
            notes.append(
                f"exits of several vCPUs under one thread id ({shown}) are followed as one "
                "thread's; perf script tells vCPUs apart with -F tid, not with -F pid alone"
            )
        return Trace(name, reader.counts, reader.lines, unknown, notes, reader)


class _Table:
    """Feeds the lines of a table, a map or a list."""

    def __init__(self, reader: TableReader) -> None:
        self._reader = reader
        self._lines = 0
        self.first = 0
        self.data = False

    def feed(self, block: bytes, on_unknown: _OnUnknown) -> None:
        for line in block.splitlines():
            self._lines += 1
            found = self._reader.line(line.decode("utf-8", "replace"))
            if found is Line.UNKNOWN:
                on_unknown(self._lines, line)
            elif found is Line.DATA and not self.data:
                self.data = True
                self.first = self._lines

    def finish(self, name: str, unknown: Unknown) -> Trace:
        self._reader.finish()
        return Trace(name, self._reader.counts, self._lines, unknown, list(self._reader.notes))


def printable(line: bytes | str) -> str:
    """The beginning of a line, with nothing in it that moves a terminal's cursor."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    shown = "".join(c if c.isprintable() else "�" for c in text.strip())
    return shown if len(shown) <= _EXAMPLE_CHARACTERS else shown[: _EXAMPLE_CHARACTERS - 1] + "…"


def _chain(head: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from head
    yield from rest
