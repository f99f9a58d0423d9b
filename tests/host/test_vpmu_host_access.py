"""A VMM's access to the registers: what it saves, what it may set, what it may not."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.profile import KVM_5_14, PROFILES, STRICT_SDM, Profile

New = Callable[..., Any]
EVTSEL0, PMC0, PERFCTR0, FIXED0 = 0x186, 0x4C1, 0xC1, 0x309
BRANCHES, MISSES = 0x5300C4, 0x53412E
ALL_ON = 0x7_0000_00FF
MASK = (1 << 48) - 1
LEFT = (1 << 48) - 1000
FULL_WIDTH = 1 << 13
GLOBALS = [0x38D, 0x38E, 0x38F]
each_profile = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


def banks(gp: int, fixed: int) -> set[int]:
    return (
        set(range(0xC1, 0xC1 + gp))
        | set(range(0x186, 0x186 + gp))
        | set(range(0x309, 0x309 + fixed))
    )


# The list --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpuid", "listed"),
    [
        (PmuCpuid(), banks(8, 3) | {0x345, *GLOBALS}),
        (PmuCpuid(gp=2, fixed=1), banks(2, 1) | {0x345, *GLOBALS}),
        (PmuCpuid(gp=1, fixed=0), banks(1, 0) | {0x345, *GLOBALS}),
        (PmuCpuid(full_width=False), banks(8, 3) | {0x345, *GLOBALS}),
        (PmuCpuid(pdcm=False), banks(8, 3) | set(GLOBALS)),
        (PmuCpuid(version=1, gp=4), banks(4, 0) | {0x345}),
        (PmuCpuid(version=0), set()),
    ],
)
@each_profile
def test_the_save_list_is_exactly_what_exists_without_aliases_and_commands(
    new_bench: New, profile: Profile, cpuid: PmuCpuid, listed: set[int]
) -> None:
    assert new_bench(cpuid=cpuid, profile=profile).vpmu.msr_list() == sorted(listed)


# Counters and control registers ------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("skip_paused", [False, True])
def test_a_host_write_of_a_legacy_counter_takes_the_whole_width(
    new_bench: New, skip_paused: bool, running: bool
) -> None:
    bench = new_bench(skip_paused=skip_paused)
    bench.start_four()
    bench.retire(branches=9)
    if not running:
        bench.write(msr.GLOBAL_CTRL, 0)
    for value, kept in ((0x8000_0000, 0x8000_0000), (LEFT, LEFT), (1 << 60 | 7, 7)):
        assert bench.vpmu.host_wrmsr(PERFCTR0, value)
        assert bench.vpmu.host_rdmsr(PERFCTR0) == bench.vpmu.host_rdmsr(PMC0) == kept
        assert bench.read(PMC0) == kept


def test_both_banks_restore_the_same(new_bench: New) -> None:
    bench = new_bench()
    for source, target in ((PERFCTR0, PMC0 + 1), (PMC0, PERFCTR0 + 1)):
        bench.vpmu.host_wrmsr(PERFCTR0, 0xFEDC_BA98_7654)
        assert bench.vpmu.host_wrmsr(target, bench.vpmu.host_rdmsr(source))
        assert bench.vpmu.rdpmc(1) == 0xFEDC_BA98_7654
        bench.vpmu.host_wrmsr(target, 0)


def test_a_running_counter_reads_its_value_and_is_not_disturbed(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.retire(branches=9)
    bench.perf.take()
    assert bench.vpmu.host_rdmsr(PERFCTR0) == LEFT + 9
    assert bench.perf.take() == ["read_value"]
    bench.retire(branches=990)
    assert bench.vpmu.global_status == 0
    bench.retire(branches=1)
    assert bench.vpmu.global_status == 1


@pytest.mark.parametrize(
    ("address", "value"),
    [
        (EVTSEL0, BRANCHES | 1 << 21),
        (EVTSEL0, BRANCHES | 1 << 32),
        (0x38D, 1 << 2),
        (0x38D, 1 << 12),
        (0x38F, 1 << 8),
        (0x38E, 1 << 8),
        (0x38E, 1 << 35),
        (0x38E, 1 << 61),
        (0x390, 1 << 61),
        (PMC0, 1 << 48),
        (0x345, FULL_WIDTH | 1),
        (0x834, 1 << 32),
        (PERFCTR0, -1),
        (PERFCTR0, 1 << 64),
        (0x1234, 0),
        (msr.PV_PAGE, 0),
    ],
)
def test_a_wrong_host_write_is_an_error_and_changes_nothing(
    new_bench: New, address: int, value: int
) -> None:
    bench = new_bench()
    bench.start_four()
    bench.retire(branches=7, instructions=1000)
    before = bench.state()
    bench.perf.take()
    assert not bench.vpmu.host_wrmsr(address, value)
    assert bench.state() == before
    assert bench.perf.take() == []


def test_a_fixed_counter_above_the_width_is_the_profiles_matter_for_the_host_too(
    new_bench: New,
) -> None:
    assert new_bench().vpmu.host_wrmsr(FIXED0, 1 << 48)
    assert not new_bench(profile=STRICT_SDM).vpmu.host_wrmsr(FIXED0, 1 << 48)


def test_status_is_writable_for_the_host_and_read_only_for_the_guest(new_bench: New) -> None:
    bench = new_bench()
    bench.write(msr.LVTPC, 0x400)
    assert bench.vpmu.host_wrmsr(msr.GLOBAL_STATUS, ALL_ON)
    assert bench.read(msr.GLOBAL_STATUS) == ALL_ON
    assert not bench.write(msr.GLOBAL_STATUS, ALL_ON)
    assert not bench.delivery.requests, "status alone never raises a PMI"
    assert bench.vpmu.host_wrmsr(msr.GLOBAL_STATUS, 0)
    assert bench.read(msr.GLOBAL_STATUS) == 0


@each_profile
def test_a_host_write_of_ovf_ctrl_clears_no_status(new_bench: New, profile: Profile) -> None:
    bench = new_bench(profile=profile)
    bench.vpmu.host_wrmsr(msr.GLOBAL_STATUS, 3)
    assert bench.vpmu.host_wrmsr(msr.OVF_CTRL, 1)
    assert bench.read(msr.GLOBAL_STATUS) == 3
    remembered = 1 if profile is KVM_5_14 else 0
    assert bench.vpmu.host_rdmsr(msr.OVF_CTRL) == remembered


def test_host_writes_mark_counters_in_use_as_the_guests_do(new_bench: New) -> None:
    for address, marks in ((PERFCTR0, 1), (PMC0, 0), (EVTSEL0, 1), (FIXED0, 1 << 32)):
        bench = new_bench()
        assert bench.vpmu.host_wrmsr(address, 1)
        assert bench.vpmu.in_use == marks


# What does not exist -----------------------------------------------------------------------


@each_profile
@pytest.mark.parametrize("cpuid", [PmuCpuid(version=0), PmuCpuid(gp=1, fixed=0, pdcm=False)])
def test_an_advertised_register_that_is_absent_reads_0_and_takes_0(
    new_bench: New, profile: Profile, cpuid: PmuCpuid
) -> None:
    bench = new_bench(cpuid=cpuid, profile=profile)
    absent = set(new_bench().vpmu.msr_list()) - set(bench.vpmu.msr_list())
    assert absent
    before = bench.state()
    for address in absent:
        assert bench.vpmu.host_rdmsr(address) == 0
        assert bench.vpmu.host_wrmsr(address, 0)
        assert not bench.vpmu.host_wrmsr(address, 1)
        if address not in (0xC1, 0xC2, 0x186, 0x187):
            assert bench.read(address) is None
    assert bench.state() == before


def test_an_absent_alias_or_command_is_an_error(new_bench: New) -> None:
    bench = new_bench(cpuid=PmuCpuid(version=1, gp=1, full_width=False))
    for address in (PMC0, PMC0 + 1, msr.OVF_CTRL, 0x1234):
        assert bench.vpmu.host_rdmsr(address) is None
        assert not bench.vpmu.host_wrmsr(address, 0)


# PERF_CAPABILITIES -------------------------------------------------------------------------


def test_perf_capabilities_can_be_set_before_the_first_run(new_bench: New) -> None:
    bench = new_bench()
    vpmu, readers = bench.vpmu, bench.vpmu.readers
    bench.write(PMC0, 5)
    for value in (0, FULL_WIDTH, 0, FULL_WIDTH):
        assert vpmu.host_wrmsr(msr.CAPABILITIES, value)
        assert bench.read(msr.CAPABILITIES) == vpmu.host_rdmsr(msr.CAPABILITIES) == value
        assert vpmu.cpuid.full_width == bool(value)
        assert bench.read(PMC0) == (5 if value else None)
        assert bench.write(PMC0, 5) == bool(value)
        assert bench.read(PERFCTR0) == 5
    assert vpmu.readers is readers


@pytest.mark.parametrize("bit", [bit for bit in range(64) if bit != 13])
def test_no_other_capability_is_supported(new_bench: New, bit: int) -> None:
    vpmu = new_bench().vpmu
    assert not vpmu.host_wrmsr(msr.CAPABILITIES, FULL_WIDTH | 1 << bit)
    assert not vpmu.host_wrmsr(msr.CAPABILITIES, 1 << bit)
    assert vpmu.host_rdmsr(msr.CAPABILITIES) == FULL_WIDTH


@pytest.mark.parametrize("full_width", [False, True])
def test_after_the_first_run_only_the_present_value_is_taken(
    new_bench: New, full_width: bool
) -> None:
    vpmu = new_bench(cpuid=PmuCpuid(full_width=full_width)).vpmu
    vpmu.has_run = True
    present = FULL_WIDTH if full_width else 0
    assert vpmu.host_wrmsr(msr.CAPABILITIES, present)
    for bit in range(64):
        assert not vpmu.host_wrmsr(msr.CAPABILITIES, present ^ 1 << bit)
    assert vpmu.host_rdmsr(msr.CAPABILITIES) == present


def test_without_pdcm_the_host_reads_0_and_may_write_only_0(new_bench: New) -> None:
    bench = new_bench(cpuid=PmuCpuid(pdcm=False))
    assert bench.read(msr.CAPABILITIES) is None
    assert bench.vpmu.host_rdmsr(msr.CAPABILITIES) == 0
    assert bench.vpmu.host_wrmsr(msr.CAPABILITIES, 0)
    assert not any(bench.vpmu.host_wrmsr(msr.CAPABILITIES, 1 << bit) for bit in range(64))


# Round trips -------------------------------------------------------------------------------


def saved(vpmu: Any) -> dict[int, int]:
    return {address: vpmu.host_rdmsr(address) for address in vpmu.msr_list()}


@each_profile
def test_what_was_saved_and_restored_counts_on_and_raises_nothing(
    new_bench: New, profile: Profile
) -> None:
    source = new_bench(profile=profile)
    source.start_four()
    source.retire(branches=300, misses=1000)
    dump = saved(source.vpmu)
    for order in (sorted(dump), sorted(dump, reverse=True)):
        target = new_bench(profile=profile)
        for _ in range(2):
            for address in order:
                assert target.vpmu.host_wrmsr(address, dump[address]), hex(address)
            assert saved(target.vpmu) == dump
        target.enter()
        assert not target.delivery.requests
        target.retire(branches=699)
        assert target.read(msr.GLOBAL_STATUS) == 2
        target.retire(branches=1)
        assert target.read(msr.GLOBAL_STATUS) == 3
        assert target.read(PMC0) == 0


def test_a_smaller_destination_refuses_what_it_has_not_and_nothing_else(new_bench: New) -> None:
    source = new_bench()
    source.start_four()
    dump = saved(source.vpmu)
    target = new_bench(cpuid=PmuCpuid(gp=1, fixed=1))
    refused = {address for address in dump if not target.vpmu.host_wrmsr(address, dump[address])}
    assert refused == {0xC2, 0x187, 0x30A, 0x38D, 0x38F}
    assert saved(target.vpmu)[PERFCTR0] == LEFT
    assert saved(target.vpmu)[EVTSEL0] == BRANCHES


@given(
    values=st.lists(st.integers(0, MASK), min_size=11, max_size=11),
    selectors=st.lists(st.integers(0, 0xFFFF_FFFF), min_size=8, max_size=8),
    control=st.integers(0, 0xFFF),
    enables=st.integers(0, (1 << 35) - 1),
    status=st.integers(0, (1 << 35) - 1),
)
@settings(max_examples=60)
def test_every_legal_register_file_survives_a_round_trip(
    new_bench: New,
    values: list[int],
    selectors: list[int],
    control: int,
    enables: int,
    status: int,
) -> None:
    wanted = {
        **{PERFCTR0 + i: values[i] for i in range(8)},
        **{FIXED0 + j: values[8 + j] for j in range(3)},
        **{EVTSEL0 + i: selectors[i] & ~(1 << 21) for i in range(8)},
        0x345: FULL_WIDTH,
        0x38D: control & 0xBBB,
        0x38E: status & ALL_ON,
        0x38F: enables & ALL_ON,
    }
    first, second = new_bench().vpmu, new_bench().vpmu
    assert all(first.host_wrmsr(address, value) for address, value in wanted.items())
    assert saved(first) == wanted
    assert all(second.host_wrmsr(address, value) for address, value in saved(first).items())
    assert saved(second) == wanted
