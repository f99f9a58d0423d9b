"""Operations from counts alone: the 2021 table, other tables, and tables that are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvpmu.shared.design import DRIVERS, DriverName
from pvpmu.trace.counts import Counts
from pvpmu.trace.driver import accesses_of, driver_operations
from pvpmu.trace.fit import fit
from pvpmu.trace.names import ANY_COUNTER, RDPMC, READ, WRITE
from pvpmu.trace.reading import Trace

MAIL = {
    "handlers": 7308, "acks": 7250, "spurious": 58, "second_bits": 72, "sched_in": 7,
    "sched_out": 6, "ticks": 591,
}  # fmt: skip
OVERFLOWS = {0: 2324, 1: 378, 32: 2314, 33: 2306}

Reading = Callable[..., Trace]
Sample = Callable[[str], bytes]


def test_the_2021_table_is_explained_but_for_two_writes(reading: Reading, sample: Sample) -> None:
    found = fit(reading(sample("mail_2021.txt")).counts)
    assert found.accepted
    assert found.unknowns == MAIL
    assert found.overflows == OVERFLOWS
    assert len(found.rows) == 13
    assert {row.access: row.residual for row in found.rows if row.residual} == {(WRITE, 0x38F): 2}
    assert {row.access: row.model for row in found.rows}[RDPMC, ANY_COUNTER] == 9710
    assert (WRITE, 0x830) not in {row.access for row in found.rows}


def test_without_rdpmc_the_table_of_perf_gives_the_same_and_implies_it(
    reading: Reading, sample: Sample
) -> None:
    found = fit(reading(sample("perf_kvm_stat_msr_synthetic.txt")).counts)
    assert (found.unknowns, found.overflows, found.implied) == (MAIL, OVERFLOWS, 9710)
    # Counters by their legacy names stay what they are.
    assert {0xC1, 0xC2} < {address for _, address in (row.access for row in found.rows)}
    assert {row.access: row.residual for row in found.rows if row.residual} == {(WRITE, 0x38F): 2}


def test_exits_without_rdpmc_are_not_those_of_a_driver_that_reads_counters_by_it(
    reading: Reading, sample: Sample
) -> None:
    lines = sample("mail_2021.txt").splitlines(keepends=True)
    found = fit(reading(b"".join(line for line in lines if b"RDPMC" not in line)).counts)
    assert not found.accepted
    assert "which counts exits and no RDPMC" in found.reason


def table(
    gp: int,
    fixed: tuple[int, ...],
    numbers: dict[str, int],
    *,
    rename: dict[int, int],
    driver: DriverName = "linux-5.14",
) -> Counts:
    """What so many of each of the driver's operations would leave in a table."""
    counts = Counts()
    operations = driver_operations(gp, fixed, driver)
    for kind, number in numbers.items():
        for operation in operations.of_kind(kind):
            for (op, address), count in accesses_of(operation).items():
                if op == RDPMC:
                    counts.exits["RDPMC"] += number * count
                else:
                    counts.msr[op, rename.get(address, address)] += number * count
    return counts


@given(
    st.sampled_from(DRIVERS),
    st.sampled_from([(2, (0, 1)), (1, ()), (0, (0,)), (4, (0, 1, 2)), (2, ())]),
    st.integers(0, 500),
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(0, 1),
    st.integers(0, 50),
)
@settings(max_examples=25)
def test_any_table_of_either_driver_is_explained_exactly(
    driver: DriverName,
    shape: tuple[int, tuple[int, ...]],
    pmis: int,
    ticks: int,
    sched_in: int,
    on_at_end: int,
    spurious: int,
) -> None:
    numbers = {
        "pmi": pmis + 1, "tick": ticks, "sched_in": sched_in, "sched_out": sched_in - on_at_end,
        "pmi_spurious": spurious,
    }  # fmt: skip
    found = fit(table(*shape, numbers, rename={}, driver=driver))
    assert found.accepted
    # Without fixed counters the two do the same.
    assert found.driver == driver or not shape[1]
    assert all(row.residual == 0 for row in found.rows)
    got = {name: found.unknowns[name] for name in ("ticks", "sched_in", "sched_out", "spurious")}
    assert got == {
        "ticks": ticks, "sched_in": sched_in, "sched_out": sched_in - on_at_end,
        "spurious": spurious,
    }  # fmt: skip


def test_counters_need_not_be_the_first_ones() -> None:
    third = {0x186: 0x188, 0x187: 0x18B, 0x4C1: 0x4C3, 0x4C2: 0x4C6}
    numbers = {"pmi": 9, "tick": 5, "sched_in": 2, "sched_out": 1, "pmi_spurious": 3}
    found = fit(table(2, (1,), numbers, rename=third))
    assert found.accepted
    assert set(found.overflows) == {2, 5, 33}
    accessed = {
        address for operation, _ in found.operations for _, address in accesses_of(operation)
    }
    assert {0x188, 0x18B, 0x4C3, 0x4C6, 0x30A} < accessed
    assert not {0x186, 0x187, 0x4C1, 0x4C2} & accessed


def changed(changes: dict[Any, int]) -> Counts:
    counts = table(2, (0, 1), {"pmi": 90, "tick": 50, "sched_in": 2, "sched_out": 2}, rename={})
    counts.msr.update(changes)
    return counts


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        (Counts(), "has no writes of GLOBAL_OVF_CTRL, reads of GLOBAL_STATUS, writes of LVTPC"),
        (Counts(exits=Counter(RDPMC=9)), "has no writes of GLOBAL_OVF_CTRL"),
        (changed({(WRITE, 0x4C3): 9, (WRITE, 0x4C4): 9, (WRITE, 0x4C5): 9}), "5 GP counters"),
        (changed({(WRITE, 0x186): 5000}), "miss the table by [0-9,]+ of [0-9,]+ accesses"),
        (changed({(READ, 0x4C1): 5000}), "miss the table"),
        (changed({(WRITE, 0x390): 5000}), "no number of operations"),
    ],
)
def test_a_table_of_something_else_is_not_explained(counts: Counts, says: str) -> None:
    found = fit(counts)
    assert not found.accepted
    assert not found.operations
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(found.reason)
