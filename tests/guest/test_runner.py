"""One run: the operations of the measured window, and the truth it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.recorder import Recorder
from pvpmu.guest.runner import GuestRun, RunHooks
from pvpmu.guest.scenario import Races, Scenario, ScenarioEvent, load_scenario
from pvpmu.guest.script import ScriptCounts
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import BRANCHES, CYCLES
from pvpmu.shared.page import PAGE_SIZE

DESIGNS = ("trap-5.14", "trap", "page")
RACES = Races(pmi_skid=100, injection_latency=2500, handler_tail=2500)


def _workload(**changes: Any) -> Scenario:
    plain = replace(load_scenario("br_instr"), duration_us=20_000, switch_us=0)
    return replace(plain, **changes)


def _script(**changes: Any) -> Scenario:
    script = ScriptCounts(
        ticks=5, sched_in=2, sched_out=1, overflows=(20, 12, 9, 4), coincident=3, stray=2
    )
    traced = load_scenario("br_instr-trace")
    return replace(traced, duration_us=5_000, script=replace(script, **changes))


def _counting(name: str) -> ScenarioEvent:
    return ScenarioEvent(name=name)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_script_runs_the_operations_it_names(inline: Callable[..., Any], design: str) -> None:
    run = inline(design, _script())
    counts = run.counts
    assert (counts.ticks, counts.sched_in, counts.sched_out) == (5, 2, 1)
    # 45 overflows on 42 instants, two of them delivered twice.
    assert (counts.handlers, counts.acks) == (44, 42)
    assert (counts.spurious, counts.second_bits) == (2, 3)
    assert counts.samples == 45
    assert counts.count_error == [0, 0, 0, 0]
    operations = run.recorder.operations
    assert operations["pmi"].count == 42
    assert operations["pmi"].accesses == 6 * 42 + 2 * 45
    assert operations["pmi_spurious"].accesses == 4 * 2
    assert operations["tick"].accesses == 22 * 5
    assert operations["sched_in"].accesses == 13 * 2
    assert operations["sched_out"].accesses == 12


def test_settling_the_counts_afterwards_is_not_recorded(inline: Callable[..., Any]) -> None:
    run = inline("trap", _script(sched_in=1, sched_out=0))
    assert run.recorder.operations["sched_out"].count == 0
    assert run.accesses("wrmsr", 0x38F) == 2 * (1 + 5 + 44)
    assert run.host.undelivered == 0


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("races", [Races(), RACES], ids=["plain", "races"])
def test_ticks_and_switches_come_with_the_clock(
    inline: Callable[..., Any], design: str, races: Races
) -> None:
    counts = inline(design, _workload(switch_us=6_000, races=races)).counts
    assert counts.ticks == 20
    assert (counts.sched_in, counts.sched_out) == (4, 3)
    assert counts.count_error == [0, 0, 0, 0]


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_counting_events_count_all_that_was_retired(
    inline: Callable[..., Any], design: str, seed: int
) -> None:
    events = tuple(_counting(name) for name in ("cpu-cycles", "branch-instructions"))
    run = inline(design, _workload(events=events), seed=seed)
    counts = run.counts
    # Nothing overflows and nothing holds: every cycle and branch of the window is counted.
    assert counts.handlers == counts.samples == 0
    totals = [event.hw.count for event in run.guest.core.events]
    assert totals == [counts.retired[CYCLES], counts.retired[BRANCHES]]
    assert totals[0] == 20_000 * 2500


def test_frequency_mode_gives_about_the_samples_asked_for(inline: Callable[..., Any]) -> None:
    events = (ScenarioEvent(name="cpu-cycles", frequency=4000, initial_period=625_000),)
    counts = inline("page", _workload(events=events)).counts
    # 20 ms at 4000 Hz.
    assert counts.samples == pytest.approx(80, abs=1)


def test_a_fixed_period_gives_one_sample_for_each_period(inline: Callable[..., Any]) -> None:
    events = (ScenarioEvent(name="cpu-cycles", period=400_000),)
    run = inline("page", _workload(events=events), capacity=1000)
    # 50,000,000 cycles: the last of 125 overflows falls on the very end.
    samples = list(run.guest.core.samples.kept)
    assert run.counts.samples == len(samples) == 125
    assert [sample.event_count for sample in samples] == [400_000 * n for n in range(1, 126)]
    assert [sample.time for sample in samples] == [160_000 * n for n in range(1, 126)]


@pytest.mark.parametrize("design", DESIGNS)
def test_more_events_than_counters_rotate_and_scale_back(
    inline: Callable[..., Any], design: str
) -> None:
    names = ("branch-instructions", "branch-instructions", "branch-instructions")
    scenario = _workload(events=tuple(_counting(name) for name in names), gp=2, fixed=0)
    run = inline(design, scenario)
    assert run.counts.rotations == 20
    assert run.counts.count_error == [0, 0, 0]
    assert run.recorder.operations["rotation"].accesses == 20 * (3 + 2 * 2 + 2 * 2)
    counts = run.counts
    assert counts.enabled_ns == [20_000_000] * 3
    # Two of three counters' worth of time, one millisecond at a turn.
    assert sum(counts.running_ns) == 40_000_000
    for count, running in zip(counts.count, counts.running_ns, strict=True):
        assert running == pytest.approx(40_000_000 / 3, abs=1_000_000)
        estimate = count * 20_000_000 / running
        assert estimate == pytest.approx(counts.retired[BRANCHES], rel=0.15)


def test_a_guest_whose_host_offers_no_page_runs_on(inline: Callable[..., Any]) -> None:
    assert inline("page", _script()).guest.page_registered
    assert not inline("trap", _script()).guest.page_registered


def _machine(design: str, scenario: Scenario, mapped: int, **hooks: Any) -> GuestRun:
    """A run whose host maps ``mapped`` bytes of the guest's two pages."""
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    memory = memoryview(bytearray(2 * PAGE_SIZE)).cast("Q")
    host = HostVcpu(slot, memory[: mapped // 8], design_named(design), scenario.cpuid)
    vcpu = Vcpu(slot, lambda: host.serve() and None)
    return GuestRun(vcpu, memory, PAGE_SIZE, scenario, seed=1, hooks=RunHooks(**hooks))


def test_hooks_see_progress_and_surround_every_handler() -> None:
    progress: list[int] = []
    order: list[str] = []

    def around(handler: Callable[[], None]) -> Callable[[], None]:
        def wrapped() -> None:
            order.append("before")
            handler()
            order.append("after")

        return wrapped

    scenario = _workload(duration_us=120_000, events=(_counting("cpu-cycles"),))
    scenario = replace(scenario, events=(ScenarioEvent(name="cpu-cycles", period=100_000_000),))
    run = _machine("page", scenario, 2 * PAGE_SIZE, progress=progress.append, around_handler=around)
    counts = run.run()
    assert progress == [50_000_000, 100_000_000]
    # 300,000,000 cycles.
    assert counts.handlers == 3
    assert order == ["before", "after"] * 3


def test_a_page_outside_the_guests_memory_is_refused_and_everything_works() -> None:
    recorder = Recorder()
    run = _machine("page", _script(), PAGE_SIZE, recorder=recorder)
    assert not run.page_registered
    counts = run.run()
    assert counts.samples == 45
    assert counts.count_error == [0, 0, 0, 0]


def test_a_run_starts_from_a_reset_host(inline: Callable[..., Any]) -> None:
    scenario = _script()
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    memory = memoryview(bytearray(2 * PAGE_SIZE)).cast("Q")
    host = HostVcpu(slot, memory, design_named("page"), scenario.cpuid)
    vcpu = Vcpu(slot, lambda: host.serve() and None)
    digests = []
    for _ in range(2):
        run = GuestRun(vcpu, memory, PAGE_SIZE, scenario, seed=1, hooks=RunHooks())
        digests.append(run.run().samples_digest)
    assert digests[0] == digests[1] == inline("page", scenario).counts.samples_digest


def test_an_event_that_no_counter_supports_is_refused_at_boot() -> None:
    scenario = _workload(events=(_counting("ref-cycles"),), fixed=2)
    with pytest.raises(UsageError, match=r"^event 'ref-cycles': no counter"):
        _machine("trap", scenario, 2 * PAGE_SIZE)
