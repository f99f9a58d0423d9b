"""Which sweeps a report makes."""

from __future__ import annotations

from dataclasses import replace

from pvpmu.guest.scenario import load_scenario
from pvpmu.report.plan import FREQUENCIES, Asked, sweeps

BR_INSTR = load_scenario("br_instr")


def asked(name: str) -> Asked:
    return Asked(name, load_scenario(name), ["trap", "page"], ["icx-2021-2p"], 5)


def test_a_workload_is_swept_itself_for_at_most_100_ms() -> None:
    for axes in sweeps(asked("br_instr"), BR_INSTR).values():
        assert axes["scenario"] == ("br_instr",)
        assert axes["scenario.duration_us"] == (100_000,)
        assert axes["seed"] == (5,)


def test_a_script_is_counted_whole_and_its_curves_are_of_another_scenario() -> None:
    found = sweeps(asked("br_instr-trace"), BR_INSTR)
    assert found["factorial"]["scenario"] == ("br_instr-trace",)
    assert "scenario.duration_us" not in found["factorial"]
    for name in ("events", "frequency", "vcpus"):
        assert found[name]["scenario"] == ("br_instr",)


def test_no_frequency_exceeds_what_the_scenario_allows() -> None:
    slow = replace(
        BR_INSTR,
        max_sample_rate=1000,
        events=tuple(replace(event, frequency=1000) for event in BR_INSTR.events),
    )
    found = sweeps(replace(asked("br_instr"), scenario=slow), BR_INSTR)
    assert found["frequency"]["frequency"] == tuple(hz for hz in FREQUENCIES if hz <= 1000)


def test_what_samples_nothing_by_frequency_has_no_such_curve() -> None:
    assert "frequency" not in sweeps(asked("stat-only"), BR_INSTR)
