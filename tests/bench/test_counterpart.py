"""The two workloads published with the mediated PMU: fitted on one, predicted for the other."""

from __future__ import annotations

import io
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pvpmu.bench.counterpart import standing_for
from pvpmu.bench.document import Json
from pvpmu.bench.measure import Measured, measure
from pvpmu.bench.reference import Reference, load_reference
from pvpmu.bench.table import print_result
from pvpmu.cost.shelf import model_named
from pvpmu.guest.scenario import load_scenario
from pvpmu.shared.design import design_named

from .conftest import made, quiet, short_config

DOCS = Path(__file__).parents[2] / "docs" / "bench-json.md"
PAIR = ("mediated-six", "mediated-ten")


@pytest.fixture(scope="module")
def six() -> tuple[Measured, Json]:
    """30 ms of six events, on a design that stands for the emulated PMU and one that does not."""
    scenario = replace(load_scenario("six-events-F1000"), duration_us=30_000)
    designs = [design_named(name) for name in ("trap", "page")]
    config = short_config(scenario=scenario, designs=designs, runs=1, vcpus=1)
    measured = measure(config, quiet)
    return measured, made(config, measured)


def printed(result: Json) -> str:
    out = io.StringIO()
    print_result(result, Console(file=out, width=200))
    return out.getvalue()


@pytest.mark.parametrize("name", PAIR)
def test_each_workload_names_the_other(name: str) -> None:
    reference = load_reference(name)
    assert reference is not None
    counterpart = load_scenario(reference.counterpart)
    assert counterpart.reference == next(other for other in PAIR if other != name)
    assert {"emulated", "mediated"} <= set(reference.overhead_percent) & set(reference.stands_for)


def test_the_best_design_of_the_run_stands_for_a_kind() -> None:
    reference = Reference(
        name="x",
        summary="",
        counterpart="y",
        overhead_percent={"emulated": 1.0, "mediated": 2.0},
        stands_for={"emulated": ("best", "trap"), "mediated": ("m",), "unknown": ("trap",)},
    )
    assert standing_for(reference, ["page", "trap"]) == {"emulated": "trap"}
    assert standing_for(reference, ["trap", "m", "best"]) == {"emulated": "best", "mediated": "m"}
    assert standing_for(replace(reference, counterpart=""), ["trap"]) == {}
    assert standing_for(None, ["trap"]) == {}


def test_only_what_stands_for_something_published_is_counted_there(
    six: tuple[Measured, Json],
) -> None:
    measured, _ = six
    assert list(measured.counterpart) == ["trap"]
    ten = measured.counterpart["trap"].guest
    assert ten["rotations"] == ten["ticks"] == 200


def test_the_emulated_overhead_of_six_events_follows_from_that_of_ten(
    six: tuple[Measured, Json],
) -> None:
    _, result = six
    found = {entry["model"]: entry for entry in result["prediction"]}
    assert set(found) == {"icx-2021-2p", "icx-2021-3p"}
    for entry in found.values():
        assert (entry["kind"], entry["design"]) == ("emulated", "trap")
        assert (entry["fitted_on"], entry["fitted_percent"]) == ("ten-events-F1000", 79.32)
        assert entry["published_percent"] == 33.62
        assert entry["within"], entry


def test_every_field_of_a_prediction_is_documented(six: tuple[Measured, Json]) -> None:
    text = DOCS.read_text("utf-8")
    section = text[text.index("### `prediction`") : text.index("### `reference`")]
    for field in six[1]["prediction"][0]:
        assert f"`{field}`" in section


def test_a_miss_stands_in_the_summary(six: tuple[Measured, Json]) -> None:
    _, result = six
    assert "MISS" not in printed(result)
    missed = deepcopy(result)
    missed["prediction"][0].update(within=False, ratio=2.0, overhead_percent=67.24)
    short = printed(missed).split("VM-exits")[0]
    row = next(line for line in short.splitlines() if "by the published one" in line)
    assert row.split()[-3:] == ["2.00", "MISS", "-"]
    assert "MISSES by more than 1.5 x" in printed(missed)
    missed["prediction"][0].update(ratio=None, overhead_percent=None)
    assert "more than all of the time" in printed(missed)


def test_what_is_charged_is_not_predicted() -> None:
    scenario = replace(load_scenario("six-events-F1000"), duration_us=5_000)
    config = short_config(
        scenario=scenario,
        designs=[design_named("trap")],
        runs=1,
        vcpus=1,
        charge=model_named("icx-2021-2p"),
    )
    measured = measure(config, quiet)
    assert measured.counterpart == {}
    assert made(config, measured)["prediction"] == []
