"""The driver's operations, from a run of it."""

from __future__ import annotations

from collections import Counter

import pytest

from pvpmu.shared.errors import UsageError
from pvpmu.trace.driver import MOST_GP, accesses_of, driver_operations
from pvpmu.trace.names import ANY_COUNTER, RDPMC, READ, WRITE


def lengths(gp: int, fixed: tuple[int, ...], kind: str) -> set[int]:
    return {len(operation.tokens) for operation in driver_operations(gp, fixed).of_kind(kind)}


@pytest.mark.parametrize(("gp", "fixed"), [(2, (0, 1)), (1, ()), (0, (1,)), (4, (0, 1, 2))])
def test_operations_are_as_long_as_linux_makes_them(gp: int, fixed: tuple[int, ...]) -> None:
    f = len(fixed)
    assert lengths(gp, fixed, "sched_in") == {3 + 2 * gp + 3 * f}
    assert lengths(gp, fixed, "sched_out") == {2 + 2 * gp + 3 * f}
    assert lengths(gp, fixed, "tick") == {2 + 4 * gp + 6 * f}
    assert lengths(gp, fixed, "pmi_spurious") == {4}
    assert lengths(gp, fixed, "pmi") == ({8, 10} if gp + f > 1 else {8})


def test_the_later_driver_keeps_fixed_ctr_ctrl_in_memory() -> None:
    later = driver_operations(2, (0, 1), "linux-6.12")
    assert {len(o.tokens) for o in later.of_kind("sched_in")} == {10}
    assert {len(o.tokens) for o in later.of_kind("sched_out")} == {9}
    assert {len(o.tokens) for o in later.of_kind("tick")} == {14}
    assert {len(o.tokens) for o in later.of_kind("pmi")} == {8, 10}
    assert not any((READ, 0x38D) in accesses_of(o) for o in later.operations)


def test_each_counter_has_a_handler_of_its_own() -> None:
    pmis = driver_operations(2, (0, 1)).of_kind("pmi")
    written = Counter(
        address
        for operation in pmis
        if len(operation.tokens) == 8
        for op, address in accesses_of(operation)
        if op == WRITE and address in (0x4C1, 0x4C2, 0x309, 0x30A)
    )
    assert written == {0x4C1: 1, 0x4C2: 1, 0x309: 1, 0x30A: 1}


def test_accesses_of_a_spurious_handler() -> None:
    (operation,) = driver_operations(2, (0, 1)).of_kind("pmi_spurious")
    assert accesses_of(operation) == {(WRITE, 0x38F): 2, (READ, 0x38E): 1, (WRITE, 0x834): 1}


def test_a_tick_reads_every_counter_by_rdpmc() -> None:
    (operation,) = driver_operations(2, (0, 1)).of_kind("tick")
    assert accesses_of(operation)[RDPMC, ANY_COUNTER] == 4


@pytest.mark.parametrize(("gp", "fixed"), [(MOST_GP + 1, (0,)), (0, ())])
def test_what_a_script_cannot_tell_apart_is_refused(gp: int, fixed: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=f"{gp} events on GP counters"):
        driver_operations(gp, fixed)
