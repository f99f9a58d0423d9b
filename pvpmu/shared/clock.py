"""A wall clock as a parameter, and what reading it costs."""

from __future__ import annotations

from collections.abc import Callable

from pvpmu.shared.units import Ns

_TIMER_SAMPLES = 1001

Clock = Callable[[], Ns]
"""Returns ns from any start."""


def timer_cost(clock: Clock) -> Ns:
    """What two consecutive readings of ``clock`` differ by, in ns (median)."""
    costs = []
    for _ in range(_TIMER_SAMPLES):
        start = clock()
        costs.append(clock() - start)
    return sorted(costs)[_TIMER_SAMPLES // 2]
