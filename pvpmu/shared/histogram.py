"""A log-linear histogram of nanoseconds: HDR's bucket rule, at most 1 % value error.

**Invariants**: memory does not depend on how much is recorded; histograms add word by word.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import accumulate
from operator import mul

SUB_BITS = 7
TOP_BITS = 32
BUCKETS = (TOP_BITS - SUB_BITS + 1) << SUB_BITS
"""Buckets of a histogram in shared words: values from 2**32 ns (4.3 s) on count in the last."""

QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))


class Histogram:
    """Counts by bucket; values are non-negative ns, negative ones count as 0."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.max = 0

    def record(self, value: int) -> None:
        """Count one value in ns."""
        value = max(value, 0)
        bucket = bucket_of(value)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        self.total += value
        self.max = max(self.max, value)

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> Histogram:
        """One with so many values by bucket; the largest value is taken for its bucket's end."""
        made = cls()
        made._counts = {bucket: count for bucket, count in counts.items() if count}
        made.count = sum(made._counts.values())
        made.total = sum(map(mul, map(value_of, made._counts), made._counts.values()))
        made.max = highest_of(max(made._counts)) if made._counts else 0
        return made

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += other.count
        self.total += other.total
        self.max = max(self.max, other.max)

    def quantile(self, share: float) -> int:
        """Smallest bucket value with at least ``share`` of the values at or below it, ns."""
        return self.quantiles([share])[0]

    def quantiles(self, shares: Sequence[float]) -> list[int]:
        """Several of them."""
        if not self._counts:
            return [self.max] * len(shares)
        buckets = sorted(self._counts)
        below = list(accumulate(map(self._counts.__getitem__, buckets)))
        last = len(buckets) - 1
        found = (buckets[min(bisect_left(below, share * self.count), last)] for share in shares)
        return [min(value_of(bucket), self.max) for bucket in found]

    def buckets(self) -> list[list[int]]:
        """[value in ns, count] of each bucket that holds any, ascending."""
        return [
            [min(value_of(bucket), self.max), count]
            for bucket, count in sorted(self._counts.items())
        ]

    def summary(self) -> dict[str, float]:
        """count, mean, p50, p90, p99, p999, max; ns."""
        mean = self.total / self.count if self.count else 0.0
        values = self.quantiles([share for _, share in QUANTILES])
        quantiles = {name: value for (name, _), value in zip(QUANTILES, values, strict=True)}
        return {"count": self.count, "mean": round(mean, 1), **quantiles, "max": self.max}


def summarize(values: Iterable[float]) -> dict[str, float]:
    """The same summary of a few values kept in full (means of batches), ns."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0, "mean": 0.0, **dict.fromkeys(dict(QUANTILES), 0.0), "max": 0.0}
    last = len(ordered) - 1
    quantiles = {
        name: round(ordered[min(int(share * len(ordered)), last)], 1) for name, share in QUANTILES
    }
    mean = sum(ordered) / len(ordered)
    return {
        "count": len(ordered),
        "mean": round(mean, 1),
        **quantiles,
        "max": round(ordered[-1], 1),
    }


def bucket_of(value: int) -> int:
    """The bucket of a value in ns, not negative: 256 of 1 ns, then 128 for each power of two.

    Source: HdrHistogram's countsArrayIndex with two significant digits from 1 ns on.
    """
    shift = max(value.bit_length() - SUB_BITS - 1, 0)
    return (shift << SUB_BITS) + (value >> shift)


@cache
def value_of(bucket: int) -> int:
    """The middle of a bucket, ns."""
    low, high = bounds_of(bucket)
    return low + ((high - low + 1) >> 1)


def highest_of(bucket: int) -> int:
    """The largest value of a bucket, ns."""
    return bounds_of(bucket)[1]


def bounds_of(bucket: int) -> tuple[int, int]:
    """Smallest and largest value of a bucket, ns."""
    shift = max((bucket >> SUB_BITS) - 1, 0)
    low = (bucket - (shift << SUB_BITS)) << shift
    return low, low + (1 << shift) - 1
