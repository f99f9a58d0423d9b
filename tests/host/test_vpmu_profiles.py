"""What the profile and the CPUID leaf change in the vPMU."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.host.pmi import REQUEST_PMI, REQUEST_PMU
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.profile import KVM_5_14, KVM_6_12, PROFILES, STRICT_SDM, Profile

New = Callable[..., Any]
EVTSEL0, PMC0, PERFCTR0, FIXED0 = 0x186, 0x4C1, 0xC1, 0x309
BRANCHES = 0x5300C4
EN = 1 << 22
MASK = (1 << 48) - 1
P6 = (0xC1, 0xC2, 0x186, 0x187)
LVTPC_ALONE = {msr.LVTPC}
each_profile = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)

# Where the sources disagree ----------------------------------------------------------------


@each_profile
def test_a_fixed_counter_write_above_the_width_is_cut_or_faults(
    new_bench: New, profile: Profile
) -> None:
    bench = new_bench(profile=profile, cpuid=PmuCpuid(fixed_width=40))
    bench.write(FIXED0, 7)
    before = bench.state()
    assert bench.write(FIXED0, 1 << 40 | 5) == (profile is not STRICT_SDM)
    if profile is STRICT_SDM:
        assert bench.state() == before
        assert bench.vpmu.in_use == 1 << 32, "of the first write"
        assert bench.write(FIXED0, (1 << 40) - 1)
    else:
        assert bench.read(FIXED0) == 5


@each_profile
@pytest.mark.parametrize("cpuid", [PmuCpuid(gp=1), PmuCpuid(version=0)], ids=["gp=1", "version=0"])
def test_absent_p6_registers_drop_writes_and_read_zero_or_fault(
    new_bench: New, profile: Profile, cpuid: PmuCpuid
) -> None:
    bench = new_bench(profile=profile, cpuid=cpuid)
    tolerated = profile is not STRICT_SDM
    for address in P6:
        if address in (0xC1, 0x186) and cpuid.gp:
            continue
        before = bench.state()
        assert bench.write(address, 5) == tolerated
        assert bench.read(address) == (0 if tolerated else None)
        assert bench.state() == before
        assert bench.read(address + 0x400) is None
    assert not bench.write(0xC3, 0)
    assert not bench.write(0x188, 0)


@each_profile
@pytest.mark.parametrize("ecx", [1 << 31, 1 << 31 | 1 << 30])
def test_fast_mode_gives_32_bits_or_faults(new_bench: New, profile: Profile, ecx: int) -> None:
    bench = new_bench(profile=profile)
    bench.write(PMC0, 0xABCD_1234_5678)
    bench.write(FIXED0, 0xABCD_1234_5678)
    assert bench.vpmu.rdpmc(ecx) == (0x1234_5678 if profile is KVM_5_14 else None)
    assert bench.vpmu.rdpmc(ecx & ~(1 << 31)) == 0xABCD_1234_5678


@each_profile
@pytest.mark.parametrize("ecx", [8, 64, 1 << 30 | 3, 1 << 29, 1 << 32, 1 << 31 | 8, 1 << 16])
def test_a_bad_index_faults_in_every_profile(new_bench: New, profile: Profile, ecx: int) -> None:
    assert new_bench(profile=profile).vpmu.rdpmc(ecx) is None


@each_profile
def test_rdpmc_from_user_space_faults_where_cr4_pce_is_clear(
    new_bench: New, profile: Profile
) -> None:
    bench = new_bench(profile=profile)
    bench.write(PMC0, 5)
    assert bench.vpmu.rdpmc(0, user_denied=False) == 5
    assert bench.vpmu.rdpmc(0, user_denied=True) is None


@pytest.mark.rule("ACC-11")
@each_profile
def test_ovf_ctrl_reads_the_last_value_written_or_zero(new_bench: New, profile: Profile) -> None:
    bench = new_bench(profile=profile)
    assert bench.write(msr.OVF_CTRL, 1 << 63 | 3)
    assert bench.read(msr.OVF_CTRL) == (1 << 63 | 3 if profile is KVM_5_14 else 0)
    # What an import takes from the page's word.
    bench.vpmu.ovf_ctrl = 2
    assert bench.read(msr.OVF_CTRL) == (2 if profile is KVM_5_14 else 0)


@each_profile
def test_global_ctrl_after_power_on_and_after_reset(new_bench: New, profile: Profile) -> None:
    bench = new_bench(profile=profile, cpuid=PmuCpuid(gp=4, fixed=2))
    assert bench.read(msr.GLOBAL_CTRL) == (0x3_0000_000F if profile is KVM_5_14 else 0xF)
    bench.write(msr.GLOBAL_CTRL, 0x1_0000_0001)
    bench.vpmu.reset()
    assert bench.read(msr.GLOBAL_CTRL) == (0 if profile is KVM_5_14 else 0xF)


@pytest.mark.parametrize(("profile", "late"), [(KVM_5_14, 0), (KVM_6_12, 123), (STRICT_SDM, 0)])
def test_a_write_to_a_running_counter_overflows_at_the_wrap_or_late_by_what_it_counted(
    new_bench: New, profile: Profile, late: int
) -> None:
    bench = new_bench(profile=profile)
    bench.start_four()
    bench.retire(branches=123)
    bench.perf.calls.clear()
    bench.write(PMC0, MASK - 9)
    assert bench.perf.calls == ["read_value", f"period {10 + late:#x}"]
    assert bench.read(PMC0) == MASK - 9
    bench.retire(branches=9 + late)
    assert bench.vpmu.global_status == 0
    bench.retire(branches=1)
    assert bench.vpmu.global_status == 1
    assert bench.read(PMC0) == late


# RESET ---------------------------------------------------------------------------------------


@each_profile
def test_reset_releases_every_event_and_zeroes_every_register(
    new_bench: New, profile: Profile
) -> None:
    bench = new_bench(profile=profile)
    bench.start_four()
    bench.retire(branches=1000)
    assert bench.vpmu.reprogram_pmi
    bench.vpmu.reset()
    assert bench.perf.take() == ["release"] * 4
    assert bench.hardware.started == []
    left = {address for address in bench.vpmu.readers if bench.read(address)}
    assert left - {msr.LVTPC, msr.CAPABILITIES, msr.GLOBAL_CTRL} == set()
    once = bench.state()
    bench.vpmu.handle_pmu_request(pause_only=False)
    bench.vpmu.reset()
    assert bench.state() == once
    assert bench.perf.take() == []


@each_profile
def test_a_counter_counts_again_after_reset(new_bench: New, profile: Profile) -> None:
    bench = new_bench(profile=profile)
    bench.start_four()
    bench.vpmu.reset()
    bench.write(EVTSEL0, BRANCHES)
    bench.retire(branches=5)
    assert bench.read(PMC0) == (0 if profile is KVM_5_14 else 5)
    bench.write(msr.GLOBAL_CTRL, 0)
    bench.write(msr.GLOBAL_CTRL, 1)
    bench.retire(branches=5)
    assert bench.read(PMC0) == (5 if profile is KVM_5_14 else 10)


# Versions, and what CPUID and PERF_CAPABILITIES take away -----------------------------------


@each_profile
@pytest.mark.parametrize("address", [0x309, 0x30A, 0x30B, 0x38D, 0x38E, 0x38F, 0x390])
def test_version_1_has_no_global_and_no_fixed_registers(
    new_bench: New, profile: Profile, address: int
) -> None:
    bench = new_bench(profile=profile, cpuid=PmuCpuid(version=1))
    assert bench.read(address) is None
    assert not bench.write(address, 0)
    assert bench.vpmu.rdpmc(1 << 30) is None


@each_profile
def test_a_version_1_counter_is_gated_by_its_own_enable_alone(
    new_bench: New, profile: Profile
) -> None:
    bench = new_bench(profile=profile, cpuid=PmuCpuid(version=1, gp=2))
    bench.write(msr.LVTPC, 0x400)
    for _ in range(2):
        bench.write(PMC0, MASK - 1)
        bench.write(EVTSEL0, BRANCHES)
        bench.retire(branches=3)
        assert bench.read(PMC0) == 1
        assert bench.delivery.requests == REQUEST_PMU | REQUEST_PMI
        bench.vpmu.handle_pmu_request(pause_only=False)
        bench.write(EVTSEL0, BRANCHES & ~EN)
        bench.retire(branches=3)
        assert bench.read(PMC0) == 1
        bench.vpmu.reset()
        bench.delivery.requests = 0


@each_profile
def test_version_0_has_nothing_but_the_apics_register_and_the_p6_ones(
    new_bench: New, profile: Profile
) -> None:
    bench = new_bench(profile=profile, cpuid=PmuCpuid(version=0))
    allowed = LVTPC_ALONE | (set(P6) if profile.p6_tolerated else set())
    assert set(bench.vpmu.readers) == set(bench.vpmu.writers) == allowed
    for address in msr.BY_ADDRESS:
        bench.write(address, BRANCHES)
    assert all(bench.vpmu.rdpmc(ecx) is None for ecx in msr.RDPMC_INDICES)
    bench.retire(branches=5)
    assert bench.perf.take() == []
    assert (bench.vpmu.live, bench.vpmu.global_ctrl) == (0, 0)


@pytest.mark.parametrize("cpuid", [PmuCpuid(full_width=False), PmuCpuid(pdcm=False)])
def test_without_full_width_writes_only_the_legacy_bank_exists(
    new_bench: New, cpuid: PmuCpuid
) -> None:
    bench = new_bench(cpuid=cpuid)
    assert bench.read(PMC0) is None
    assert not bench.write(PMC0, 0)
    assert bench.write(PERFCTR0, 0x8000_0000)
    assert bench.read(PERFCTR0) == 0xFFFF_8000_0000
    assert bench.read(msr.CAPABILITIES) == (0 if cpuid.pdcm else None)
    assert not bench.write(msr.CAPABILITIES, 0)


@pytest.mark.parametrize(("gp", "fixed"), [(32, 48), (48, 32), (40, 33)])
def test_each_bank_wraps_at_its_own_width(new_bench: New, gp: int, fixed: int) -> None:
    bench = new_bench(cpuid=PmuCpuid(gp_width=gp, fixed_width=fixed))
    for address, width in ((PMC0, gp), (FIXED0, fixed)):
        assert bench.write(address, (1 << width) - 1)
    assert not bench.write(PMC0, 1 << gp)
    bench.write(EVTSEL0, 0x5300C0)
    bench.write(msr.FIXED_CTR_CTRL, 0x3)
    bench.retire(instructions=3)
    assert bench.read(PMC0) == bench.read(FIXED0) == 2
    assert bench.vpmu.global_status == 1 | 1 << 32


def test_a_legacy_write_is_cut_to_a_width_of_32_bits(new_bench: New) -> None:
    bench = new_bench(cpuid=PmuCpuid(gp_width=32))
    bench.write(PERFCTR0, 0x1_8000_0001)
    assert bench.read(PERFCTR0) == bench.vpmu.rdpmc(0) == 0x8000_0001


@pytest.mark.parametrize("gp", range(1, 9))
@pytest.mark.parametrize("fixed", range(4))
def test_the_registers_that_answer_are_those_that_exist(
    new_bench: New, gp: int, fixed: int
) -> None:
    cpuid = PmuCpuid(gp=gp, fixed=fixed)
    bench = new_bench(cpuid=cpuid, profile=STRICT_SDM)
    exist = {
        register.address for register in msr.REGISTERS if register.pmu and register.exists(cpuid)
    }
    assert set(bench.vpmu.readers) == set(bench.vpmu.writers) == exist
    indices = {ecx for ecx in msr.RDPMC_INDICES if bench.vpmu.rdpmc(ecx) is not None}
    assert indices == {*range(gp), *(1 << 30 | number for number in range(fixed))}


def test_what_every_exit_uses_is_looked_up_by_slot(new_bench: New) -> None:
    assert not vars(new_bench().vpmu)
