"""Sequences of accesses played on a vCPU, with their PMIs."""

from __future__ import annotations

from typing import Any

import pytest

from pvpmu.bench.vm import InlineVm, VmConfig
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.cpuid import EVTSEL_EN, PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.trace.names import RDPMC, READ, WRITE
from pvpmu.trace.player import END, LATE, MEASURE, PMI, Played, PlayJob, Step

OFF, ON = Step(WRITE, 0x38F, 0), Step(WRITE, 0x38F, 0x7000000FF)
LVTPC = Step(WRITE, 0x834, 0xF3)
START = (
    OFF, Step(WRITE, 0x4C1, 5), Step(WRITE, 0x4C2, 6), Step(WRITE, 0x309, 7),
    Step(WRITE, 0x186, EVTSEL_EN | 0x1CD), Step(WRITE, 0x187, EVTSEL_EN), Step(WRITE, 0x38D, 0xB),
    LVTPC, ON, Step(MEASURE, 0, Control.START),
)  # fmt: skip
STOP = Step(MEASURE, 0, Control.STOP)


def handler(bits: int) -> tuple[Step, ...]:
    found = (Step(READ, 0x38E, bits), *((Step(WRITE, 0x390, bits),) if bits else ()))
    again = (Step(READ, 0x38E, 0),) if bits else ()
    return (OFF, *found, *again, ON, LVTPC, Step(END))


def play(*steps: Step, design: str = "trap") -> tuple[Played, VcpuStats]:
    vm = InlineVm(VmConfig(design=design_named(design), cpuid=PmuCpuid()))
    (played,) = vm.run([PlayJob(steps)])
    (stats,) = vm.stats()
    return played, stats


@pytest.fixture(params=["trap", "page"])
def design(request: Any) -> str:
    return str(request.param)


@pytest.mark.parametrize("value", [0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF])
@pytest.mark.parametrize("address", [0xC1, 0x4C1])
def test_a_counter_overflows_whatever_the_trace_wrote(
    value: int, address: int, design: str
) -> None:
    write = Step(WRITE, address, value)
    played, _ = play(*START[:-1], OFF, write, ON, START[-1], Step(PMI, 0, 1), *handler(1), STOP,
                     design=design)  # fmt: skip
    assert (played.pmis, played.status_equal, played.refused) == (1, 2, {})


@pytest.mark.parametrize("bits", [1, 2, 3, 1 << 32, 1 << 32 | 1, 0])
def test_a_handler_finds_the_status_that_the_trace_has(bits: int, design: str) -> None:
    played, stats = play(*START, Step(PMI, 0, bits), *handler(bits), STOP, design=design)
    assert (played.pmis, played.without_nmi, played.unscripted) == (1, 0, 0)
    # The second read of a PMI's handler finds nothing any more.
    assert played.status_equal == played.status_reads == (2 if bits else 1)
    assert stats.exits[ExitReason.EXCEPTION_NMI] == 1
    assert not played.refused
    assert played.page_registered is (design == "page")


def test_every_counter_overflows_alone(design: str) -> None:
    everything = PmuCpuid().counters
    start = [OFF]
    start += [Step(WRITE, address, 0) for address in (*range(0x4C1, 0x4C9), 0x309, 0x30A, 0x30B)]
    start += [Step(WRITE, 0x186 + i, EVTSEL_EN) for i in range(8)]
    start += [Step(WRITE, 0x38D, 0xBBB), LVTPC, ON, Step(MEASURE, 0, Control.START)]
    bits = [1 << i for i in range(64) if everything >> i & 1]
    handlers = [step for bit in bits for step in (Step(PMI, 0, bit), *handler(bit))]
    played, _ = play(*start, *handlers, STOP, design=design)
    assert (len(bits), played.pmis, played.not_live) == (11, 11, 0)
    assert played.status_equal == played.status_reads == 22


def test_a_handler_inside_a_disabled_section_comes_with_the_exit_that_disables(design: str) -> None:
    # Without GLOBAL_CTRL on: it found the PMU disabled.
    inside = [step for step in handler(1) if step != ON]
    played, _ = play(*START, Step(LATE, 0, 1), OFF, *inside, ON, STOP, design=design)
    assert (played.pmis, played.without_nmi, played.unscripted) == (1, 0, 0)
    assert played.status_equal == played.status_reads == 2


def test_an_overflow_of_a_counter_that_is_off_is_told(design: str) -> None:
    played, _ = play(*START, Step(PMI, 0, 4), *handler(4), STOP, design=design)
    assert (played.not_live, played.pmis) == (1, 1)
    assert played.status_equal < played.status_reads


def test_a_handler_without_an_nmi_is_played_all_the_same() -> None:
    masked = Step(WRITE, 0x834, 0x10400)
    played, stats = play(*START[:-1], masked, START[-1], Step(PMI, 0, 1), *handler(1), STOP)
    assert (played.pmis, played.without_nmi) == (0, 1)
    assert sum(count for _, _, count in stats.accesses) == 6


def test_an_nmi_that_the_trace_does_not_have_is_answered() -> None:
    # The handler's steps are over before any exit could find the overflow.
    played, stats = play(*START, Step(LATE, 0, 1), Step(END), Step(RDPMC, 0), STOP)
    assert (played.pmis, played.without_nmi, played.unscripted) == (0, 1, 1)
    assert sum(count for _, _, count in stats.accesses) == 1 + played.extra == 6


def test_values_that_this_pmu_refuses_are_told_with_their_register() -> None:
    played, _ = play(*START, Step(READ, 0x4C1 + 7), Step(WRITE, 0x38E, 1), Step(READ, 0x38E), STOP)
    assert dict(played.refused) == {(WRITE, 0x38E): 1}


def test_bits_that_this_pmu_lacks_are_left_out() -> None:
    odd = (
        Step(WRITE, 0x38F, 0xF_0000_FFFF), Step(WRITE, 0x38D, 0xFFFF), Step(WRITE, 0x390, 1 << 55),
        Step(WRITE, 0x4C1, 1 << 60), Step(WRITE, 0x834, 0x7_0000_000F),
        Step(WRITE, 0x186, 0xFFFF_FFFF_FFFF_FFFF),
    )  # fmt: skip
    played, _ = play(*START, *odd, STOP)
    assert (played.refused, played.accesses) == ({}, len(START) - 1 + len(odd))
