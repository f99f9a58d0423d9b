"""The event table: the seven architectural events, declared once.

An event's position is its *kind*: the index used by retired vectors, counters and CPUID 0xA EBX.
Source: SDM vol. 3B, table "UMask and Event Select Encodings for Pre-Defined Architectural
Performance Events"; fixed-counter assignment from SDM vol. 3B "Fixed-function counters";
names as Linux ``perf list`` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import UsageError

KINDS = 7
"""Number of event kinds: the length of every retired vector."""


@dataclass(frozen=True, slots=True)
class Event:
    """One architectural event.

    ``kind``: index 0-6 (= CPUID 0xA EBX bit); ``selector``: event select 7:0 and umask 15:8;
    ``fixed``: the fixed counter that counts it, or None; ``fixed_only``: Linux programs it on
    that fixed counter alone.
    """

    kind: int
    name: str
    selector: int
    fixed: int | None = None
    fixed_only: bool = False


EVENTS = (
    Event(0, "cpu-cycles", 0x003C, fixed=1),
    Event(1, "instructions", 0x00C0, fixed=0),
    Event(2, "ref-cycles", 0x013C, fixed=2, fixed_only=True),
    Event(3, "cache-references", 0x4F2E),
    Event(4, "cache-misses", 0x412E),
    Event(5, "branch-instructions", 0x00C4),
    Event(6, "branch-misses", 0x00C5),
)

CYCLES, INSTRUCTIONS, REF_CYCLES, CACHE_REFERENCES, CACHE_MISSES, BRANCHES, BRANCH_MISSES = range(
    KINDS
)

BY_NAME = {event.name: event for event in EVENTS}
BY_SELECTOR = {event.selector: event for event in EVENTS}
FIXED_KIND = {event.fixed: event.kind for event in EVENTS if event.fixed is not None}
"""Fixed counter number to the kind it counts."""


def event_named(name: str, cpuid: PmuCpuid) -> Event:
    """Return the event called ``name`` if a counter of this PMU can count it.

    Raises :class:`UsageError`, naming what exists.
    """
    event = BY_NAME.get(name)
    if event is None:
        raise UsageError(f"unknown event {name!r}; known: {', '.join(BY_NAME)}")
    has_fixed = event.fixed is not None and event.fixed < cpuid.fixed
    if not cpuid.available(event.kind) or (event.fixed_only and not has_fixed):
        raise UsageError(
            f"event {name!r}: no counter of this PMU supports it "
            f"({cpuid.gp} GP, {cpuid.fixed} fixed, unavailable events {cpuid.unavailable:#x})"
        )
    return event


MODELLED, REFUSED = "modelled", "refused"
MISSING_EVENTS = (MODELLED, REFUSED)
"""What becomes of an event of the guest's that real perf has none for on this machine."""
