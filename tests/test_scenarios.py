"""What each shipped scenario is for, on shortened copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pvpmu.bench.vm import VmConfig, open_vm
from pvpmu.cost.shelf import model_named
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import Scenario, load_scenario
from pvpmu.shared.design import design_named
from pvpmu.shared.tally import calls

DESIGNS = ("trap-5.14", "trap", "page")

Inline = Callable[..., Any]


def short(name: str, ms: int, **changes: Any) -> Scenario:
    """The shipped scenario, ``ms`` milliseconds of it."""
    return replace(load_scenario(name), duration_us=ms * 1000, **changes)


def calls_of(operation: str, made: list[int]) -> Callable[[Any, Any], None]:
    """Note in ``made`` the host perf calls of each run of the guest perf core's ``operation``."""

    def prepare(guest: Any, host: Any) -> None:
        original = getattr(guest.core, operation)

        def counted(*args: Any) -> None:
            before = sum(map(calls, host.stats.tallies))
            original(*args)
            made.append(sum(map(calls, host.stats.tallies)) - before)

        setattr(guest.core, operation, counted)

    return prepare


# multiplex-10 ------------------------------------------------------------------------------------


def test_ten_events_take_turns_on_seven_counters(inline: Inline) -> None:
    run = inline("page", short("multiplex-10", 30))
    assert run.counts.rotations == 30
    assert run.counts.count_error == [0] * 10
    # Everybody had a counter, nobody all the time, and the truth is found again by scaling.
    for count, running, due in zip(
        run.counts.count, run.counts.running_ns, run.counts.due, strict=True
    ):
        assert 0 < running < 30_000_000
        if due > 1000:
            assert count * 30_000_000 // running == pytest.approx(due, rel=0.15)


def test_a_rotation_is_two_exits_with_a_page_and_dozens_of_calls_without_is_paused(
    inline: Inline,
) -> None:
    exits, per_rotation = {}, {}
    for design in DESIGNS:
        made: list[int] = []
        run = inline(design, short("multiplex-10", 20), prepare=calls_of("rotate", made))
        exits[design] = run.exits_per("rotation")
        per_rotation[design] = sum(made) / len(made)
        assert len(made) == run.counts.rotations == 20
    assert exits["page"] == 2
    assert exits["trap"] == exits["trap-5.14"] > 30
    # A rotation is worth three handlers: that is where the mail sees calls become more severe.
    assert per_rotation["trap-5.14"] > 60
    assert per_rotation["trap"] < 0.6 * per_rotation["trap-5.14"]
    assert per_rotation["page"] <= per_rotation["trap"]


# six-events-F1000, ten-events-F1000 --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "events", "rotations"), [("six-events-F1000", 6, 0), ("ten-events-F1000", 10, 15)]
)
def test_the_mediated_pmus_workloads(
    inline: Inline, name: str, events: int, rotations: int
) -> None:
    run = inline("trap", short(name, 15))
    counts = run.counts
    assert len(counts.count) == events
    assert counts.rotations == rotations
    # perf -a: the events are the CPU's, so that the task's sched-in touches nothing.
    assert counts.sched_in == 1
    assert run.exits_per("sched_in") == 0
    share = min(events, 9) / events
    assert counts.samples == pytest.approx(15 * events * share, abs=events)
    assert counts.running_ns == (
        [15_000_000] * 6 if events == 6 else pytest.approx([13_500_000] * 10, abs=1_000_000)
    )


# watchdog ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("design", "each"), [("trap", (12, 11)), ("page", (2, 2))])
def test_beside_a_watchdog_a_context_switch_is_two_exits_with_a_page(
    inline: Inline, design: str, each: tuple[int, int]
) -> None:
    run = inline(design, short("watchdog", 25))
    assert (run.exits_per("sched_in"), run.exits_per("sched_out")) == each
    alone = replace(short("watchdog", 25), events=short("watchdog", 25).events[1:])
    assert inline("page", alone).exits_per("sched_in") == 1
    # It never overflows, and misses no cycle, whatever the task does.
    assert run.counts.count[0] == run.counts.due[0] == 25_000 * 2500
    assert run.counts.running_ns[0] == 25_000_000


# idle --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ticks", "halts", "ticked"), [(False, 3, 6), (True, 24, 30)])
def test_a_sleeping_task_costs_hlt_exits_and_ticks_only_if_asked(
    inline: Inline, ticks: bool, halts: int, ticked: int
) -> None:
    scenario = short("idle", 30)
    assert scenario.idle is not None
    run = inline("page", replace(scenario, idle=replace(scenario.idle, ticks=ticks)))
    assert run.host.exits[12] == halts
    assert run.counts.ticks == ticked
    # 2 ms of every 10: nothing retires while the vCPU is halted, and no event is enabled.
    assert run.counts.retired[0] == 6_000 * 2500
    assert run.counts.enabled_ns == [6_000_000] * 4
    assert (run.counts.sched_in, run.counts.sched_out) == (3, 3)
    assert run.counts.count_error == [0] * 4


def test_a_tick_without_events_touches_no_register(inline: Inline) -> None:
    scenario = short("idle", 30)
    assert scenario.idle is not None
    quiet = inline("trap", scenario)
    ticking = inline("trap", replace(scenario, idle=replace(scenario.idle, ticks=True)))
    assert quiet.pmu_exits == ticking.pmu_exits
    assert quiet.counts.samples_digest == ticking.counts.samples_digest


# stat-only ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
def test_reads_of_live_counters_exit_in_every_design(inline: Inline, design: str) -> None:
    run = inline(design, short("stat-only", 40))
    assert run.counts.reads == 4
    assert run.exits_per("read") == 4
    assert run.counts.samples == run.counts.handlers == 0
    assert run.exits_per("tick") == 0
    assert run.counts.count == run.counts.due
    assert any("RDPMC exits" in note for note in load_scenario("stat-only").notes)


# host-profiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
def test_the_hosts_events_leave_a_guest_counter_without_an_event(
    inline: Inline, design: str
) -> None:
    run = inline(design, short("host-profiles", 20))
    load = run.host.load
    # The guest's cpu-cycles is enabled all the time and counts nothing.
    assert run.counts.count[0] == 0
    assert run.counts.count_error == [-20_000 * 2500, 0, 0, 0, 0]
    assert load.missed == [20_000 * 2500, 0, 0, 0, 0, 0, 0]
    assert load.refused > 100
    # Only a page can say so, and it says it of every cycle.
    assert run.counts.told == ([20_000 * 2500, 0, 0, 0, 0] if design == "page" else [0] * 5)


@pytest.mark.parametrize("design", ["trap", "trap-direct", "page", "page-lean"])
def test_the_host_samples_the_guest_beside_the_guests_own_profile(
    inline: Inline, design: str
) -> None:
    scenario = short("host-profiles", 20)
    run = inline(design, scenario)
    watchdog, branches, ref_cycles, misses = run.host.load.events
    assert (watchdog.samples, watchdog.count) == (0, 20_000 * 2500)
    assert branches.samples == branches.count // 925_000 > 10
    assert branches.running == branches.cycles == 20_000 * 2500
    # Flexible ones have what the guest leaves: a fixed counter that only one of them can use.
    assert 0 < ref_cycles.running < ref_cycles.cycles
    assert misses.running == 0
    assert run.host.exits[0] == run.counts.acks + branches.samples + ref_cycles.samples
    alone = inline(design, replace(scenario, host=None))
    assert alone.counts.count_error == [0] * 5
    assert alone.host.load is None


# throttled, throttled-25 -------------------------------------------------------------------------


def charged(design: str, scenario: Scenario) -> Any:
    """The counts of a run whose clock is charged the scenario's own cost model."""
    costs = model_named(scenario.charge).costs.rounded()
    with open_vm(VmConfig(design=design_named(design), cpuid=scenario.cpuid), "inline") as vm:
        (report,) = vm.run([RunJob(scenario, 1, charge=costs)])
    return report.counts


@pytest.mark.parametrize("design", DESIGNS)
def test_rates_above_the_limit_are_throttled_at_ten_samples_per_tick(design: str) -> None:
    counts = charged(design, short("throttled", 20))
    # cpu-cycles in each tick; the other two stay below the limit.
    assert 18 <= counts.throttles <= 20
    assert counts.samples < 20 * (10 + 9 + 9)
    assert (counts.lowered, counts.max_sample_rate) == (0, 10_000)


def test_linux_lowers_the_rate_where_the_handler_takes_too_long_and_not_with_a_page() -> None:
    counts = {design: charged(design, short("throttled-25", 60)) for design in DESIGNS}
    rates = {design: counts[design].max_sample_rate for design in DESIGNS}
    # A handler may take 25 us of each 100: with a page it takes about 13, without about 30.
    assert rates == {"trap-5.14": 7000, "trap": 7000, "page": 10_000}
    assert counts["page"].lowered == 0
    assert counts["trap"].lowered > 0
    kept = charged("trap", short("throttled", 60))
    assert kept.samples > counts["trap"].samples


# four-vcpus --------------------------------------------------------------------------------------


def test_four_vcpus_is_the_mails_workload_four_times() -> None:
    four, one = load_scenario("four-vcpus"), load_scenario("br_instr")
    assert (four.vcpus, one.vcpus) == (4, 1)
    assert (four.events, four.workload) == (one.events, one.workload)
