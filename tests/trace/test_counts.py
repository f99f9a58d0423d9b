"""Numbers of an input, and what follows from them."""

from __future__ import annotations

from collections import Counter

from pvpmu.trace.counts import Counts
from pvpmu.trace.names import ANY_COUNTER, RDPMC, READ, WRITE, MsrClass


def test_pmu_accesses_are_those_of_the_register_table_and_rdpmc() -> None:
    counts = Counts(
        exits=Counter(RDPMC=5, MSR_WRITE=10),
        msr=Counter({(WRITE, 0x38F): 4, (WRITE, 0x6E0): 6, (READ, 0xC001_0004): 3}),
        faults=Counter({(READ, 0x38E): 2}),
    )
    assert counts.pmu == {(WRITE, 0x38F): 4, (RDPMC, ANY_COUNTER): 5}
    assert counts.of_class(MsrClass.FASTPATH) == 6
    assert counts.of_class(MsrClass.PMU_OUTSIDE) == 3


def test_what_a_list_leaves_out_is_known_by_direction() -> None:
    counts = Counts(
        exits=Counter(MSR_WRITE=10, MSR_READ=4),
        msr=Counter({(WRITE, 0x38F): 7, (READ, 0x38E): 2}),
        unnamed=Counter({(WRITE, "MSR_FOO"): 1}),
        faults=Counter({(READ, 0x38E): 1}),
    )
    assert counts.listed == 11
    assert counts.msr_exits == 14
    assert counts.unlisted == {"MSR_WRITE": 2, "MSR_READ": 1}


def test_amd_has_one_exit_for_both_directions() -> None:
    counts = Counts(exits=Counter(MSR=10), msr=Counter({(WRITE, 0x10): 4, (READ, 0x10): 3}))
    assert counts.unlisted == {"MSR": 3}


def test_exits_are_complete_also_where_only_one_list_is_there() -> None:
    only_msrs = Counts(msr=Counter({(WRITE, 0x38F): 7}))
    assert (only_msrs.total, only_msrs.msr_exits, only_msrs.unlisted) == (7, 7, {})
    only_reasons = Counts(exits=Counter(MSR_WRITE=9, HLT=1))
    assert (only_reasons.total, only_reasons.msr_exits, only_reasons.unlisted) == (10, 9, {})
    both = Counts(exits=Counter(MSR_WRITE=9, HLT=1), msr=Counter({(WRITE, 0x38F): 7}))
    assert (both.total, both.msr_exits) == (10, 9)
