"""The workload that was published beside a scenario's own: counted too, to fit cost models on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pvpmu.bench.reference import Reference, load_reference
from pvpmu.bench.totals import Totals
from pvpmu.bench.vm import InlineVm, VmConfig
from pvpmu.cost.model import CostModel, Json
from pvpmu.cost.prediction import Workload, predict
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import Scenario, load_scenario, run_seed
from pvpmu.shared.costs import Costs, work_of
from pvpmu.shared.design import Design, GuestDesign


def count_inline(
    scenario: Scenario,
    design: Design,
    guest: GuestDesign,
    *,
    seed: int,
    vcpus: int,
    charge: Costs | None = None,
) -> Totals:
    """Count one recorded run inline, as the first run of ``pvpmu bench`` would.

    ``guest``: the guest's side, which need not be the design's own. ``charge``: what is charged to
    the guest clock, whole ns.
    """
    load = scenario.host_load
    vm = InlineVm(VmConfig(design=design, cpuid=scenario.cpuid, vcpus=vcpus, load=load))
    jobs = [
        RunJob(scenario, run_seed(seed, 0, vcpu), record=True, charge=charge, guest=guest)
        for vcpu in range(vcpus)
    ]
    totals = Totals()
    for report, stats in zip(vm.run(jobs), vm.stats(), strict=True):
        totals.add_recorded(report, stats)
    return totals


def standing_for(reference: Reference | None, designs: Iterable[str]) -> dict[str, str]:
    """The first of the ``designs`` that stands for each published kind of virtual PMU, by kind."""
    if reference is None or not reference.counterpart:
        return {}
    run = list(designs)
    found = {}
    for kind, names in reference.stands_for.items():
        present = [name for name in names if name in run]
        if present and kind in reference.overhead_percent:
            found[kind] = present[0]
    return found


def count_counterpart(
    reference: Reference | None,
    designs: Mapping[str, tuple[Design, GuestDesign]],
    *,
    seed: int,
    on_design: Callable[[str], None],
) -> dict[str, Totals]:
    """The counterpart's counts by design, of those that stand for something published.

    ``designs``: by name, with the guest's side. ``on_design`` is told each name before its run.
    """
    counts: dict[str, Totals] = {}
    for name in standing_for(reference, designs).values():
        assert reference is not None
        on_design(name)
        scenario = load_scenario(reference.counterpart)
        counts[name] = count_inline(scenario, *designs[name], seed=seed, vcpus=1)
    return counts


def predictions(
    reference: Reference | None,
    models: Iterable[CostModel],
    here: Mapping[str, Totals],
    there: Mapping[str, Totals],
) -> list[Json]:
    """What models fitted on the counterpart (``there``) say of the scenario's own overhead.

    ``here`` and ``there``: counts by design. Empty without a counterpart.
    """
    if reference is None or not there:
        return []
    scenario = load_scenario(reference.counterpart)
    other = load_reference(scenario.reference)
    assert other is not None
    found = []
    for kind, design in standing_for(reference, there).items():
        mine = _workload(reference.name, here[design], reference.overhead_percent[kind])
        fitted = _workload(scenario.name, there[design], other.overhead_percent[kind])
        found += [
            {"kind": kind, "design": design, **predict(model, fitted, mine)} for model in models
        ]
    return found


def _workload(name: str, totals: Totals, published: float) -> Workload:
    tally = [sum(words) for words in zip(*totals.tallies, strict=True)]
    work = work_of(totals.exits.total(), tally, totals.guest["handlers"])
    return Workload(name, work, totals.guest["elapsed_ns"], published)
