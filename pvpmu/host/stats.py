"""What the host counts of one vCPU between START and STOP.

**Invariants**: one addition for each exit; memory does not depend on what a guest tries.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pvpmu.host.pmi import PmiCounts
from pvpmu.shared import registers as msr
from pvpmu.shared.calltimes import CallTimes
from pvpmu.shared.costs import work_of
from pvpmu.shared.exits import NMI_BLOCKED, REASON_MASK, ExitReason
from pvpmu.shared.hostload import HostLoadStats
from pvpmu.shared.tally import DELIVERY, HANDLER, OTHER, PLACES, TALLY_WORDS

KIND_MASK = REASON_MASK | NMI_BLOCKED
"""The part of a request that says what an exit was and where: the low bits of a key."""
KIND_BITS = KIND_MASK.bit_length()
UNKNOWN_ADDRESS = 0xFFFF_FFFF
"""Stands for every address that is no register: a guest may try them all."""

_ADDRESSES = {
    ExitReason.MSR_READ: tuple(msr.BY_ADDRESS),
    ExitReason.MSR_WRITE: tuple(msr.BY_ADDRESS),
    ExitReason.RDPMC: msr.RDPMC_INDICES,
}
_BRING_PMIS = (ExitReason.EXCEPTION_NMI, ExitReason.NMI_WINDOW, ExitReason.INTERRUPT_WINDOW)
_KINDS = range(KIND_MASK + 1)


def _place(kind: int) -> int:
    if kind & NMI_BLOCKED:
        return HANDLER
    if kind in _BRING_PMIS:
        return DELIVERY
    return OTHER


_PLACE_OF = [_place(kind) for kind in _KINDS]
_PLACE_OF_VECTORED = [
    DELIVERY if kind == ExitReason.EXTERNAL_INTERRUPT else place
    for kind, place in enumerate(_PLACE_OF)
]
"""Where the host has a vector for guests' PMIs, no other interrupt of the host being modelled."""
_KEYS = [
    UNKNOWN_ADDRESS << KIND_BITS | kind for kind in _KINDS if kind & REASON_MASK < ExitReason.FLOOR
] + [
    address << KIND_BITS | reason | blocked
    for reason in ExitReason
    if reason < ExitReason.FLOOR
    for address in _ADDRESSES.get(reason, (0,))
    for blocked in (0, NMI_BLOCKED)
]


@dataclass(slots=True)
class HostStats:
    """Counts since START.

    ``counts``: exits by address << KIND_BITS | kind, where kind is the request under KIND_MASK.
    ``tallies``: by place; ``tally_of``: the same lists by kind. ``undelivered``: PMIs raised and
    still on their way when the counting ended. ``load``: what the host's own events did.
    ``times``: what perf calls took, where they were real. ``vectored``: EXTERNAL_INTERRUPT exits
    bring PMIs.
    """

    pmi: PmiCounts
    counts: dict[int, int] = field(default_factory=lambda: dict.fromkeys(_KEYS, 0))
    tallies: list[list[int]] = field(default_factory=lambda: [[0] * TALLY_WORDS for _ in PLACES])
    tally_of: list[list[int]] = field(init=False)
    undelivered: int = 0
    load: HostLoadStats | None = None
    times: CallTimes | None = None
    vectored: bool = False

    def __post_init__(self) -> None:
        self.tally_of = [self.tallies[place] for place in self._place_of]

    @property
    def _place_of(self) -> list[int]:
        return _PLACE_OF_VECTORED if self.vectored else _PLACE_OF

    def count_unknown(self, kind: int) -> None:
        """Count an exit whose address is no register."""
        self.counts[UNKNOWN_ADDRESS << KIND_BITS | kind] += 1

    @property
    def work(self) -> list[int]:
        """The host's work in all places, as the slot's ``work`` words have it."""
        done = work_of(0, [sum(words) for words in zip(*self.tallies, strict=True)])
        counts = (done.live_calls, done.redundant_calls, done.locks, done.placements)
        return [int(count) for count in (*counts, done.local_reads, done.switches)]

    @property
    def exits(self) -> Counter[int]:
        """Exits by reason number."""
        found: Counter[int] = Counter()
        for key, count in self.counts.items():
            if count:
                found[key & REASON_MASK] += count
        return found

    @property
    def exits_by(self) -> list[int]:
        """Exits by place."""
        found = [0] * len(PLACES)
        place_of = self._place_of
        for key, count in self.counts.items():
            found[place_of[key & KIND_MASK]] += count
        return found

    @property
    def accesses(self) -> Counter[tuple[int, int]]:
        """MSR and RDPMC exits by (reason number, MSR address or RDPMC index)."""
        found: Counter[tuple[int, int]] = Counter()
        for key, count in self.counts.items():
            if count and key & REASON_MASK in _ADDRESSES:
                found[key & REASON_MASK, key >> KIND_BITS] += count
        return found
