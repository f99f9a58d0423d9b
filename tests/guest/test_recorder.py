"""The recorder: every access counted once, to the operation it belongs to."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pvpmu.guest.recorder import OPERATIONS, RecordedAccess, Recorder
from pvpmu.shared import exits
from pvpmu.shared.exits import ExitReason


def _slot() -> memoryview[int]:
    return memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")


def test_accesses_are_counted_by_op_and_address(fake_cpu: Any) -> None:
    recorder = Recorder()
    access = RecordedAccess(fake_cpu(), recorder)
    access.wrmsr(0x38F, 1)
    access.wrmsr(0x38F, 0)
    access.rdmsr(0x38F)
    access.rdpmc(0)
    assert recorder.accesses == {
        ("wrmsr", 0x38F): 2,
        ("rdmsr", 0x38F): 1,
        ("rdpmc", 0): 1,
    }


def test_the_access_goes_through_unchanged(fake_cpu: Any) -> None:
    cpu = fake_cpu(registers={0x186: 7, 0x4C1: 9})
    access = RecordedAccess(cpu, Recorder())
    access.wrmsr(0x38F, 5)
    assert access.rdmsr(0x186) == 7
    assert access.rdpmc(0) == 9
    assert cpu.taken() == [("wrmsr", 0x38F, 5), ("rdmsr", 0x186, 7), ("rdpmc", 0, 9)]


def test_the_digest_covers_every_access_in_order() -> None:
    accesses = [("wrmsr", 0x38F, 1), ("rdmsr", 0x38E, 2), ("wrmsr", 0x390, 2)]
    digests = set()
    for order in itertools.permutations(accesses):
        recorder = Recorder()
        digests.add(recorder.digest)
        for access in order:
            recorder.access(*access)
            digests.add(recorder.digest)
    # Nothing, three single ones, six ordered pairs, six ordered triples.
    assert len(digests) == 1 + 3 + 6 + 6


@pytest.mark.parametrize(
    "other", [("rdpmc", 1, 2), ("wrmsr", 2, 2), ("wrmsr", 1, 3), ("rdmsr", 1, 2)]
)
def test_the_digest_tells_any_two_accesses_apart(other: tuple[str, int, int]) -> None:
    one, two = Recorder(), Recorder()
    one.access("wrmsr", 1, 2)
    two.access(*other)
    assert one.digest != two.digest


def test_a_restart_forgets_what_boot_did() -> None:
    recorder = Recorder()
    recorder.access("rdmsr", 0x345, 0)
    recorder.restart()
    assert not recorder.accesses
    assert recorder.digest == Recorder().digest


def test_a_closed_recorder_counts_nothing_more() -> None:
    recorder = Recorder()
    slot = _slot()
    crossed: list[int] = []
    cross = recorder.crossing(slot, lambda: crossed.append(1))
    recorder.closed = True
    recorder.access("rdmsr", 0x345, 0)
    slot[exits.REQUEST] = ExitReason.MSR_READ
    cross()
    assert not recorder.accesses
    assert not recorder.exits
    assert recorder.digest == Recorder().digest
    assert crossed == [1]


@pytest.mark.parametrize(
    ("reason", "op"),
    [
        (ExitReason.MSR_READ, "rdmsr"),
        (ExitReason.MSR_WRITE, "wrmsr"),
        (ExitReason.RDPMC, "rdpmc"),
        (ExitReason.EXCEPTION_NMI, None),
        (ExitReason.NMI_WINDOW, None),
        (ExitReason.CPUID, None),
        (ExitReason.CONTROL, None),
        (ExitReason.HLT, None),
    ],
)
def test_pmu_exits_are_counted_and_others_only_pass(reason: ExitReason, op: str | None) -> None:
    recorder = Recorder()
    slot = _slot()
    crossed: list[int] = []
    slot[exits.REQUEST] = reason | exits.NMI_BLOCKED | exits.RETIRED_USER
    slot[exits.ADDRESS] = 0x38F
    recorder.crossing(slot, lambda: crossed.append(1))()
    assert recorder.exits == ({(op, 0x38F): 1} if op else {})
    assert crossed == [1]


def test_a_handler_inside_a_tick_counts_as_itself() -> None:
    recorder = Recorder()
    slot = _slot()
    cross = recorder.crossing(slot, lambda: None)
    slot[exits.REQUEST] = ExitReason.MSR_WRITE
    recorder.begin()
    recorder.access("wrmsr", 1, 0)
    cross()
    recorder.begin()
    for _ in range(5):
        recorder.access("wrmsr", 2, 0)
    cross()
    cross()
    recorder.end("pmi")
    recorder.access("wrmsr", 3, 0)
    recorder.end("tick")
    tick, pmi = recorder.operations["tick"], recorder.operations["pmi"]
    assert (tick.count, tick.accesses, tick.exits) == (1, 2, 1)
    assert (pmi.count, pmi.accesses, pmi.exits) == (1, 5, 2)


def test_accesses_outside_any_operation_belong_to_none() -> None:
    recorder = Recorder()
    recorder.access("rdmsr", 1, 0)
    assert set(recorder.operations) == set(OPERATIONS)
    assert all(not total.accesses for total in recorder.operations.values())
