"""A measurement whose guest clock is charged."""

from __future__ import annotations

import io
from copy import deepcopy
from dataclasses import replace

import pytest
from rich.console import Console

from pvpmu.bench.charged import overhead_percent
from pvpmu.bench.document import Json
from pvpmu.bench.measure import BenchConfig, Measured, measure
from pvpmu.bench.table import print_result
from pvpmu.cost.shelf import model_named
from pvpmu.guest.scenario import load_scenario
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import UsageError

from .conftest import made, quiet, short_config

CHECK = "the guest clock was charged what the counted work costs"


@pytest.fixture(scope="module")
def charged() -> BenchConfig:
    designs = [design_named(name) for name in ("trap", "page")]
    return short_config(designs=designs, charge=model_named("icx-2021-2p"))


@pytest.fixture(scope="module")
def measured(charged: BenchConfig) -> Measured:
    return measure(charged, quiet)


@pytest.fixture(scope="module")
def result(charged: BenchConfig, measured: Measured) -> Json:
    return made(charged, measured)


def checks(result: Json) -> dict[str, bool]:
    return {check["name"]: check["ok"] for check in result["checks"]}


def test_designs_that_are_charged_different_times_are_not_compared(result: Json) -> None:
    assert checks(result) == {
        "no PMI lost": True,
        "count error 0": True,
        "host and guest count the same PMU exits": True,
        "timed and counted passes take the same samples": True,
        CHECK: True,
    }


def test_a_clock_that_was_charged_otherwise_fails_the_check(
    charged: BenchConfig, measured: Measured
) -> None:
    bad = deepcopy(measured)
    bad.totals["page"].guest["charged_ns"] += 1
    assert [name for name, ok in checks(made(charged, bad)).items() if not ok] == [CHECK]


def test_the_overhead_is_what_was_charged_by_what_was_left(result: Json) -> None:
    trap, page = result["designs"]
    assert result["charge"] == "icx-2021-2p"
    for design in (trap, page):
        left = design["elapsed_ns"] - design["charged_ns"]
        expected = 100 * design["charged_ns"] / left
        assert design["overhead_percent"] == pytest.approx(expected, abs=0.001)
    assert trap["overhead_percent"] > 3 * page["overhead_percent"] > 0


def test_a_program_that_never_ran_has_no_overhead() -> None:
    assert overhead_percent(1000, 250) == pytest.approx(33.333)
    assert overhead_percent(1000, 1000) is None
    assert overhead_percent(1000, 0) == 0


def test_the_table_says_what_was_charged(result: Json) -> None:
    out = io.StringIO()
    print_result(result, Console(file=out, width=140))
    lines = out.getvalue().splitlines()
    row = next(line for line in lines if line.startswith("overhead of the profile, icx-2021-2p, %"))
    shown = [float(cell) for cell in row.split()[-2:]]
    exact = [design["overhead_percent"] for design in result["designs"]]
    assert shown == [pytest.approx(percent, abs=0.01) for percent in exact]
    assert any(line.startswith("charged: icx-2021-2p") for line in lines)


def test_nothing_is_charged_to_a_script() -> None:
    config = short_config(scenario=load_scenario("br_instr-trace"))
    with pytest.raises(UsageError, match="is a script"):
        replace(config, charge=model_named("icx-2021-2p"))
