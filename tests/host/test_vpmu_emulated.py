"""Instructions and branches that the host emulated: they retire in the guest's counters."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.host.pmi import REQUEST_PMI
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.events import BRANCHES, INSTRUCTIONS, KINDS
from pvpmu.shared.profile import KVM_5_14, KVM_6_12, STRICT_SDM

New = Callable[..., Any]
EVTSEL0, EVTSEL1, PMC0, PMC1, FIXED0 = 0x186, 0x187, 0x4C1, 0x4C2, 0x309
USR, OS, EDGE, INT, EN, INV, CMASK = 1 << 16, 1 << 17, 1 << 18, 1 << 20, 1 << 22, 1 << 23, 2 << 24
BRANCH_EVENT, INSTRUCTION_EVENT = EN | USR | OS | 0xC4, EN | USR | OS | 0xC0
ALL_ON = 0x7_0000_00FF
MASK = (1 << 48) - 1
KERNEL, USER = 0, 3


def emulating(new_bench: New, **options: Any) -> Any:
    bench = new_bench(**{"profile": KVM_6_12} | options)
    bench.write(msr.LVTPC, 0x400)
    bench.write(msr.GLOBAL_CTRL, bench.vpmu.cpuid.counters)
    return bench


@pytest.mark.parametrize("profile", [KVM_6_12, STRICT_SDM])
def test_a_block_of_22_instructions_and_5_branches_counts_exactly_and_overflows(
    new_bench: New, profile: Any
) -> None:
    bench = emulating(new_bench, profile=profile)
    bench.write(PMC0, MASK + 1 - 5)
    bench.write(PMC1, MASK + 1 - 22)
    bench.write(EVTSEL0, BRANCH_EVENT)
    bench.write(EVTSEL1, INSTRUCTION_EVENT)
    for _ in range(5):
        assert bench.vpmu.count_emulated(BRANCHES, 1, KERNEL)
    assert bench.read(msr.GLOBAL_STATUS) == 1
    assert bench.vpmu.count_emulated(INSTRUCTIONS, 21, KERNEL)
    assert bench.read(msr.GLOBAL_STATUS) == 1
    assert bench.vpmu.count_emulated(INSTRUCTIONS, 1, KERNEL)
    assert bench.read(msr.GLOBAL_STATUS) == 3
    assert (bench.read(PMC0), bench.read(PMC1)) == (0, 0)
    assert not bench.delivery.requests, "INT is not set"


def test_a_profile_that_does_not_count_them_is_untouched(new_bench: New) -> None:
    bench = emulating(new_bench, profile=KVM_5_14)
    bench.write(EVTSEL0, INSTRUCTION_EVENT)
    before = bench.state()
    bench.perf.take()
    assert not bench.vpmu.count_emulated(INSTRUCTIONS, 5, KERNEL)
    assert bench.state() == before
    assert bench.perf.take() == []


@pytest.mark.parametrize("selector", [INSTRUCTION_EVENT | INT, INSTRUCTION_EVENT | INT | CMASK])
def test_an_emulated_overflow_with_int_raises_a_pmi(new_bench: New, selector: int) -> None:
    bench = emulating(new_bench)
    bench.write(PMC0, MASK)
    bench.write(EVTSEL0, selector)
    bench.vpmu.count_emulated(INSTRUCTIONS, 1, KERNEL)
    assert bench.delivery.requests == REQUEST_PMI
    assert bench.delivery.counts.raised == 1


def test_emulated_and_retired_counts_add_up_and_the_overflow_comes_where_they_say(
    new_bench: New,
) -> None:
    bench = emulating(new_bench)
    bench.write(PMC0, MASK + 1 - 45)
    bench.write(EVTSEL0, INSTRUCTION_EVENT)
    bench.retire(instructions=20)
    bench.vpmu.count_emulated(INSTRUCTIONS, 4, KERNEL)
    bench.retire(instructions=20)
    assert bench.read(msr.GLOBAL_STATUS) == 0
    assert bench.read(PMC0) == MASK
    bench.retire(instructions=1)
    assert bench.read(msr.GLOBAL_STATUS) == 1
    assert bench.read(PMC0) == 0


def test_each_one_pauses_and_restarts_the_counters_that_count_it(new_bench: New) -> None:
    bench = emulating(new_bench)
    bench.write(EVTSEL0, INSTRUCTION_EVENT)
    bench.write(EVTSEL1, BRANCH_EVENT)
    bench.perf.take()
    bench.vpmu.count_emulated(INSTRUCTIONS, 1, KERNEL)
    assert bench.perf.take() == ["pause", "period", "enable"]


def test_fixed_counter_0_counts_instructions_and_no_other_fixed_counter_moves(
    new_bench: New,
) -> None:
    bench = emulating(new_bench)
    bench.write(msr.FIXED_CTR_CTRL, 0x333)
    bench.vpmu.count_emulated(INSTRUCTIONS, 7, KERNEL)
    bench.vpmu.count_emulated(BRANCHES, 7, KERNEL)
    assert [bench.read(FIXED0 + j) for j in range(3)] == [7, 0, 0]


@pytest.mark.parametrize("kind", [k for k in range(KINDS) if k not in (INSTRUCTIONS, BRANCHES)])
def test_only_instructions_and_branches_are_emulated(new_bench: New, kind: int) -> None:
    bench = emulating(new_bench)
    for index, selector in enumerate((0x3C, 0x13C, 0x4F2E, 0x412E, 0xC5)):
        bench.write(EVTSEL0 + index, EN | USR | OS | selector)
    assert not bench.vpmu.count_emulated(kind, 50, KERNEL)
    assert [bench.read(PMC0 + index) for index in range(5)] == [0] * 5


@pytest.mark.parametrize(
    ("ring", "kernel", "user"), [(OS, 3, 0), (USR, 0, 4), (OS | USR, 3, 4), (0, 0, 0)]
)
def test_the_ring_bits_choose_by_the_privilege_level(
    new_bench: New, ring: int, kernel: int, user: int
) -> None:
    bench = emulating(new_bench)
    bench.write(EVTSEL0, EN | ring | 0xC0)
    bench.write(msr.FIXED_CTR_CTRL, (1 if ring & OS else 0) | (2 if ring & USR else 0))
    assert bench.vpmu.count_emulated(INSTRUCTIONS, 3, KERNEL) == bool(kernel)
    assert bench.vpmu.count_emulated(INSTRUCTIONS, 4, USER) == bool(user)
    counted = bench.read(PMC0)
    assert counted == kernel + user
    assert bench.read(FIXED0) == counted


@pytest.mark.parametrize("modifier", [EDGE, INV, CMASK])
def test_modifiers_are_ignored_when_emulating_and_never_count_otherwise(
    new_bench: New, modifier: int
) -> None:
    bench = emulating(new_bench)
    bench.write(EVTSEL0, INSTRUCTION_EVENT | modifier)
    bench.retire(instructions=1000, cycles=1000)
    assert bench.read(PMC0) == 0
    assert bench.vpmu.not_counting == 1
    bench.vpmu.count_emulated(INSTRUCTIONS, 5, KERNEL)
    assert bench.read(PMC0) == 5


@pytest.mark.parametrize(
    ("own", "everywhere"), [(0, ALL_ON), (EN, 0), (0, 0)], ids=["EN=0", "GLOBAL_CTRL=0", "both"]
)
def test_both_enables_gate_emulated_events_too(new_bench: New, own: int, everywhere: int) -> None:
    bench = emulating(new_bench)
    bench.write(EVTSEL0, INSTRUCTION_EVENT & ~EN | own)
    bench.write(msr.GLOBAL_CTRL, everywhere)
    assert not bench.vpmu.count_emulated(INSTRUCTIONS, 100, KERNEL)
    bench.write(EVTSEL0, INSTRUCTION_EVENT)
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    assert bench.vpmu.count_emulated(INSTRUCTIONS, 100, KERNEL)
    assert bench.read(PMC0) == 100


def test_nothing_is_counted_while_held(new_bench: New) -> None:
    bench = emulating(new_bench)
    bench.write(EVTSEL0, INSTRUCTION_EVENT)
    bench.vpmu.stop_live()
    bench.vpmu.held = True
    assert not bench.vpmu.count_emulated(INSTRUCTIONS, 5, KERNEL)
    assert bench.read(PMC0) == 0


def test_a_version_1_counter_counts_them(new_bench: New) -> None:
    bench = new_bench(profile=KVM_6_12, cpuid=PmuCpuid(version=1))
    bench.write(EVTSEL0, INSTRUCTION_EVENT)
    bench.vpmu.count_emulated(INSTRUCTIONS, 5, KERNEL)
    assert bench.read(PMC0) == 5
