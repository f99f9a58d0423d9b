"""A cost model charged to the guest clock: the clock moves on, the counters do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pvpmu.bench.vm import VmConfig, open_vm
from pvpmu.cost.shelf import model_named
from pvpmu.guest.machine import RunJob, RunReport
from pvpmu.guest.scenario import Races, Scenario, ScenarioEvent, load_scenario
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.costs import Costs, work_of
from pvpmu.shared.design import Design, design_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import CYCLES

DESIGNS = ("trap-5.14", "trap", "page")
COSTS = model_named("icx-2021-3p").costs.rounded()
FREE = Costs(exit_ns=0, call_ns=0, redundant_call_ns=0, guest_ns=0)
DURATION = 20_000_000
_MS = 1_000_000

Run = tuple[RunReport, VcpuStats]


def _scenario(*, frequency: bool, **changes: Any) -> Scenario:
    """20 ms of the 2021 events, with their frequencies or with fixed periods."""
    plain = load_scenario("br_instr")
    events = tuple(
        replace(event) if frequency else ScenarioEvent(name=event.name, period=event.initial_period)
        for event in plain.events
    )
    scenario = replace(plain, duration_us=DURATION // 1000, events=events)
    return replace(scenario, **changes)


def _run(
    design: str | Design,
    scenario: Scenario,
    costs: Costs | None = COSTS,
    transport: str = "inline",
) -> Run:
    made = design_named(design) if isinstance(design, str) else design
    config = VmConfig(design=made, cpuid=scenario.cpuid)
    with open_vm(config, transport) as vm:
        (report,) = vm.run([RunJob(scenario, 5, record=True, charge=costs)])
        (stats,) = vm.stats()
    return report, stats


def _all_of(scenario: Scenario, costs: Costs | None = COSTS) -> dict[str, Run]:
    return {design: _run(design, scenario, costs) for design in DESIGNS}


@pytest.fixture(scope="module")
def fixed() -> dict[str, Run]:
    """Every design with fixed periods."""
    return _all_of(_scenario(frequency=False))


@pytest.fixture(scope="module")
def adapting() -> dict[str, Run]:
    """Every design in frequency mode."""
    return _all_of(_scenario(frequency=True))


def test_a_faster_design_collects_more_samples_in_the_same_time(fixed: dict[str, Run]) -> None:
    samples = [fixed[design][0].counts.samples for design in DESIGNS]
    assert samples == sorted(samples)
    assert samples[0] < samples[1] < samples[2]
    free = _run("trap", _scenario(frequency=False), None)[0].counts.samples
    assert samples[2] < free


@pytest.mark.parametrize("runs", ["fixed", "adapting"])
def test_what_is_charged_is_what_the_counted_work_costs(
    runs: str, request: pytest.FixtureRequest
) -> None:
    for report, stats in request.getfixturevalue(runs).values():
        counts = report.counts
        tally = [sum(words) for words in zip(*stats.tallies, strict=True)]
        work = work_of(sum(stats.exits.values()), tally, counts.handlers)
        assert counts.charged_ns == COSTS.of(work) > _MS


@pytest.mark.parametrize(
    "design",
    [
        design_named("page-lean"),
        replace(design_named("trap"), context_lock="per-exit"),
        design_named("mediated"),
    ],
    ids=["reads without perf", "one lock for an exit", "switches"],
)
def test_locks_placements_reads_without_perf_and_switches_are_charged_at_their_own_price(
    design: Design,
) -> None:
    costs = replace(COSTS, lock_ns=300, placement_ns=70, local_read_ns=50, pmu_switch_ns=900)
    report, stats = _run(design, _scenario(frequency=False), costs)
    tally = [sum(words) for words in zip(*stats.tallies, strict=True)]
    work = work_of(sum(stats.exits.values()), tally, report.counts.handlers)
    assert work.local_reads > 0 or work.locks < work.live_calls or work.switches > 0
    assert report.counts.charged_ns == costs.of(work)
    assert report.counts.count_error == [0, 0, 0, 0]


@pytest.mark.parametrize("runs", ["fixed", "adapting"])
def test_the_counters_see_nothing_of_it(runs: str, request: pytest.FixtureRequest) -> None:
    hz = load_scenario("br_instr").cpu_hz
    for report, _ in request.getfixturevalue(runs).values():
        counts = report.counts
        assert counts.count_error == [0, 0, 0, 0]
        left = counts.elapsed_ns - counts.charged_ns
        assert counts.retired[CYCLES] == pytest.approx(left * hz / 1e9, abs=hz / 1e9 + 1)


@pytest.mark.parametrize("runs", ["fixed", "adapting"])
def test_the_window_is_one_of_the_guest_clock_and_ticks_keep_to_it(
    runs: str, request: pytest.FixtureRequest
) -> None:
    for report, _ in request.getfixturevalue(runs).values():
        counts = report.counts
        # The last PMI or tick may be charged past the end.
        assert DURATION <= counts.elapsed_ns < DURATION + _MS
        assert counts.ticks == 20


def test_frequency_mode_sees_the_time_that_passes(adapting: dict[str, Run]) -> None:
    samples = {design: adapting[design][0].counts.samples for design in DESIGNS}
    free = _run("trap", _scenario(frequency=True), None)[0].counts.samples
    fixed_share = _run("trap", _scenario(frequency=False))[0].counts.samples / free
    # With half of the cycles gone it shortens its periods until the rate is nearly that asked for.
    assert samples["trap"] / free > fixed_share + 0.1


def test_throttling_reacts_to_it() -> None:
    # Ten samples in a tick throttle; each takes longer than a tenth of a tick leaves room for.
    event = ScenarioEvent(name="cpu-cycles", period=200_000)
    scenario = _scenario(frequency=False, events=(event,))
    throttled = {design: _run(design, scenario)[0].counts.throttles for design in DESIGNS}
    assert throttled["page"] > throttled["trap"] >= throttled["trap-5.14"]
    assert _run("trap", scenario, None)[0].counts.throttles > throttled["trap"]


def test_it_comes_out_the_same_each_time(fixed: dict[str, Run]) -> None:
    again = _run("page", _scenario(frequency=False))
    assert again[0].counts == fixed["page"][0].counts
    assert again[0].recorded == fixed["page"][0].recorded
    assert again[1] == fixed["page"][1]


@pytest.mark.process
def test_it_comes_out_the_same_between_processes(fixed: dict[str, Run]) -> None:
    report, stats = _run("page", _scenario(frequency=False), transport="process")
    assert report.counts == fixed["page"][0].counts
    assert report.recorded == fixed["page"][0].recorded
    assert stats == fixed["page"][1]


@pytest.mark.parametrize("design", DESIGNS)
def test_charging_nothing_changes_nothing(design: str) -> None:
    scenario = _scenario(frequency=True, switch_us=6_000)
    free, none = (_run(design, scenario, costs) for costs in (FREE, None))
    assert free[0].counts == none[0].counts
    assert free[0].recorded == none[0].recorded


@pytest.mark.parametrize("design", DESIGNS)
def test_with_race_windows_nothing_is_lost_and_counts_stay_exact(design: str) -> None:
    races = Races(pmi_skid=100, injection_latency=2500, handler_tail=2500)
    report, stats = _run(design, _scenario(frequency=True, races=races))
    pmi = stats.pmi
    assert report.counts.count_error == [0, 0, 0, 0]
    assert pmi["raised"] == pmi["delivered"] + pmi["coalesced"] + stats.undelivered


def test_a_script_s_clock_takes_no_charge() -> None:
    with pytest.raises(UsageError, match="'br_instr-trace' is a script, whose clock is given"):
        _run("page", load_scenario("br_instr-trace"))
