"""What the live view costs, with a clock that a test moves."""

from __future__ import annotations

from pvpmu.bench.livecost import live_costs


def test_costs_are_means_of_batches_by_the_clock_that_is_given() -> None:
    now = 0

    def clock() -> int:
        nonlocal now
        now += 50
        return now

    costs = live_costs(clock)
    # All that this clock sees are its readings: two for each access that is recorded.
    assert set(costs.record) == {100.0}
    assert set(costs.publish) == {0.0}
    assert len(costs.publish) == len(costs.record) > 20
