"""Histograms and sparklines as rows of letters. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pvpmu.shared.units import Ns

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*#@"
"""Nine heights where the terminal knows no block letters."""
_DECADES = ((10**9, "s"), (10**6, "ms"), (10**3, "us"), (1, "ns"))


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis of times: from ``low`` to ``high`` decades (10**low ns), in columns."""

    low: int
    high: int
    columns: int

    def column(self, value: Ns) -> int:
        """Where a time belongs."""
        place = (math.log10(max(value, 1)) - self.low) / (self.high - self.low)
        return min(max(int(place * self.columns), 0), self.columns - 1)

    def ticks(self) -> str:
        """The decades' names where they begin; those that do not fit are left out."""
        line = [" "] * self.columns
        free = 0
        for decade in range(self.low, self.high):
            at = round((decade - self.low) * self.columns / (self.high - self.low))
            name = _decade(decade)
            if at >= free and at + len(name) <= self.columns:
                line[at : at + len(name)] = name
                free = at + len(name) + 1
        return "".join(line)


def axis_of(times: Iterable[Ns], columns: int) -> Axis:
    """Whole decades that hold all times; at least one."""
    known = [max(time, 1) for time in times]
    low = math.floor(math.log10(min(known))) if known else 0
    high = math.floor(math.log10(max(known))) + 1 if known else 1
    return Axis(low, max(high, low + 1), columns)


def histogram(buckets: Sequence[Sequence[int]], axis: Axis, height: int, letters: str) -> list[str]:
    """Lines from the top, ``height`` of them: the share of the fullest column; any value shows."""
    columns = [0] * axis.columns
    for value, count in buckets:
        columns[axis.column(value)] += count
    return bars(columns, height, letters)


def bars(values: Sequence[float | None], height: int, letters: str) -> list[str]:
    """Lines from the top: a bar for each value from 0 to the largest, blank where there is none."""
    steps = len(letters) - 1
    top = max((value for value in values if value), default=0)
    fills = [_fill(value, top, height * steps) for value in values]
    lines = []
    for row in reversed(range(height)):
        rest = (min(max(fill - row * steps, 0), steps) for fill in fills)
        lines.append("".join(letters[each] for each in rest))
    return lines


def sparkline(
    trend: Sequence[tuple[float, float]], span_s: float, columns: int, letters: str
) -> str:
    """Values of (seconds ago, value) over the last ``span_s``, newest at the right: cell means.

    A cell without a value has that of the cell before.
    """
    cells: list[list[float]] = [[] for _ in range(columns)]
    for age, value in trend:
        cell = columns - 1 - int(age * columns / span_s)
        cells[max(cell, 0)].append(value)
    means: list[float | None] = []
    for values in cells:
        before = means[-1] if means else None
        means.append(sum(values) / len(values) if values else before)
    (line,) = bars(means, 1, letters)
    return line


def _fill(value: float | None, top: float, most: int) -> int:
    if not value or not top:
        return 0
    return max(round(value / top * most), 1)


def _decade(decade: int) -> str:
    scale, unit = next(each for each in _DECADES if 10**decade >= each[0])
    return f"{10**decade // scale}{unit}"
