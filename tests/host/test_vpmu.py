"""KVM's vPMU: #GP rules, same-value writes, counter values."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid

New = Callable[..., Any]
EVTSEL0 = 0x186
PMC0, PMC1, PERFCTR0 = 0x4C1, 0x4C2, 0xC1
FIXED0, FIXED1 = 0x309, 0x30A
BRANCHES = 0x5300C4
EN = 1 << 22
ALL_ON = 0x7_0000_00FF
MASK = (1 << 48) - 1
LEFT = (1 << 48) - 1000
NMI_MODE = 0x400

# A same-value write has no side effect, a refused one leaves the state alone -------------------


@pytest.mark.parametrize("address", [msr.GLOBAL_CTRL, msr.FIXED_CTR_CTRL, EVTSEL0])
@pytest.mark.parametrize("skip_paused", [False, True])
def test_a_same_value_write_of_a_control_register_makes_no_perf_call(
    new_bench: New, address: int, skip_paused: bool
) -> None:
    bench = new_bench(skip_paused=skip_paused)
    bench.start_four()
    before = bench.state()
    assert bench.calls((address, bench.read(address))) == []
    assert bench.state() == before


def test_only_the_changed_nibble_of_fixed_ctr_ctrl_is_reprogrammed(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    assert bench.calls((msr.FIXED_CTR_CTRL, 0x0B)) == ["pause"]
    assert bench.vpmu.fixed[0].event.counting
    assert not bench.vpmu.fixed[1].event.counting


@pytest.mark.parametrize(
    ("address", "value"),
    [
        (EVTSEL0, BRANCHES | 1 << 21),
        (EVTSEL0, BRANCHES | 1 << 32),
        (EVTSEL0, 1 << 63),
        (msr.FIXED_CTR_CTRL, 0xBB | 4),
        (msr.FIXED_CTR_CTRL, 0xBB | 1 << 12),
        (msr.GLOBAL_CTRL, 1 << 8),
        (msr.GLOBAL_CTRL, 1 << 35),
        (msr.GLOBAL_CTRL, 1 << 63),
        (msr.GLOBAL_STATUS, 0),
        (msr.OVF_CTRL, 1 << 61),
        (msr.OVF_CTRL, 1 << 8),
        (msr.CAPABILITIES, 0),
        (msr.LVTPC, NMI_MODE | 1 << 32),
        (PMC0, 1 << 48),
        (PMC0, 1 << 63),
        (0x186 + 8, 0),
        (0x4C1 + 8, 0),
        (0xC1 + 8, 0),
        (0x309 + 3, 0),
        (0x1234, 0),
    ],
)
def test_a_refused_write_leaves_every_state_untouched(
    new_bench: New, address: int, value: int
) -> None:
    bench = new_bench()
    bench.start_four()
    bench.retire(branches=7, instructions=1000)
    before = bench.state()
    bench.perf.take()
    assert not bench.write(address, value)
    assert bench.state() == before
    assert bench.perf.take() == []


def test_ovf_ctrl_accepts_counter_bits_and_62_and_63_and_reads_back(new_bench: New) -> None:
    bench = new_bench()
    value = ALL_ON | 3 << 62
    assert bench.write(msr.OVF_CTRL, value)
    assert bench.read(msr.OVF_CTRL) == value


def test_absent_p6_registers_are_tolerated_and_read_zero(new_bench: New) -> None:
    bench = new_bench(cpuid=PmuCpuid(gp=1, fixed=0))
    for address in (0xC2, 0x187):
        assert bench.write(address, 5)
        assert bench.read(address) == 0
    assert bench.read(0x4C2) is None
    assert bench.read(0x309) is None
    assert not bench.write(0x188, 0)
    assert bench.read(0xC3) is None


def test_lvtpc_keeps_vector_mode_pending_and_mask_only(new_bench: New) -> None:
    bench = new_bench()
    assert bench.write(msr.LVTPC, 0xFFFF_FFFF)
    assert bench.read(msr.LVTPC) == 0xFF | 0x700 | 1 << 12 | 1 << 16


# Counter values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (0x7FFF_FFFF, 0x7FFF_FFFF),
        (0xABCD_0000_1234, 0x1234),
        (0x8000_0000, 0xFFFF_8000_0000),
        (0x1_FFFF_FFFF, 0xFFFF_FFFF_FFFF),
    ],
)
@pytest.mark.parametrize("running", [False, True])
def test_a_legacy_write_is_sign_extended_from_bit_31(
    new_bench: New, running: bool, written: int, kept: int
) -> None:
    bench = new_bench()
    bench.start_four()
    if not running:
        bench.write(msr.GLOBAL_CTRL, 0)
    assert bench.write(PERFCTR0, written)
    assert bench.read(PERFCTR0) == bench.read(PMC0) == bench.vpmu.rdpmc(0) == kept


def test_a_full_width_write_reads_back_through_both_aliases(new_bench: New) -> None:
    bench = new_bench()
    assert bench.write(PMC1, MASK)
    assert bench.read(PMC1) == bench.read(0xC2) == MASK


def test_a_fixed_counter_write_is_cut_to_its_width_and_never_faults(new_bench: New) -> None:
    bench = new_bench(cpuid=PmuCpuid(fixed_width=40))
    assert bench.write(FIXED0, 0xFFFF_FFFF_FFFF_FFFE)
    assert bench.read(FIXED0) == (1 << 40) - 2


@pytest.mark.parametrize(
    ("ecx", "value"),
    [
        (0, MASK - 1),
        (1 << 31, 0xFFFF_FFFE),
        (1 << 30, 0x1_0000_0005),
        (1 << 31 | 1 << 30, 5),
        (8, None),
        (64, None),
        (1 << 30 | 3, None),
        (1 << 32, None),
    ],
)
def test_rdpmc_reads_a_counter_cuts_it_in_fast_mode_and_faults_on_a_bad_index(
    new_bench: New, ecx: int, value: int | None
) -> None:
    bench = new_bench()
    bench.write(PMC0, MASK - 1)
    bench.write(FIXED0, 0x1_0000_0005)
    assert bench.vpmu.rdpmc(ecx) == value


def test_rdpmc_and_rdmsr_agree_on_a_running_counter(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.retire(branches=10, cycles=20)
    assert bench.vpmu.rdpmc(0) == bench.read(PMC0) == LEFT + 10
    assert bench.vpmu.rdpmc(1 << 30 | 1) == bench.read(FIXED1) == LEFT + 20


def test_writing_zero_to_a_running_counter_counts_from_zero(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.retire(branches=300)
    bench.write(PMC0, 0)
    bench.retire(branches=4)
    assert bench.read(PMC0) == 4
    assert bench.vpmu.global_status == 0


def test_a_clear_global_bit_stops_a_counter_and_its_value_survives(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.retire(branches=5)
    bench.write(msr.GLOBAL_CTRL, ALL_ON & ~1)
    bench.retire(branches=100, misses=3)
    assert (bench.read(PMC0), bench.read(PMC1)) == (LEFT + 5, LEFT + 3)
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    bench.retire(branches=2)
    assert bench.read(PMC0) == LEFT + 7


def test_a_selector_write_with_global_ctrl_on_starts_counting(new_bench: New) -> None:
    bench = new_bench()
    assert bench.read(msr.GLOBAL_CTRL) == ALL_ON
    bench.write(EVTSEL0, BRANCHES)
    bench.retire(branches=9)
    assert bench.read(PMC0) == 9


@pytest.mark.parametrize(("ring", "counted"), [(1 << 16, 3), (1 << 17, 40), (3 << 16, 43), (0, 0)])
def test_the_usr_and_os_bits_choose_what_counts(new_bench: New, ring: int, counted: int) -> None:
    bench = new_bench()
    bench.write(EVTSEL0, 0xC4 | EN | ring)
    bench.hardware.retire([0, 0, 0, 0, 0, 3, 0], [0, 0, 0, 0, 0, 40, 0])
    assert bench.read(PMC0) == counted
