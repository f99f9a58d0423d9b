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
"""The part of a request that says what an exit was and where."""
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


def _addresses(kind: int) -> list[int]:
    """What an exit of a kind may name: none for what is no exit of the model."""
    reason = kind & REASON_MASK
    if reason >= ExitReason.FLOOR:
        return []
    known = _ADDRESSES.get(ExitReason(reason), (0,)) if reason in _REASONS else ()
    return [UNKNOWN_ADDRESS, *known]


_REASONS = frozenset(map(int, ExitReason))
_ADDRESSES_OF = [_addresses(kind) for kind in _KINDS]


@dataclass(slots=True)
class HostStats:
    """Counts since START.

    ``tallies``: by place. ``by_kind``: exits by address, by kind, which is the request under
    KIND_MASK. ``undelivered``: PMIs raised and still on their way when the counting ended.
    ``load``: what the host's own events did. ``times``: what perf calls took, where they were real.
    ``vectored``: EXTERNAL_INTERRUPT exits bring PMIs.
    """

    pmi: PmiCounts
    tallies: list[list[int]] = field(default_factory=lambda: [[0] * TALLY_WORDS for _ in PLACES])
    by_kind: dict[int, dict[int, int]] = field(default_factory=dict)
    undelivered: int = 0
    load: HostLoadStats | None = None
    times: CallTimes | None = None
    vectored: bool = False

    @property
    def _place_of(self) -> list[int]:
        return _PLACE_OF_VECTORED if self.vectored else _PLACE_OF

    def of_kind(self, kind: int) -> tuple[dict[int, int], list[int]]:
        """Exits of a kind by address, and the tally of their place.

        A row is made when it is first asked for: of 512 kinds a guest has a dozen, and a kit makes
        thousands of vCPUs.
        """
        if kind not in self.by_kind:
            self.by_kind[kind] = dict.fromkeys(_ADDRESSES_OF[kind], 0)
        return self.by_kind[kind], self.tallies[self._place_of[kind]]

    def count_unknown(self, kind: int) -> None:
        """Count an exit whose address is no register."""
        self.of_kind(kind)[0][UNKNOWN_ADDRESS] += 1

    @property
    def any_exit(self) -> bool:
        """Whether there was one."""
        return any(any(counts.values()) for counts in self.by_kind.values())

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
        for kind, counts in sorted(self.by_kind.items()):
            if count := sum(counts.values()):
                found[kind & REASON_MASK] += count
        return found

    @property
    def exits_by(self) -> list[int]:
        """Exits by place."""
        found = [0] * len(PLACES)
        for kind, counts in self.by_kind.items():
            found[self._place_of[kind]] += sum(counts.values())
        return found

    @property
    def accesses(self) -> Counter[tuple[int, int]]:
        """MSR and RDPMC exits by (reason number, MSR address or RDPMC index)."""
        found: Counter[tuple[int, int]] = Counter()
        for kind, counts in sorted(self.by_kind.items()):
            if kind & REASON_MASK in _ADDRESSES:
                for address, count in counts.items():
                    if count:
                        found[kind & REASON_MASK, address] += count
        return found
