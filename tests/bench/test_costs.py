"""Cost models: calibrated on the published figures, and what they say of other designs."""

from __future__ import annotations

import pytest

from pvpmu.bench.costs import CostModel, cost_models
from pvpmu.bench.reference import load_reference
from pvpmu.shared.tally import DELIVERY, HANDLER, PAUSE, REDUNDANT, TALLY_WORDS

HANDLERS = 7308
EXITS_TRAP = 6 * 7250 + 2 * 7322 + 4 * 58
"""6 + 2k exits for each handler that found overflows (7,322 bits in 7,250), 4 for a spurious."""
LIVE = 12 * HANDLERS
REDUNDANT_CALLS = 4 * HANDLERS + 3 * 7322
"""Before is_paused: m = 4 more pauses, and 3 more calls for each overflow handled."""


def tally(live: int, redundant: int = 0) -> list[int]:
    made = [0] * TALLY_WORDS
    made[PAUSE] = live + redundant
    made[REDUNDANT] = redundant
    return made


def per_pmi(model: CostModel, exits: int, calls: list[int]) -> dict[str, float]:
    exits_by, tallies = [0, 0, 0], [tally(0) for _ in range(3)]
    exits_by[HANDLER], tallies[HANDLER] = exits, calls
    # EXCEPTION_NMI and NMI_WINDOW exits; three calls for each of the 7,322 PMU requests.
    exits_by[DELIVERY], tallies[DELIVERY] = 7250 + 58, tally(3 * 7322)
    return model.per_pmi(HANDLERS, exits_by, tallies)


def models() -> dict[str, CostModel]:
    return {model.name: model for model in cost_models()}


@pytest.mark.parametrize("name", ["two-parameter", "three-parameter"])
def test_both_models_give_back_the_published_figures(name: str) -> None:
    model = models()[name]
    reference = load_reference("kvm-2021")
    assert reference is not None
    before = per_pmi(model, EXITS_TRAP, tally(LIVE, REDUNDANT_CALLS))
    after = per_pmi(model, EXITS_TRAP, tally(LIVE))
    assert before["handler_ns"] == pytest.approx(reference.handler_ns["trap-5.14"], abs=1)
    assert after["handler_ns"] == pytest.approx(reference.handler_ns["trap"], abs=1)


@pytest.mark.parametrize(
    ("name", "handler", "trap_total"),
    [("two-parameter", 8_500, 38_100), ("three-parameter", 17_000, 39_400)],
)
def test_a_handler_with_one_exit_and_eight_calls_costs_what_was_predicted(
    name: str, handler: int, trap_total: int
) -> None:
    model = models()[name]
    page = per_pmi(model, HANDLERS, tally(8 * HANDLERS))
    assert page["handler_ns"] == pytest.approx(handler, rel=0.01)
    trap = per_pmi(model, EXITS_TRAP, tally(LIVE))
    assert trap["total_ns"] == pytest.approx(trap_total, rel=0.005)


def test_inside_and_outside_add_up() -> None:
    for model in cost_models():
        split = per_pmi(model, EXITS_TRAP, tally(LIVE))
        total = split["handler_ns"] + split["outside_ns"]
        assert split["total_ns"] == pytest.approx(total, abs=0.2)


def test_no_handler_costs_nothing() -> None:
    (model, *_) = cost_models()
    split = model.per_pmi(0, [0, 0, 0], [tally(0)] * 3)
    assert split == {"handler_ns": 0.0, "outside_ns": 0.0, "total_ns": 0.0}
