"""The family of splits that both published figures allow."""

from __future__ import annotations

import pytest

from pvpmu.cost.file import load_cost_file
from pvpmu.cost.model import CostModel, parts_of
from pvpmu.cost.sensitivity import sensitivity, splits

from .conftest import HANDLERS, PAGE, TRAP, TRAP_5_14, models
from .test_file import FITTED, PLAIN


def test_exits_go_from_the_least_plausible_to_where_calls_cost_the_same() -> None:
    found = splits(models()["icx-2021-3p"], 22)
    exits = [split.exit_ns for split in found]
    assert len(exits) == 22
    assert exits == sorted(exits)
    assert exits[0] == 1000
    # There all is the two-parameter model.
    assert exits[-1] == pytest.approx(3110.8, abs=0.01)
    last = found[-1].least
    assert last.call_ns == pytest.approx(last.redundant_call_ns)
    assert found[-1].most.guest_ns == pytest.approx(0, abs=1e-6)


def test_every_split_gives_both_figures_back() -> None:
    for split in splits(models()["icx-2021-3p"], 7):
        for places, published in ((TRAP_5_14, 37646.7), (TRAP, 32929.3)):
            work = parts_of(*places)["handler_ns"]
            assert split.figure(work, HANDLERS) == [pytest.approx(published, abs=0.1)] * 2


def test_no_split_makes_a_live_call_cheaper_than_a_redundant_one_or_guest_work_negative() -> None:
    for split in splits(models()["icx-2021-3p"], 22):
        for costs in (split.least, split.most):
            assert costs.call_ns >= costs.redundant_call_ns - 1e-6
            assert costs.guest_ns >= 0


def test_a_cheaper_exit_makes_the_page_dearer_and_leaves_trap_where_it_is() -> None:
    works = {"trap": parts_of(*TRAP), "page": parts_of(*PAGE)}
    points = sensitivity(models()["icx-2021-3p"], works, 5)["points"]
    pages = [point["figures"]["page"]["handler_ns"][1] for point in points]
    assert pages == sorted(pages, reverse=True)
    assert pages[-1] == pytest.approx(8_498, abs=1)
    for point in points:
        assert point["figures"]["trap"]["handler_ns"] == [pytest.approx(32929.3, abs=0.1)] * 2
        low, high = point["figures"]["page"]["total_ns"]
        assert low <= high


@pytest.mark.parametrize("text", [PLAIN, FITTED])
def test_a_model_that_leaves_no_such_choice_has_no_splits(text: str) -> None:
    model = CostModel.of(load_cost_file(text, "x"))
    assert splits(model) == []
    assert splits(models()["icx-2021-2p"]) == []
