"""One thread's PMU accesses in order, cut into operations as they come.

**Invariants**: memory does not depend on the length of a trace; every access is in exactly one
operation or counted as left over, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pvpmu.shared.registers import LVTPC
from pvpmu.trace.operations import Context, Operation, bracketed, handler
from pvpmu.trace.tokens import Control, Token

_MAX_LENGTH = 512
"""Accesses of one operation: the longest that a driver makes has a few for each counter."""
_MAX_SHAPES = 4096
"""Different operations that are kept apart; a driver makes dozens."""

BEFORE_FIRST = "before the first operation of a vCPU"
CUT_OFF = "in an operation that the end of the trace cuts off"
LOST = "in an operation in which the tracer lost events"
OUTSIDE = "outside any operation"
PATTERN = "in a sequence of no known pattern"
TOO_MANY = f"in operations beyond the first {_MAX_SHAPES:,} different ones"

Values = list[bytes]
"""The values of an operation's accesses as the trace prints them, b"" where it has none."""
Sink = Callable[[Operation | None, list[Token], Values], None]
"""Takes what a thread did, in order: an operation, or None and accesses that are in none."""


_Key = tuple[tuple[Token, ...], Context, bool]


@dataclass(slots=True)
class Seen:
    """A sequence that came ``count`` times; ``operation`` is None if it is of no known pattern."""

    operation: Operation | None
    count: int = 0


@dataclass(slots=True)
class Shapes:
    """The different operations of all threads, and how often each came.

    ``left_over``: accesses in no operation, by reason.
    """

    seen: dict[_Key, Seen] = field(default_factory=dict)
    left_over: Counter[str] = field(default_factory=Counter)

    def operations(self) -> list[tuple[Operation, int]]:
        """Every different operation that was counted, with its number."""
        return [
            (one.operation, one.count)
            for one in self.seen.values()
            if one.operation is not None and one.count
        ]


class _Open:
    """A sequence that has begun: its accesses, with what came in the middle of them."""

    __slots__ = ("handler", "lead", "start", "tokens", "values")

    def __init__(self, start: bytes) -> None:
        self.tokens: list[Token] = []
        self.values: Values = []
        self.handler = False
        self.lead = False
        self.start = start


class Tracker:
    """Follows one thread. ``kinds``: how often it did what.

    ``on_handler`` is told the time stamps of a handler's first and last access. ``sink``: takes
    everything in order; None: only numbers are kept.
    """

    __slots__ = (
        "_awaits_lvtpc",
        "_context",
        "_known",
        "_lead",
        "_open",
        "_outer",
        "_started",
        "kinds",
        "on_handler",
        "shapes",
        "sink",
    )

    def __init__(
        self, shapes: Shapes, on_handler: Callable[[bytes, bytes], None], sink: Sink | None = None
    ) -> None:
        self.shapes = shapes
        self.sink = sink
        self.on_handler = on_handler
        self.kinds: Counter[str] = Counter()
        self._open: _Open | None = None
        self._outer: _Open | None = None
        self._lead: tuple[Token, bytes, bytes] | None = None
        self._awaits_lvtpc = False
        self._started = False
        self._context = Context()
        self._known = False

    def access(self, token: Token, control: Control, value: bytes, stamp: bytes) -> None:
        """Take the next access; ``stamp`` is its time as the trace prints it."""
        current = self._open
        if control is _PLAIN and current is not None and not self._awaits_lvtpc:
            tokens = current.tokens
            tokens.append(token)
            current.values.append(value)
            if len(tokens) > _MAX_LENGTH:
                self._give_up(PATTERN)
            return
        self._border(token, control, value, stamp)

    def lost(self) -> None:
        """The tracer lost events: what has begun cannot be known."""
        self._give_up(LOST)

    def finish(self) -> None:
        """The trace has ended."""
        self._give_up(CUT_OFF)

    # Borders ---------------------------------------------------------------------------------

    def _border(self, token: Token, control: Control, value: bytes, stamp: bytes) -> None:
        if self._awaits_lvtpc:
            self._after_on(token, control, value, stamp)
            return
        if control is _OFF:
            self._off(token, value, stamp)
            return
        current = self._open
        if current is None:
            self._idle(token, control, value, stamp)
            return
        current.tokens.append(token)
        current.values.append(value)
        if control is _STATUS:
            # After GLOBAL_CTRL = 0, and after an LVTPC that some CPUs write before it.
            if len(current.tokens) == 2 + (current.lead or self._lvtpc_second(current)):
                current.handler = True
        elif control is _ON:
            self._on(current, stamp)
        elif control is _LVTPC and current.handler:
            # Not after GLOBAL_CTRL on: this handler found the PMU disabled.
            self._close_handler(stamp, enabled=False)

    def _off(self, token: Token, value: bytes, stamp: bytes) -> None:
        if self._outer is not None:
            self._give_up(PATTERN)
        elif self._open is not None:
            self._outer = self._open
        new = _Open(stamp)
        if self._lead is not None:
            lead, lead_value, new.start = self._lead
            new.tokens.append(lead)
            new.values.append(lead_value)
            new.lead = True
            self._lead = None
        new.tokens.append(token)
        new.values.append(value)
        self._open = new
        self._started = True

    def _idle(self, token: Token, control: Control, value: bytes, stamp: bytes) -> None:
        """An access while no operation is under way."""
        if self._lead is not None:
            lead, lead_value, _ = self._lead
            self._lead = None
            self._leave([lead], [lead_value], self._outside)
        if control is _LVTPC:
            # A handler may begin with it; the next access tells.
            self._lead = token, value, stamp
        else:
            self._leave([token], [value], self._outside)

    def _on(self, current: _Open, stamp: bytes) -> None:
        if not current.handler:
            if self._outer is not None:
                self._give_up(PATTERN)
            else:
                self._close_bracketed(current)
        elif current.lead or self._lvtpc_second(current):
            self._close_handler(stamp)
        else:
            self._awaits_lvtpc = True

    def _after_on(self, token: Token, control: Control, value: bytes, stamp: bytes) -> None:
        """The access after a handler's GLOBAL_CTRL on, which LVTPC ends."""
        self._awaits_lvtpc = False
        current = self._open
        if control is _LVTPC and current is not None:
            current.tokens.append(token)
            current.values.append(value)
            self._close_handler(stamp)
        else:
            self._close_handler(stamp)
            self.access(token, control, value, stamp)

    @staticmethod
    def _lvtpc_second(current: _Open) -> bool:
        """Whether LVTPC came right after GLOBAL_CTRL = 0 (CPUs that acknowledge in between)."""
        return len(current.tokens) > 2 and current.tokens[1] & _ADDRESS == LVTPC

    # Ends ------------------------------------------------------------------------------------

    def _close_handler(self, stamp: bytes, *, enabled: bool = True) -> None:
        current = self._open
        assert current is not None
        self._open, self._outer = self._outer, None
        self._awaits_lvtpc = False
        self.on_handler(current.start, stamp)
        self._count(current, (tuple(current.tokens), self._context, enabled), handler_of=True)

    def _close_bracketed(self, current: _Open) -> None:
        self._open = None
        self._count(current, (tuple(current.tokens), self._context, True), handler_of=False)

    def _count(self, current: _Open, key: _Key, *, handler_of: bool) -> None:
        seen = self.shapes.seen.get(key)
        if seen is None:
            if len(self.shapes.seen) >= _MAX_SHAPES:
                self._leave(current.tokens, current.values, TOO_MANY)
                return
            tokens, context, enabled = key
            seen = self.shapes.seen[key] = Seen(
                handler(tokens, context, enabled=enabled)
                if handler_of
                else bracketed(tokens, context)
            )
        operation = seen.operation
        if operation is None:
            self._leave(current.tokens, current.values, PATTERN)
            return
        if operation.kind in _SHOWS_COUNTERS:
            self._known = True
        elif operation.kind == "toggle" and not self._known:
            # What it costs depends on counters of which nothing is known yet.
            self._leave(current.tokens, current.values, BEFORE_FIRST)
            return
        seen.count += 1
        self.kinds[operation.kind] += 1
        self._context = operation.after
        if self.sink is not None:
            self.sink(operation, current.tokens, current.values)

    def _give_up(self, reason: str) -> None:
        """Nothing can be said of what is open."""
        if self._lead is not None:
            lead, value, _ = self._lead
            self._lead = None
            self._leave([lead], [value], self._outside)
        for begun in (self._outer, self._open):
            if begun is not None:
                self._leave(begun.tokens, begun.values, reason)
        self._outer = self._open = None
        self._awaits_lvtpc = False

    def _leave(self, tokens: list[Token], values: Values, reason: str) -> None:
        self.shapes.left_over[reason] += len(tokens)
        if self.sink is not None:
            self.sink(None, tokens, values)

    @property
    def _outside(self) -> str:
        return OUTSIDE if self._started else BEFORE_FIRST


_SHOWS_COUNTERS = frozenset(("tick", "sched_in", "sched_out", "rotation"))
_PLAIN, _OFF, _ON, _STATUS, _LVTPC = Control
_ADDRESS = 0xFFFF_FFFF
