"""A rule of docs/protocol.md as a check: it looks at every exit of a guest and keeps what it finds.

A check has a verdict only where it had an occasion: a guest that never COMMITs breaks no rule about
COMMITs, and keeps none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pvpmu.conformance.guests.seen import Ended, Exit, Offer
from pvpmu.conformance.vector import Level
from pvpmu.conformance.verdict import Failure

PLAIN = "FEA-9/page"
"""The case in which nothing goes wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a session ended.

    ``registered``: vCPUs whose page still was. ``ended``: pages that went out of use, by vCPU.
    ``segment``: what is wrong with the guest's memory segment, empty for nothing.
    """

    registered: tuple[int, ...] = ()
    ended: tuple[Ended, ...] = ()
    segment: str = ""


class Rule:
    """One check; an instance lives as long as one guest's session.

    ``id``: the rule, with a word where it has several checks. ``never``: the reason to skip it.
    ``homes``: cases of which at least one must give it occasions.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    level: ClassVar[Level] = "MUST"
    never: ClassVar[str]
    homes: ClassVar[tuple[str, ...]] = (PLAIN,)

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.occasions = 0
        self.broken: Failure | None = None

    def look(self, seen: Exit) -> None:
        """Look at an exit, before the host handles it."""

    def finish(self, end: End) -> None:
        """Look at how the session ended."""

    def expect(self, seen: Exit, *, holds: bool, expected: str, actual: str) -> None:
        """An occasion; the first that does not hold is kept."""
        self.occasions += 1
        if not holds and self.broken is None:
            where = f"vCPU {seen.vcpu}, exit {seen.number}"
            self.broken = Failure(where=where, op=seen.text, expected=expected, actual=actual)

    def expect_end(self, *, holds: bool, expected: str, actual: str) -> None:
        """Likewise for the end of the session."""
        self.occasions += 1
        if not holds and self.broken is None:
            self.broken = Failure(where="end", op="Bye", expected=expected, actual=actual)
