"""Run designs side by side: who runs when, which passes, what is kept.

Passes of different designs alternate, in an order that rotates, so that a slow second of the
machine hits them all alike.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pvpmu.bench.counterpart import count_counterpart, standing_for
from pvpmu.bench.livecost import LiveCosts, live_costs
from pvpmu.bench.realperf import counted_by
from pvpmu.bench.recorded import Recorded, read_back, record
from pvpmu.bench.reference import load_reference
from pvpmu.bench.totals import Totals
from pvpmu.bench.vm import Vm, VmConfig, open_vm
from pvpmu.cost.model import CostModel
from pvpmu.guest.latency import LatencyJob, LatencyReport, ThroughputJob, ThroughputReport
from pvpmu.guest.machine import Job, RunJob, RunReport
from pvpmu.guest.runner import refuse_script
from pvpmu.guest.scenario import Scenario, run_seed
from pvpmu.recording.file import Outcome
from pvpmu.recording.options import RecordTo
from pvpmu.shared.design import Design, DriverName, GuestDesign
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import BY_NAME
from pvpmu.shared.units import NS_PER_S, Ns

TIMED_PASSES = 5
"""Timed passes of each design and run: the machine's speed changes from second to second."""
_LATENCY_TURNS = 4
_LATENCY_ROUNDS = 15
_SCALING_ROUNDS = 3

_T = TypeVar("_T")

Progress = Callable[[float, str], None]
"""Told the share of the whole that is done, 0 to 1, and what is being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """What to measure. ``clock`` returns wall ns; ``pin``: see PINS.

    ``charge``: the model charged to the guest clock; raises :class:`UsageError` for a script.
    ``driver``: the guest's driver generation, else each design's own. ``record_to``: where the runs
    of every design are recorded to, in passes of their own. ``live``: record latencies for the live
    view, which raises :class:`UsageError` where there are no processes to look at.
    """

    scenario: Scenario
    designs: Sequence[Design]
    transport: str
    vcpus: int
    runs: int
    seed: int
    pin: str
    clock: Callable[[], Ns]
    charge: CostModel | None = None
    driver: DriverName | None = None
    record_to: RecordTo | None = None
    live: bool = False
    perf: str = "model"

    def __post_init__(self) -> None:
        if self.charge is not None:
            refuse_script(self.scenario)
        if self.live and self.transport != "process":
            raise UsageError(f"--live needs --transport process, got {self.transport}")

    @property
    def vm_names(self) -> list[str]:
        """The VM of each design."""
        return [f"bench-{os.getpid()}-{number}" for number in range(len(self.designs))]

    @property
    def counted_by(self) -> dict[str, str]:
        """By the scenario's labels what counts an event, see :func:`realperf.counted_by`."""
        scenario = self.scenario
        kinds = [BY_NAME[event.name].kind for event in scenario.events]
        events = dict(zip(scenario.labels, kinds, strict=True))
        return counted_by(self.perf, events, scenario.missing_events)

    def guest(self, name: str) -> GuestDesign:
        """The guest's side of the design of that name."""
        (guest,) = (design.guest for design in self.designs if design.name == name)
        return guest if self.driver is None else replace(guest, driver=self.driver)

    def job(
        self, design: str, seed: int, *, record: bool = False, clock: Callable[[], Ns] | None = None
    ) -> RunJob:
        """One pass on one vCPU, counted (``record``) or timed (``clock``)."""
        charge = self.charge.costs.rounded() if self.charge is not None else None
        guest = self.guest(design)
        return RunJob(self.scenario, seed, record=record, clock=clock, charge=charge, guest=guest)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Exits per second of one vCPU and of two at once (sum), and their ratio.

    Medians of several rounds, each on its own: the ratio is not that of the medians.
    """

    one: float
    two: float
    ratio: float


@dataclass(slots=True)
class Measured:
    """Everything measured. ``latency`` and ``totals`` by design name.

    ``counterpart``: by design name, counts of the workload published beside the scenario's, where
    there is one and nothing is charged. ``recordings``: by design name, what became of its
    recording; ``recorded``: what the file holds.
    """

    totals: dict[str, Totals] = field(default_factory=dict)
    counterpart: dict[str, Totals] = field(default_factory=dict)
    latency: dict[str, LatencyReport] = field(default_factory=dict)
    scaling: Scaling | None = None
    live_costs: LiveCosts | None = None
    recordings: dict[str, Outcome] = field(default_factory=dict)
    recorded: dict[str, Recorded] = field(default_factory=dict)


class _Work:
    """Counts steps done, for progress."""

    def __init__(self, steps: int, progress: Progress) -> None:
        self._steps = steps
        self._done = 0
        self._progress = progress

    def run(self, vm: Vm, jobs: Sequence[Job[_T]], label: str, *, first: int = 0) -> list[_T]:
        """One step: do jobs, from vCPU ``first`` on."""

        def on_progress(share: float) -> None:
            self._progress(min((self._done + share) / self._steps, 1.0), label)

        on_progress(0.0)
        results = vm.run(jobs, on_progress, first=first)
        self._done += 1
        return results

    def begin(self, label: str) -> None:
        """One step that tells nothing until it is done."""
        self._progress(min(self._done / self._steps, 1.0), label)
        self._done += 1


def measure(config: BenchConfig, progress: Progress) -> Measured:
    """Measure every design; raises what a VM raises."""
    measured = Measured()
    with contextlib.ExitStack() as stack:
        vms = _opened(config, stack, config.vm_names, live=config.live)
        scales = _scales(config)
        reference = load_reference(config.scenario.reference) if config.charge is None else None
        steps = (1 + TIMED_PASSES) * config.runs * len(vms) + _LATENCY_TURNS * len(vms)
        steps += len(standing_for(reference, vms))
        steps += config.runs * len(vms) if config.record_to is not None else 0
        work = _Work(steps + (3 * _SCALING_ROUNDS if scales else 0), progress)
        measured.totals = {name: Totals() for name in vms}
        for run in range(config.runs):
            _one_run(config, work, vms, measured.totals, run)
        # The view's totals are of the runs alone: tens of thousands of single accesses, in batches
        # that nothing records, are made where it does not look.
        apart = [f"{name}-accesses" for name in config.vm_names]
        probed = _opened(config, stack, apart, live=False) if config.live else vms
        for turn in range(_LATENCY_TURNS):
            for name in _rotated(list(vms), turn):
                job = LatencyJob(config.clock, rounds=_LATENCY_ROUNDS)
                (report,) = work.run(probed[name], [job], f"{name}: accesses")
                _merge(measured.latency, name, report)
        if scales:
            measured.scaling = _scaling(config, work)
        if config.transport == "process":
            measured.live_costs = live_costs(config.clock)
        measured.counterpart = count_counterpart(
            reference,
            {design.name: (design, config.guest(design.name)) for design in config.designs},
            seed=config.seed,
            on_design=lambda name: work.begin(f"{name}: counting the counterpart"),
        )
    if config.record_to is not None:
        _record(config, work, measured, config.record_to)
    progress(1.0, "done")
    return measured


def _opened(
    config: BenchConfig, stack: contextlib.ExitStack, names: Sequence[str], *, live: bool
) -> dict[str, Vm]:
    """A VM of each design, by its name, until the stack ends."""
    return {
        design.name: stack.enter_context(
            open_vm(
                VmConfig(
                    name=name,
                    design=design,
                    vcpus=config.vcpus,
                    cpuid=config.scenario.cpuid,
                    pin=config.pin,
                    load=config.scenario.host_load,
                    live=live,
                    perf=config.perf,
                    missing_events=config.scenario.missing_events,
                ),
                config.transport,
            )
        )
        for name, design in zip(names, config.designs, strict=True)
    }


def _record(config: BenchConfig, work: _Work, measured: Measured, record_to: RecordTo) -> None:
    """The runs of each design once more, recorded, when nothing is measured any longer."""
    for number, design in enumerate(config.designs):

        def run_all(vm: Vm, name: str = design.name) -> None:
            for run in range(config.runs):
                seeds = [run_seed(config.seed, run, vcpu) for vcpu in range(config.vcpus)]
                jobs = [config.job(name, seed, record=True) for seed in seeds]
                work.run(vm, jobs, f"{name}: run {run + 1} of {config.runs}, recording")

        vm_config = VmConfig(
            name=f"bench-{os.getpid()}-rec{number}",
            design=design,
            vcpus=config.vcpus,
            cpuid=config.scenario.cpuid,
            pin=config.pin,
            load=config.scenario.host_load,
        )
        measured.recordings[design.name] = record(config, record_to, vm_config, design, run_all)
    with contextlib.suppress(UsageError):
        # What could not be written may not be there to read: the outcomes say so.
        measured.recorded = read_back(record_to)


def _one_run(
    config: BenchConfig, work: _Work, vms: dict[str, Vm], totals: dict[str, Totals], run: int
) -> None:
    """One recorded pass of each design, then timed ones in turns."""
    seeds = [run_seed(config.seed, run, vcpu) for vcpu in range(config.vcpus)]
    label = f"run {run + 1} of {config.runs}"
    recorded: dict[str, list[RunReport]] = {}
    for name in _rotated(list(vms), run):
        jobs = [config.job(name, seed, record=True) for seed in seeds]
        recorded[name] = work.run(vms[name], jobs, f"{name}: {label}, counting")
        for report, stats in zip(recorded[name], vms[name].stats(), strict=True):
            totals[name].add_recorded(report, stats)
    for turn in range(TIMED_PASSES):
        for name in _rotated(list(vms), run + turn):
            jobs = [config.job(name, seed, clock=config.clock) for seed in seeds]
            timed = work.run(vms[name], jobs, f"{name}: {label}, timing")
            totals[name].add_timed(timed, recorded[name])


def _scales(config: BenchConfig) -> bool:
    """Whether two vCPUs on two CPUs can be compared with one."""
    return (
        config.transport == "process" and config.pin == "same" and len(os.sched_getaffinity(0)) > 1
    )


def _scaling(config: BenchConfig, work: _Work) -> Scaling:
    design = config.designs[0]
    vm_config = VmConfig(
        name=f"bench-{os.getpid()}-scaling",
        design=design,
        vcpus=2,
        cpuid=config.scenario.cpuid,
        pin=config.pin,
    )
    job = ThroughputJob(config.clock)
    ones, twos, ratios = [], [], []
    with open_vm(vm_config, config.transport) as vm:
        for _ in range(_SCALING_ROUNDS):
            # The two CPUs need not be equally fast: each vCPU alone, then both.
            alone = [
                _rate(work.run(vm, [job], f"exits of vCPU {vcpu}", first=vcpu)) for vcpu in (0, 1)
            ]
            both = _rate(work.run(vm, [job, job], "exits of both vCPUs"))
            ones.append(statistics.mean(alone))
            twos.append(both)
            ratios.append(both / ones[-1])
    return Scaling(statistics.median(ones), statistics.median(twos), statistics.median(ratios))


def _rate(reports: list[ThroughputReport]) -> float:
    return sum(report.exits * NS_PER_S / report.ns for report in reports)


def _merge(reports: dict[str, LatencyReport], name: str, report: LatencyReport) -> None:
    known = reports.setdefault(name, LatencyReport())
    known.plain |= report.plain
    for group in ("floors", "page_read", "page_write", "exit"):
        into: dict[str, list[float]] = getattr(known, group)
        for access, batches in getattr(report, group).items():
            into.setdefault(access, []).extend(batches)


def _rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]
