"""Which checks apply, and why the others do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pvpmu.bench.checks import outcomes
from pvpmu.bench.document import Json
from pvpmu.bench.measure import BenchConfig, Measured
from pvpmu.cost.shelf import model_named
from pvpmu.guest.scenario import Host, Races
from pvpmu.shared.events import REFUSED
from pvpmu.shared.hostload import HostEvent

SAMPLES = "equivalent designs take the same samples"
ACCESSES = "equivalent designs make the same accesses"


def left_out(config: BenchConfig, measured: Measured, result: Json) -> dict[str, str]:
    made = outcomes(config, measured, result["designs"])
    return {each["name"]: each["why"] for each in made["checks_left_out"]}


def test_nothing_is_left_out_of_the_plain_workload(
    config: BenchConfig, measured: Measured, result: Json
) -> None:
    assert left_out(config, measured, result) == {}


@pytest.mark.parametrize("window", ["pmi_skid", "injection_latency", "handler_tail"])
def test_windows_let_designs_differ(
    config: BenchConfig, measured: Measured, result: Json, window: str
) -> None:
    scenario = replace(config.scenario, races=Races(**{window: 1}))
    why = left_out(replace(config, scenario=scenario), measured, result)
    assert set(why) == {SAMPLES, ACCESSES}
    assert "race windows" in why[SAMPLES]


def test_a_charge_lets_designs_differ(
    config: BenchConfig, measured: Measured, result: Json
) -> None:
    charged = replace(config, charge=model_named("icx-2021-2p"))
    why = left_out(charged, measured, result)
    assert set(why) == {SAMPLES, ACCESSES}
    assert "charged different times" in why[ACCESSES]


def test_one_design_has_nothing_to_be_equal_to(
    config: BenchConfig, measured: Measured, result: Json
) -> None:
    alone = replace(config, designs=config.designs[:1])
    made = outcomes(alone, measured, result["designs"][:1])
    assert {each["why"] for each in made["checks_left_out"]} == {
        "fewer than two designs of this run are equivalent"
    }


@pytest.mark.usefixtures("_only_clocks")
def test_what_real_perf_refuses_cannot_be_free_of_count_errors(
    config: BenchConfig, measured: Measured, result: Json
) -> None:
    scenario = replace(config.scenario, missing_events=REFUSED)
    assert left_out(replace(config, scenario=scenario), measured, result) == {}
    real = replace(config, scenario=scenario, perf="linux")
    assert left_out(real, measured, result) == {
        "count error 0": "real perf refuses instructions, branch-instructions, cache-misses on "
        "this machine"
    }
    assert left_out(replace(config, perf="linux"), measured, result) == {}


@pytest.mark.usefixtures("_only_clocks")
@pytest.mark.parametrize(
    ("event", "error", "told", "ok"),
    [
        ("instructions", 5, 5, True),
        ("instructions", 5, 4, False),
        ("cpu-cycles", 5, 5, False),
    ],
)
def test_what_is_not_counted_must_be_refused_and_said(
    config: BenchConfig, measured: Measured, result: Json, event: str, error: int, told: int,
    ok: bool,
) -> None:  # fmt: skip
    scenario = replace(config.scenario, missing_events=REFUSED)
    real = replace(config, scenario=scenario, perf="linux")
    page, number = measured.totals["page"], scenario.labels.index(event)
    page.error[number] += error
    page.told[number] += told
    try:
        made = outcomes(real, measured, result["designs"])
    finally:
        page.error[number] -= error
        page.told[number] -= told
    found = {each["name"]: each["ok"] for each in made["checks"]}
    assert found["count errors are those of refused events, and a page says so"] == ok


def test_with_events_of_the_host_count_errors_have_to_be_accounted_for(
    config: BenchConfig, measured: Measured, result: Json
) -> None:
    host = Host(events=(HostEvent(name="cpu-cycles", pinned=True),))
    busy = replace(config, scenario=replace(config.scenario, host=host))
    made = outcomes(busy, measured, result["designs"])
    assert [each["name"] for each in made["checks_left_out"]] == ["count error 0"]
    (check,) = (each for each in made["checks"] if each["name"].startswith("count errors are"))
    assert check["ok"]
    measured.totals["page"].error[0] += 5
    try:
        made = outcomes(busy, measured, result["designs"])
    finally:
        measured.totals["page"].error[0] -= 5
    (check,) = (each for each in made["checks"] if each["name"].startswith("count errors are"))
    assert not check["ok"]
