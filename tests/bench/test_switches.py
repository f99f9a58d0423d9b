"""A mediated PMU in the result: its switches, at made and at given exits, and void wall figures."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from pvpmu.bench.document import Json
from pvpmu.bench.measure import measure
from pvpmu.bench.switches import given_switches
from pvpmu.bench.table import print_result
from pvpmu.cost.file import load_cost_file
from pvpmu.cost.model import CostModel
from pvpmu.guest.scenario import Background, load_scenario
from pvpmu.shared.design import design_named

from .conftest import made, quiet, short_config

FILE = """\
name = "mine"
summary = "a server"
source = "me"

[costs]
exit_ns = 1200
call_ns = 900
redundant_call_ns = 400
guest_ns = 2000
pmu_switch_ns = { value = 1000, low = 400, high = 1600 }
"""
MODEL = CostModel.of(load_cost_file(FILE, "mine"))
SCENARIO = replace(
    load_scenario("br_instr"),
    duration_us=20_000,
    background=(
        Background(reason="EPT_VIOLATION", count=5),
        Background(reason="MSR_WRITE", count=30, fastpath=True),
        Background(reason="PREEMPTION_TIMER", count=100, fastpath=True),
    ),
)
ROWS = [
    {"reason": each.reason, "what": "", "exits": each.count, "fastpath": each.fastpath}
    for each in SCENARIO.background
]


@pytest.fixture(scope="module")
def result() -> Json:
    designs = [design_named(name) for name in ("trap-6.12", "mediated")]
    config = short_config(scenario=SCENARIO, designs=designs, runs=1, vcpus=1)
    return made(config, measure(config, quiet))


def test_the_fastpath_pays_only_where_it_would_emulate_beside_a_counter_of_instructions() -> None:
    mediated = {"pmu_switches": 1}
    found = given_switches(SCENARIO, mediated, ROWS, [MODEL])
    assert found is not None
    assert (found["switches"], found["fastpath_lost"]) == (35, 30)
    assert found["model"]["mine"] == {"ns": 35_000.0, "interval": [14_000.0, 56_000.0]}
    others = tuple(event for event in SCENARIO.events if event.name != "instructions")
    spared = given_switches(replace(SCENARIO, events=others), mediated, ROWS, [MODEL])
    assert spared is not None
    assert (spared["switches"], spared["fastpath_lost"]) == (5, 0)


def test_nothing_given_or_nothing_switched_says_nothing() -> None:
    assert given_switches(SCENARIO, {"pmu_switches": 0}, ROWS, []) is None
    assert given_switches(SCENARIO, {"pmu_switches": 1}, [], []) is None


def test_every_exit_of_the_mediated_design_is_a_switch(result: Json) -> None:
    trap, mediated = result["designs"]
    assert trap["pmu_switches"] == 0
    assert trap["given_switches"] is None
    assert mediated["pmu_switches"] == sum(mediated["exits"].values())
    assert mediated["pmu_switches_by"] == mediated["exits_by"]
    assert mediated["pmu_exits_with_nmi"] == (
        mediated["pmu_exits"] + mediated["exits"]["EXTERNAL_INTERRUPT"]
    )


def test_it_takes_the_samples_of_the_others_without_a_perf_call(result: Json) -> None:
    trap, mediated = result["designs"]
    assert mediated["samples_digest"] == trap["samples_digest"]
    assert mediated["access_digest"] == trap["access_digest"]
    assert sum(mediated["perf_calls"].values()) == 0
    assert all(check["ok"] for check in result["checks"])


def test_a_modelled_pmi_includes_its_switches(result: Json) -> None:
    mediated = result["designs"][1]
    costs = {
        name: cost["value"] for name, cost in result["cost_models"]["icx-2021-2p"]["costs"].items()
    }
    brought = mediated["exits_by"]["handler"] + mediated["exits_by"]["delivery"]
    ns = brought * (costs["exit_ns"] + costs["pmu_switch_ns"]) / mediated["handlers"]
    assert mediated["model"]["icx-2021-2p"]["total_ns"] == pytest.approx(ns, rel=1e-4)


def test_its_wall_figures_stand_in_parentheses_and_it_is_no_baseline(result: Json) -> None:
    trap, mediated = result["designs"]
    assert (trap["wall_valid"], mediated["wall_valid"]) == (True, False)
    assert mediated["handler_to_baseline"] is None
    assert result["baseline"] == "trap-6.12"
    out = io.StringIO()
    print_result(result, Console(file=out, width=200))
    text = out.getvalue()
    row = next(line for line in text.splitlines() if line.startswith("NMI handler, wall p50"))
    assert row.split()[-1].startswith("(")
    assert "in parentheses: wall-clock figures of mediated" in text
    assert "PMU switches" in text
