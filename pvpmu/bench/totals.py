"""Add up what one design did, over runs and vCPUs. Pure.

**Invariants**: counts come from recorded passes, wall times from timed ones; both passes of a run
must have done the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field

from pvpmu.bench.accuracy import AccuracyTotals
from pvpmu.guest.machine import Recorded, RunReport
from pvpmu.guest.recorder import OPERATIONS, OperationCounts
from pvpmu.guest.runner import Counts
from pvpmu.shared.calltimes import CallTimes
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import Histogram
from pvpmu.shared.hostload import HostLoadStats
from pvpmu.shared.tally import PLACES, TALLY_WORDS
from pvpmu.shared.units import NS_PER_S, Ns

OP_OF = {
    int(ExitReason.MSR_READ): "rdmsr",
    int(ExitReason.MSR_WRITE): "wrmsr",
    int(ExitReason.RDPMC): "rdpmc",
}
_GUEST_COUNTS = (
    "handlers",
    "acks",
    "spurious",
    "second_bits",
    "ticks",
    "sched_in",
    "sched_out",
    "rotations",
    "reads",
    "samples",
    "throttles",
    "lowered",
    "elapsed_ns",
    "charged_ns",
)


@dataclass(slots=True)
class Totals:
    """Sums over runs and vCPUs.

    ``guest``: the guest's own counts. ``accesses``, ``exits_guest``: by (op, address).
    ``exits_host``: the same exits as the host counted them. ``exits``: by reason number.
    ``error``: by event number, the sum of absolute errors. ``held`` and ``due``: by event number,
    what was retired while the page held the counters, and in all. ``runs``: recorded runs (one for
    each run and vCPU). ``lost``: PMIs raised, neither delivered nor coalesced, nor on their way at
    the end. ``told``: by event number, what the page said was not counted. ``refused``, ``missed``
    (by event kind) and ``host_events`` (by number of the host's event): see
    :class:`pvpmu.shared.hostload.HostLoadStats`. ``max_sample_rate``: the lowest at the end of a
    run, Hz. ``times``: of real perf calls in the recorded runs. ``unequal``: timed passes whose
    samples differed from the recorded ones.
    """

    guest: Counter[str] = field(default_factory=Counter)
    operations: dict[str, OperationCounts] = field(
        default_factory=lambda: {name: OperationCounts() for name in OPERATIONS}
    )
    accesses: Counter[tuple[str, int]] = field(default_factory=Counter)
    exits_guest: Counter[tuple[str, int]] = field(default_factory=Counter)
    exits_host: Counter[tuple[str, int]] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    tallies: list[list[int]] = field(default_factory=lambda: [[0] * TALLY_WORDS for _ in PLACES])
    exits_by: list[int] = field(default_factory=lambda: [0] * len(PLACES))
    pmi: Counter[str] = field(default_factory=Counter)
    error: Counter[int] = field(default_factory=Counter)
    held: Counter[int] = field(default_factory=Counter)
    due: Counter[int] = field(default_factory=Counter)
    told: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    missed: Counter[int] = field(default_factory=Counter)
    host_events: list[Counter[str]] = field(default_factory=list)
    accuracy: AccuracyTotals = field(default_factory=AccuracyTotals)
    max_sample_rate: int = 0
    times: CallTimes | None = None
    handler: Histogram = field(default_factory=Histogram)
    handler_p50s: list[Ns] = field(default_factory=list)
    access_rates: list[float] = field(default_factory=list)
    timer_ns: Ns = 0
    runs: int = 0
    unequal: int = 0
    lost: int = 0
    page_registered: bool = False
    _samples: list[str] = field(default_factory=list)
    _sequence: list[str] = field(default_factory=list)

    @property
    def samples_digest(self) -> str:
        """SHA-256 over the samples' digests of all runs and vCPUs in order, hex."""
        return _combined(self._samples)

    @property
    def access_digest(self) -> str:
        """SHA-256 over the access sequences' digests of all runs and vCPUs in order, hex."""
        return _combined(self._sequence)

    def add_recorded(self, report: RunReport, stats: VcpuStats) -> None:
        """Add one recorded run on one vCPU, as the guest and as the host counted it."""
        recorded = report.recorded
        assert recorded is not None
        self.runs += 1
        self.page_registered = report.page_registered
        self._add_guest(report.counts)
        self.accuracy.add(report.counts, report.errors)
        self._add_accesses(recorded)
        self._add_host(stats)

    def add_timed(self, reports: list[RunReport], recorded: list[RunReport]) -> None:
        """Add one timed pass, all vCPUs at once; ``recorded`` are their twins."""
        together = Histogram()
        for report, twin in zip(reports, recorded, strict=True):
            together.merge(report.handler_ns)
            self.timer_ns = max(self.timer_ns, report.timer_ns)
            self.unequal += report.counts.samples_digest != twin.counts.samples_digest
            assert twin.recorded is not None
            accesses = sum(twin.recorded.accesses.values())
            self.access_rates.append(accesses * NS_PER_S / max(report.run_ns, 1))
        self.handler.merge(together)
        self.handler_p50s.append(together.quantile(0.5))

    def _add_guest(self, counts: Counts) -> None:
        for name in _GUEST_COUNTS:
            self.guest[name] += getattr(counts, name)
        rates = (self.max_sample_rate or counts.max_sample_rate, counts.max_sample_rate)
        self.max_sample_rate = min(rates)
        for number, error in enumerate(counts.count_error):
            self.error[number] += abs(error)
        self.held.update(dict(enumerate(counts.held)))
        self.due.update(dict(enumerate(counts.due)))
        self.told.update(dict(enumerate(counts.told)))
        self._samples.append(counts.samples_digest)

    def _add_accesses(self, recorded: Recorded) -> None:
        self.accesses.update(recorded.accesses)
        self.exits_guest.update(recorded.exits)
        for name, done in recorded.operations.items():
            total = self.operations[name]
            total.count += done.count
            total.accesses += done.accesses
            total.exits += done.exits
        self._sequence.append(recorded.digest)

    def _add_host(self, stats: VcpuStats) -> None:
        self.exits.update(stats.exits)
        for reason, address, count in stats.accesses:
            self.exits_host[OP_OF[reason], address] += count
        for total, tally in zip(self.tallies, stats.tallies, strict=False):
            for kind, count in enumerate(tally):
                total[kind] += count
        for index, exits in enumerate(stats.exits_by):
            self.exits_by[index] += exits
        if stats.load is not None:
            self._add_load(stats.load)
        if stats.times is not None:
            self.times = self.times or CallTimes()
            self.times.add(stats.times)
        pmi = stats.pmi
        self.pmi.update(pmi)
        self.pmi["undelivered"] += stats.undelivered
        came = pmi["raised"] + pmi["stray"]
        lost = came - pmi["delivered"] - pmi["coalesced"] - stats.undelivered
        # By run, so that a surplus here never hides a loss there.
        self.lost += abs(lost)

    def _add_load(self, load: HostLoadStats) -> None:
        self.refused += load.refused
        self.missed.update(dict(enumerate(load.missed)))
        self.host_events = self.host_events or [Counter() for _ in load.events]
        for total, did in zip(self.host_events, load.events, strict=True):
            total.update(asdict(did))


def _combined(digests: list[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()
