"""Medians with intervals, from few values of any distribution. Pure and exact."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Median:
    """A median and its interval. ``coverage``: the probability that it holds the true median.

    ``count``: the values it is of.
    """

    value: float
    low: float
    high: float
    coverage: float
    count: int


def median_of(values: Sequence[float], level: float = LEVEL) -> Median | None:
    """The median with the narrowest order-statistic interval of at least ``level``; None of none.

    The interval lies between the k-th smallest and the k-th largest value, which holds the true
    median with probability 1 - 2 P(X < k), X binomial (n, 1/2). With fewer values than the level
    needs it goes from the smallest to the largest, and ``coverage`` says what that is worth.
    """
    if not values:
        return None
    ordered = sorted(values)
    n = len(ordered)
    k = 1
    while k + 1 <= (n + 1) // 2 and _coverage(n, k + 1) >= level:
        k += 1
    return Median(statistics.median(ordered), ordered[k - 1], ordered[-k], _coverage(n, k), n)


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Each value by that of the same turn; turns without a base are left out."""
    return [value / by for value, by in zip(values, base, strict=True) if by]


def quantile(buckets: Sequence[Sequence[int]], share: float) -> int:
    """The smallest value with at least ``share`` of the counts at or below it; 0 of none.

    ``buckets``: [value, count], ascending.
    """
    wanted = share * sum(count for _, count in buckets)
    seen = 0
    for value, count in buckets:
        seen += count
        if seen >= wanted:
            return value
    return 0


def _coverage(n: int, k: int) -> float:
    below = sum(math.comb(n, i) for i in range(k))
    return 1 - 2 * below / float(2**n)
