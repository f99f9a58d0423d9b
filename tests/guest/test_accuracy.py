"""Periods against the ideal, and where samples point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pvpmu.guest.accuracy import Accuracy
from pvpmu.guest.perf_event import EventConfig, opened
from pvpmu.guest.scenario import Races, Scenario, ScenarioEvent, load_scenario
from pvpmu.guest.workload import RATE_ONE, Phase, Workload
from pvpmu.shared.events import BRANCHES, BY_NAME, CYCLES, INSTRUCTIONS, KINDS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER

HZ = 1_000_000
BOTH = MODE_USER | MODE_KERNEL


def program(instructions: int = 2, branches: int = 1) -> Workload:
    """One endless phase: so many instructions and branches per cycle, a million cycles a second."""
    rates = [0] * KINDS
    rates[CYCLES] = RATE_ONE
    rates[INSTRUCTIONS] = instructions * RATE_ONE
    rates[BRANCHES] = branches * RATE_ONE
    return Workload([Phase(1 << 40, tuple(rates))], HZ)


def sample(accuracy: Accuracy, period: int, name: str = "branch-instructions") -> None:
    event = opened(0, EventConfig(BY_NAME[name], 1000), 1 << 40)
    event.hw.last_period = period
    accuracy.sampled(event)


def run(accuracy: Accuracy, work: Workload, cycles: int, *live: tuple[int, int, int]) -> None:
    accuracy.before(live, cycles, MODE_USER)
    work.retire(cycles)


def test_skid_is_the_distance_from_the_overflow_to_what_was_interrupted() -> None:
    work = program()
    accuracy = Accuracy(work, 1)
    run(accuracy, work, 100, (BRANCHES, BOTH, 40))
    accuracy.interrupted()
    sample(accuracy, 1000)
    # 60 cycles of two instructions after the overflow in the 40th.
    assert (accuracy.errors.skid.count, accuracy.errors.skid.max) == (1, 120)
    assert accuracy.errors.exact == 0


def test_a_pmi_at_the_very_overflow_is_exact() -> None:
    work = program()
    accuracy = Accuracy(work, 1)
    run(accuracy, work, 40, (BRANCHES, BOTH, 40))
    accuracy.interrupted()
    run(accuracy, work, 500)
    sample(accuracy, 1000)
    assert (accuracy.errors.exact, accuracy.errors.skid.max) == (1, 0)


@pytest.mark.parametrize(
    "live",
    [
        (BRANCHES, BOTH, 101),  # not yet
        (BRANCHES, BOTH, 0),  # has overflowed before
        (BRANCHES, BOTH, -7),
        (BRANCHES, MODE_KERNEL, 40),  # does not count here
        (CYCLES, BOTH, 40),  # another event
    ],
)
def test_a_sample_without_a_known_overflow_says_nothing_of_skid(live: tuple[int, int, int]) -> None:
    work = program()
    accuracy = Accuracy(work, 1)
    run(accuracy, work, 100, live)
    accuracy.interrupted()
    sample(accuracy, 1000)
    assert accuracy.errors.skid.count == 0


@pytest.mark.parametrize(("period", "ppm"), [(1000, 0), (1010, 10_000), (500, 500_000)])
def test_a_period_is_compared_with_rate_by_frequency(period: int, ppm: int) -> None:
    # A million branches a second at 1000 Hz.
    accuracy = Accuracy(program(), 1)
    sample(accuracy, period)
    assert accuracy.errors.period[0].max == ppm


def test_an_event_too_rare_for_its_frequency_has_an_ideal_period_of_one() -> None:
    accuracy = Accuracy(program(branches=0), 1)
    sample(accuracy, 3)
    assert accuracy.errors.period[0].max == 2_000_000


def scenario(**changes: Any) -> Scenario:
    events = (ScenarioEvent(name="cpu-cycles", period=400_000),)
    plain = replace(load_scenario("br_instr"), duration_us=10_000, events=events, switch_us=0)
    return replace(plain, **changes)


@pytest.mark.parametrize("design", ["trap", "page"])
def test_without_windows_every_sample_is_at_the_right_instruction(
    inline: Callable[..., Any], design: str
) -> None:
    errors = inline(
        design, "multiplex-10" if design == "page" else scenario()
    ).guest.accuracy.errors
    assert errors.skid.count == errors.exact > 50


def test_a_late_pmi_is_off_by_what_ran_meanwhile(inline: Callable[..., Any]) -> None:
    run = inline("trap", scenario(races=Races(pmi_skid=100)), capacity=100)
    errors = run.guest.accuracy.errors
    assert errors.exact == 0
    # 100 cycles at about 1.7 instructions each.
    assert 140 < errors.skid.quantile(0.5) < 200


def test_a_sample_points_to_what_the_nmi_interrupted(inline: Callable[..., Any]) -> None:
    plain = inline("trap", scenario(), capacity=100)
    slow = inline("trap", scenario(races=Races(injection_latency=2500)), capacity=100)
    first, second = (each.guest.core.samples.kept[0] for each in (plain, slow))
    # The handler starts 2500 cycles, 1 us, later; until then both ran the same.
    assert (second.ip, second.time) == (first.ip, first.time + 1000)
    assert slow.guest.accuracy.errors.exact == slow.counts.samples


def test_a_script_has_no_code_to_point_to(inline: Callable[..., Any]) -> None:
    script = load_scenario("br_instr-trace")
    assert script.script is not None
    few = replace(script.script, overflows=(20, 12, 9, 4), coincident=0, stray=0, ticks=1)
    run = inline("trap", replace(script, script=few, duration_us=5000))
    assert run.guest.accuracy is None
