"""The shipped models: calibrated on the published figures, and what they say of other designs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from pvpmu.bench.reference import load_reference
from pvpmu.cost.model import parts_of
from pvpmu.shared.costs import work_of
from pvpmu.shared.tally import HANDLER

from .conftest import HANDLERS, PAGE, TRAP, TRAP_5_14, models, tally

MODELS = ("icx-2021-2p", "icx-2021-3p")


@pytest.mark.parametrize("name", MODELS)
def test_the_published_figures_come_back_whatever_the_uncertain_costs_are(name: str) -> None:
    reference = load_reference("kvm-2021")
    assert reference is not None
    for design, places in (("trap-5.14", TRAP_5_14), ("trap", TRAP)):
        figures = models()[name].per_pmi(*places)
        published = pytest.approx(reference.handler_ns[design], abs=0.1)
        assert figures["handler_ns"] == published
        assert figures["interval"]["handler_ns"] == [published, published]


@pytest.mark.parametrize(
    ("name", "costs"),
    [
        ("icx-2021-2p", {"exit_ns": 3110.8, "call_ns": 673.36, "guest_ns": 0}),
        ("icx-2021-3p", {"exit_ns": 1300, "call_ns": 1712.08, "guest_ns": 2000}),
    ],
)
def test_the_costs_are_those_that_the_figures_leave(name: str, costs: dict[str, float]) -> None:
    model = models()[name]
    for cost, ns in costs.items():
        assert getattr(model.costs, cost) == pytest.approx(ns, abs=0.01)
    assert model.costs.redundant_call_ns == pytest.approx(673.36, abs=0.01)


@pytest.mark.parametrize(
    ("name", "handler", "trap_total"),
    [("icx-2021-2p", 8_500, 38_100), ("icx-2021-3p", 17_000, 39_400)],
)
def test_a_handler_with_one_exit_and_eight_calls_costs_what_was_predicted(
    name: str, handler: int, trap_total: int
) -> None:
    model = models()[name]
    page = model.per_pmi(*PAGE)
    assert page["handler_ns"] == pytest.approx(handler, rel=0.01)
    low, high = page["interval"]["handler_ns"]
    assert low <= page["handler_ns"] <= high
    assert low < high
    assert model.per_pmi(*TRAP)["total_ns"] == pytest.approx(trap_total, rel=0.005)


@pytest.mark.parametrize("name", MODELS)
def test_fewer_locks_for_the_same_calls_show_in_the_interval(name: str) -> None:
    model = models()[name]
    work = parts_of(*TRAP)["handler_ns"]
    one_lock = type(work)(**(asdict(work) | {"locks": 2 * HANDLERS}))
    assert model.costs.of(one_lock) == model.costs.of(work)
    # Ten locks of twelve saved, at 0 to 600 ns each.
    low, high = model.interval(one_lock)
    assert high - low == pytest.approx(10 * 600 * HANDLERS)
    assert low < model.interval(work)[0]


def test_inside_and_outside_add_up() -> None:
    for model in models().values():
        for places in (TRAP, PAGE):
            split = model.per_pmi(*places)
            assert split["total_ns"] == pytest.approx(
                split["handler_ns"] + split["outside_ns"], abs=0.2
            )


def test_no_handler_costs_nothing() -> None:
    model = models()["icx-2021-3p"]
    split = model.per_pmi(0, [0, 0, 0], [tally(0)] * 3)
    assert split["total_ns"] == 0
    assert split["interval"]["handler_ns"] == [0, 0]


def test_the_description_says_where_each_cost_comes_from() -> None:
    costs = models()["icx-2021-2p"].described()["costs"]
    assert costs["exit_ns"]["from"] == "fitted"
    assert costs["call_ns"]["from"] == "as redundant_call_ns"
    assert costs["guest_ns"] == {"value": 0, "low": 0, "high": 4000, "from": "assumed"}


@pytest.mark.parametrize("name", MODELS)
def test_the_measured_handlers_did_what_the_trace_s_handlers_do(
    name: str, script_runs: dict[str, Any]
) -> None:
    measurements = models()[name].file.measurements
    for measured, design in zip(measurements, ("trap-5.14", "trap"), strict=True):
        run = script_runs[design]
        work = work_of(run.host.exits_by[HANDLER], run.host.tallies[HANDLER], run.counts.handlers)
        for count, number in asdict(work).items():
            assert getattr(measured, count) == number, count
