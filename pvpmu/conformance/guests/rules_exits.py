"""Checks of the process binding: the exit slot, NMIs, retired counts, the memory segment."""

from __future__ import annotations

from pvpmu.conformance.guests.rule import PLAIN, End, Rule
from pvpmu.conformance.guests.seen import Exit, reason_name
from pvpmu.shared import exits
from pvpmu.shared.exits import ExitReason

_REASONS = frozenset(int(reason) for reason in ExitReason)
_FLAGS = exits.NMI_BLOCKED | exits.RETIRED_USER | exits.RETIRED_KERNEL | exits.INTERRUPTIBLE
MAX_SKID = 65_536
"""Counts that a counter may be beyond its overflow when the guest exits."""


class Requests(Rule):
    """Well-formed requests."""

    id = "BND-13"
    title = "requests what exists, and stores to no word of the slot that is the host's"
    never = "the guest made no exit"

    def look(self, seen: Exit) -> None:
        allowed = _FLAGS | exits.REASON_MASK
        if seen.reason == ExitReason.EXCEPTION_NMI:
            allowed |= exits.STRAY_PMI
        known = seen.reason in _REASONS and not seen.request & ~allowed
        stored = ", ".join(seen.slot_stored)
        self.expect(
            seen,
            holds=known and not stored,
            expected="a known reason, no reserved flag, host words as the host stored them",
            actual=f"stores to {stored}" if known else f"request {seen.request:#x}",
        )


class Windows(Rule):
    """The NMI-window exit."""

    id = "BND-14"
    title = "exits with NMI_WINDOW as soon as NMIs are unblocked, when asked to and only then"
    never = "no NMI-window exit was asked for"
    homes = ("PMI-11/foreign",)

    def look(self, seen: Exit) -> None:
        is_window = seen.reason == ExitReason.NMI_WINDOW
        if is_window or (seen.entry.window and not seen.blocked):
            wanted = "NMI_WINDOW" if seen.entry.window else "no NMI_WINDOW"
            self.expect(
                seen,
                holds=is_window and seen.entry.window and not seen.blocked,
                expected=f"{wanted}, with NMIs unblocked",
                actual=seen.text,
            )


class Blocked(Rule):
    """NMIs are blocked in a handler, and nowhere else."""

    id = "BND-15"
    title = (
        "says that NMIs are blocked in the handler of an injected NMI, at CPL 0, and nowhere else"
    )
    never = "no NMI was injected"

    def look(self, seen: Exit) -> None:
        if seen.blocked or seen.over is not None:
            nmi = "an NMI" if seen.handler is not None else "no NMI"
            self.expect(
                seen,
                holds=not seen.blocked or (seen.handler is not None and not seen.retired_user),
                expected="flag 8 only after an injected NMI, and nothing retired at CPL 3",
                actual=f"flag 8 after {nmi}, {seen.retired_user} counts at CPL 3",
            )


class Overflows(Rule):
    """EXCEPTION_NMI at an overflow."""

    id = "BND-17/brought"
    title = "an EXCEPTION_NMI exit brings the retired counts of an overflow"
    never = "the guest made no EXCEPTION_NMI exit"

    def look(self, seen: Exit) -> None:
        if seen.reason == ExitReason.EXCEPTION_NMI and not seen.request & exits.STRAY_PMI:
            self.expect(
                seen,
                holds=bool(seen.due),
                expected="retired counts with which a live counter overflows",
                actual="no counter overflows",
            )


class Missed(Rule):
    """No overflow is run past."""

    id = "BND-17/missed"
    title = "exits when a live counter overflows"
    never = "no counter overflowed"

    def look(self, seen: Exit) -> None:
        if seen.due:
            self.expect(
                seen,
                holds=seen.overshoot <= MAX_SKID,
                expected=f"an EXCEPTION_NMI exit at most {MAX_SKID} counts after the overflow",
                actual=f"{reason_name(seen.reason)}, {seen.overshoot} counts after it",
            )


class MemorySegment(Rule):
    """The segment as BND-2 and BND-3 have it."""

    id = "BND-3"
    title = "makes its memory with a complete header, mode 0600 and all of it allocated"
    never = "the session did not end with Bye"
    homes = (PLAIN,)

    def finish(self, end: End) -> None:
        self.expect_end(
            holds=not end.segment,
            expected="the segment as BND-2 and BND-3 say",
            actual=end.segment,
        )


RULES = (Requests, Windows, Blocked, Overflows, Missed, MemorySegment)
