"""Medians with intervals that promise no more than they hold."""

from __future__ import annotations

import itertools

import pytest

from pvpmu.report.statistics import median_of, quantile, ratios


@pytest.mark.parametrize("count", range(1, 12))
def test_the_coverage_is_that_of_all_ways_to_fall_around_the_median(count: int) -> None:
    found = median_of(list(range(count)))
    assert found is not None
    held = 0
    for below in itertools.product((True, False), repeat=count):
        smaller = sum(below)
        # The median lies between the smaller-th and the next value.
        held += found.low <= smaller - 0.5 <= found.high
    assert found.coverage == pytest.approx(held / 2**count)


@pytest.mark.parametrize(("count", "kept"), [(1, 0), (3, 0), (6, 0), (9, 1), (12, 2), (30, 9)])
def test_an_interval_is_the_narrowest_that_holds_95_percent(count: int, kept: int) -> None:
    found = median_of([float(value) for value in range(count)])
    assert found is not None
    assert (found.low, found.high) == (kept, count - 1 - kept)
    assert (found.coverage >= 0.95) == (count >= 6)
    assert found.count == count


def test_order_does_not_matter() -> None:
    assert median_of([5, 1, 9, 3]) == median_of([1, 3, 5, 9])


def test_nothing_has_no_median() -> None:
    assert median_of([]) is None


def test_ratios_are_of_the_same_turn() -> None:
    assert ratios([2, 9, 5], [4, 3, 0]) == [0.5, 3]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])


def test_a_quantile_of_buckets_counts_what_is_in_them() -> None:
    buckets = [[10, 5], [20, 4], [30, 1]]
    assert [quantile(buckets, share) for share in (0.5, 0.51, 0.9, 0.91, 1)] == [10, 20, 20, 30, 30]
    assert quantile([], 0.5) == 0
