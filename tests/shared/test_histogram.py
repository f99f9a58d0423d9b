"""The latency histogram."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvpmu.shared.histogram import (
    BUCKETS,
    Histogram,
    bounds_of,
    bucket_of,
    highest_of,
    summarize,
    value_of,
)

VALUES = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=200)


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(VALUES, st.floats(0.001, 1))
def test_a_quantile_is_within_one_percent_of_the_exact_one(values: list[int], share: float) -> None:
    ordered = sorted(values)
    exact = next(v for i, v in enumerate(ordered, 1) if i >= share * len(ordered))
    assert abs(filled(values).quantile(share) - exact) <= exact / 100


@given(VALUES, VALUES)
def test_merging_equals_recording_everything_in_one(first: list[int], second: list[int]) -> None:
    merged = filled(first)
    merged.merge(filled(second))
    assert merged.summary() == filled(first + second).summary()


def test_values_below_256_are_exact() -> None:
    histogram = filled(list(range(256)))
    assert [histogram.quantile((n + 1) / 256) for n in range(256)] == list(range(256))


def test_a_summary_states_count_mean_quantiles_and_maximum() -> None:
    summary = filled([10] * 50 + [20] * 49 + [200]).summary()
    assert summary == {
        "count": 100, "mean": 16.8, "p50": 10, "p90": 20, "p99": 20, "p999": 200, "max": 200,
    }  # fmt: skip


def test_an_empty_histogram_is_all_zero() -> None:
    assert set(Histogram().summary().values()) == {0}
    assert set(summarize([]).values()) == {0}


def test_a_negative_value_counts_as_zero() -> None:
    summary = filled([-5]).summary()
    assert (summary["count"], summary["mean"], summary["max"]) == (1, 0, 0)


def test_no_quantile_exceeds_the_maximum() -> None:
    histogram = filled([1_000_001])
    assert histogram.quantile(1) <= 1_000_001
    assert histogram.quantile(0.5) == pytest.approx(1_000_001, rel=0.01)


def test_memory_does_not_grow_with_what_is_recorded() -> None:
    histogram = filled([1_000_000 + n % 1000 for n in range(20_000)])
    assert len(histogram._counts) < 10


def test_summarize_keeps_few_values_in_full() -> None:
    assert summarize([3.5, 1.0, 2.0, 10.25]) == {
        "count": 4, "mean": 4.2, "p50": 3.5, "p90": 10.2, "p99": 10.2, "p999": 10.2, "max": 10.2,
    }  # fmt: skip


@given(VALUES)
def test_buckets_ascend_and_hold_every_value(values: list[int]) -> None:
    buckets = filled(values).buckets()
    assert sum(count for _, count in buckets) == len(values)
    assert [ns for ns, _ in buckets] == sorted(ns for ns, _ in buckets)
    for value in values:
        assert min(abs(ns - value) for ns, _ in buckets) <= value / 100


@given(st.integers(0, (1 << 32) - 1))
def test_a_bucket_holds_its_value_and_is_at_most_one_percent_wide(value: int) -> None:
    low, high = bounds_of(bucket_of(value))
    assert low <= value <= high == highest_of(bucket_of(value))
    assert abs(value_of(bucket_of(value)) - value) <= value / 100
    assert bucket_of(low) == bucket_of(high) < BUCKETS


def test_buckets_leave_no_gap_up_to_the_largest_value_in_shared_words() -> None:
    edges = [bounds_of(bucket) for bucket in range(BUCKETS)]
    assert edges[0][0] == 0
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(edges))
    assert edges[-1][1] == (1 << 32) - 1


@given(VALUES)
def test_a_histogram_of_counts_is_the_one_that_recorded_them(values: list[int]) -> None:
    recorded = filled(values)
    counts: dict[int, int] = {}
    for value in values:
        counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
    made = Histogram.of(counts)
    for share in (0.01, 0.5, 0.99):
        assert (
            abs(made.quantile(share) - recorded.quantile(share)) <= recorded.quantile(share) / 100
        )
    assert made.count == len(values)
    assert max(values) <= made.max <= max(values) * 1.01
    assert Histogram.of({}).summary()["count"] == 0
