"""Who runs when, and what is added up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pvpmu.bench.measure import TIMED_PASSES, Measured, measure
from pvpmu.guest.scenario import load_scenario
from pvpmu.shared.design import design_named

from .conftest import quiet, short_config


def test_runs_and_vcpus_are_summed(measured: Measured) -> None:
    for totals in measured.totals.values():
        assert totals.runs == 2 * 2
        assert totals.guest["ticks"] == 2 * 2 * 20


def test_every_handler_of_the_timed_pass_is_timed(measured: Measured) -> None:
    for totals in measured.totals.values():
        assert totals.handler.count == TIMED_PASSES * totals.guest["handlers"] > 0
        assert len(totals.handler_p50s) == 2 * TIMED_PASSES
        assert totals.unequal == 0


def test_vcpus_and_runs_have_programs_of_their_own(measured: Measured) -> None:
    for totals in measured.totals.values():
        assert len(set(totals._samples)) == 4


def test_designs_take_turns_in_an_order_that_rotates() -> None:
    labels: list[str] = []

    def progress(_share: float, label: str) -> None:
        name, _, what = label.partition(": ")
        if "counting" in what and (not labels or labels[-1] != name):
            labels.append(name)

    measure(short_config(runs=3, vcpus=1), progress)
    assert labels == [
        *("trap-5.14", "trap", "page"),
        *("trap", "page", "trap-5.14"),
        *("page", "trap-5.14", "trap"),
    ]


def test_progress_never_goes_back_and_ends_at_one() -> None:
    shares: list[float] = []
    measure(short_config(runs=1, vcpus=1), lambda share, _: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_scaling_needs_processes(measured: Measured) -> None:
    assert measured.scaling is None


@pytest.mark.parametrize("seed", [1, 2])
def test_another_seed_is_another_program(measured: Measured, seed: int) -> None:
    other = measure(short_config(seed=seed, designs=[design_named("page")]), quiet)
    assert other.totals["page"].samples_digest != measured.totals["page"].samples_digest


def test_a_scripted_scenario_gives_the_same_whatever_the_seed() -> None:
    scenario = load_scenario("br_instr-trace")
    script = scenario.script
    assert script is not None
    small = replace(script, ticks=59, overflows=(231, 232, 233, 38), coincident=7, stray=5)
    scenario = replace(scenario, script=small, duration_us=59_100)
    config = short_config(scenario=scenario, runs=1, vcpus=1, designs=[design_named("trap")])
    digests = {
        measure(replace(config, seed=seed), quiet).totals["trap"].samples_digest for seed in (1, 2)
    }
    assert len(digests) == 1
