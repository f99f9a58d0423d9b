"""A model fitted on one published overhead, asked for another."""

from __future__ import annotations

import pytest

from pvpmu.cost.file import load_cost_file
from pvpmu.cost.model import CostModel
from pvpmu.cost.prediction import Workload, overhead_of, predict, scale, share_of
from pvpmu.shared.costs import Work

from .test_file import PLAIN

MODEL = CostModel.of(load_cost_file(PLAIN, "mine"))
"""exit 1,200 ns, call 900.5 ns, guest 2,000 (1,500..2,500) ns."""
SECOND = 1_000_000_000


def workload(name: str, exits: int, handlers: int, published: float, *, calls: int = 0) -> Workload:
    return Workload(name, Work(exits, calls, 0, calls, 0, handlers=handlers), SECOND, published)


@pytest.mark.parametrize(("overhead", "share"), [(0, 0), (25, 0.2), (100, 0.5), (300, 0.75)])
def test_an_overhead_is_a_share_of_the_time_and_back(overhead: float, share: float) -> None:
    assert share_of(overhead) == pytest.approx(share)
    assert overhead_of(share) == pytest.approx(overhead)


@pytest.mark.parametrize("share", [1, 1.2])
def test_what_takes_all_of_the_time_has_no_overhead(share: float) -> None:
    assert overhead_of(share) is None


def test_the_scale_gives_the_fitted_workload_back() -> None:
    fitted = workload("a", 100_000, 0, 50)
    # 0.12 s of each second by the model, a third by the published overhead.
    assert scale(MODEL.costs, fitted) == pytest.approx((1 / 3) / 0.12)
    again = predict(MODEL, fitted, fitted)
    assert again["overhead_percent"] == pytest.approx(50)
    assert again["ratio"] == pytest.approx(1)
    assert again["within"]


def test_twice_the_work_takes_twice_the_share() -> None:
    fitted, other = workload("a", 100_000, 0, 25), workload("b", 200_000, 0, 50)
    found = predict(MODEL, fitted, other)
    assert found["overhead_percent"] == pytest.approx(100 * 0.4 / 0.6, abs=0.01)
    assert found["ratio"] == pytest.approx(0.4 / 0.6 / 0.5, abs=0.001)
    assert (found["fitted_on"], found["fitted_percent"]) == ("a", 25)
    assert (found["published_percent"], found["within"]) == (50, True)
    # Exits alone: the scale takes up whatever one costs, and the uncertain guest work has no part.
    assert found["interval"] == [found["overhead_percent"]] * 2


@pytest.mark.parametrize(
    ("published", "within"), [(66.7 / 1.49, True), (66.7 / 1.51, False), (66.7 * 1.49, True),
                              (66.7 * 1.51, False)]
)  # fmt: skip
def test_a_prediction_holds_within_one_and_a_half_either_way(
    published: float, within: bool
) -> None:
    fitted, other = workload("a", 100_000, 0, 25), workload("b", 200_000, 0, published)
    assert predict(MODEL, fitted, other)["within"] is within


def test_another_mix_of_work_leaves_an_interval() -> None:
    fitted, other = workload("a", 100_000, 0, 25), workload("b", 50_000, 30_000, 25)
    found = predict(MODEL, fitted, other)
    low, high = found["interval"]
    # 0.06 s of exits, 30,000 handlers of 1.5 to 2.5 us, against 0.12 s for a fifth.
    for percent, guest in ((low, 1500), (found["overhead_percent"], 2000), (high, 2500)):
        share = 0.2 * (0.06 + 30_000 * guest / SECOND) / 0.12
        assert percent == pytest.approx(100 * share / (1 - share), abs=0.01)


def test_more_work_than_time_is_a_miss_without_an_end() -> None:
    fitted, other = workload("a", 100_000, 0, 100), workload("b", 250_000, 0, 300)
    found = predict(MODEL, fitted, other)
    assert found["overhead_percent"] is found["ratio"] is None
    assert found["interval"] == [None, None]
    assert not found["within"]
