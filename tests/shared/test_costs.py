"""One formula for what work costs."""

from __future__ import annotations

from dataclasses import fields

from pvpmu.shared.costs import COST_NAMES, COUNT_OF, Costs, Work, work_of
from pvpmu.shared.tally import (
    ENABLE,
    LOCAL_READS,
    PAUSE,
    PLACEMENTS,
    PMU_SWITCHES,
    REDUNDANT,
    SHARED_LOCKS,
    TALLY_WORDS,
)

COSTS = Costs(exit_ns=1000, call_ns=100, redundant_call_ns=10, guest_ns=5, lock_ns=2,
              placement_ns=1, local_read_ns=50, pmu_switch_ns=500)  # fmt: skip


def test_every_cost_has_its_count() -> None:
    assert {field.name for field in fields(Costs)} == set(COST_NAMES)
    assert {field.name for field in fields(Work)} == set(COUNT_OF.values())


def test_work_costs_the_sum_of_its_parts() -> None:
    assert COSTS.of(Work(exits=1, live_calls=0, redundant_calls=0, locks=0, placements=0)) == 1000
    assert COSTS.of(Work(2, 3, 4, 7, 9, 8, 5, 6)) == 2000 + 300 + 40 + 14 + 9 + 400 + 2500 + 30


def test_a_tally_splits_its_calls_and_takes_a_lock_for_each() -> None:
    tally = [0] * TALLY_WORDS
    tally[PAUSE], tally[ENABLE], tally[REDUNDANT], tally[PLACEMENTS] = 5, 3, 2, 7
    assert work_of(4, tally, 1) == Work(4, 6, 2, 8, 7, 0, 0, 1)
    tally[LOCAL_READS], tally[SHARED_LOCKS], tally[PMU_SWITCHES] = 9, 6, 3
    assert work_of(4, tally, 1) == Work(4, 6, 2, 2, 7, 9, 3, 1)


def test_whole_costs_of_whole_counts_are_whole() -> None:
    rounded = Costs(exit_ns=3110.8, call_ns=673.36, redundant_call_ns=673.36, guest_ns=0).rounded()
    assert (rounded.exit_ns, rounded.call_ns, rounded.lock_ns) == (3111, 673, 0)
    assert isinstance(rounded.of(Work(2, 3, 0, 3, 0)), int)
