"""KVM's vPMU: overflow, host events, lazy release."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.perf import State
from pvpmu.host.pmi import REQUEST_PMI, REQUEST_PMU
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid

New = Callable[..., Any]
EVTSEL0, EVTSEL1 = 0x186, 0x187
PMC0, PMC1, PERFCTR0 = 0x4C1, 0x4C2, 0xC1
FIXED0 = 0x309
BRANCHES, MISSES = 0x5300C4, 0x53412E
EN, INT = 1 << 22, 1 << 20
ALL_ON = 0x7_0000_00FF
MASK = (1 << 48) - 1
LEFT = (1 << 48) - 1000
NMI_MODE = 0x400

# Overflow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip_paused", [False, True])
def test_minus_one_written_to_a_running_counter_overflows(
    new_bench: New, skip_paused: bool
) -> None:
    bench = new_bench(skip_paused=skip_paused)
    bench.start_four()
    bench.retire(branches=123)
    bench.write(PMC0, MASK)
    bench.retire(branches=1)
    assert bench.vpmu.global_status == 1
    bench.vpmu.handle_pmu_request(pause_only=False)
    assert bench.read(PMC0) == 0


@pytest.mark.parametrize("skip_paused", [False, True])
def test_a_value_written_while_paused_decides_the_next_overflow(
    new_bench: New, skip_paused: bool
) -> None:
    bench = new_bench(skip_paused=skip_paused)
    bench.start_four()
    bench.write(msr.GLOBAL_CTRL, 0)
    bench.write(PMC0, MASK + 1 - 50)
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    bench.retire(branches=49)
    assert bench.vpmu.global_status == 0
    bench.retire(branches=1)
    assert bench.vpmu.global_status == 1


def test_a_counter_at_zero_gets_the_period_two_to_the_width(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.write(msr.GLOBAL_CTRL, 0)
    bench.write(PMC0, 0)
    bench.perf.calls.clear()
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    periods = [call for call in bench.perf.calls if call.startswith("period")]
    assert periods == ["period 0x1000000000000"] + ["period 0x3e8"] * 3


def test_an_overflow_while_its_reprogram_bit_is_set_is_ignored(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.retire(branches=1000)
    assert (bench.vpmu.reprogram_pmi, bench.vpmu.global_status) == (1, 1)
    bench.write(msr.OVF_CTRL, 1)
    bench.retire(branches=1000)
    assert bench.vpmu.global_status == 0
    assert bench.delivery.counts.raised == 1


def test_stopping_early_keeps_the_reprogram_bit_and_resuming_clears_it(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.retire(branches=1000)
    bench.write(msr.GLOBAL_CTRL, 0)
    bench.vpmu.handle_pmu_request(pause_only=False)
    assert bench.vpmu.reprogram_pmi == 1
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    assert bench.vpmu.reprogram_pmi == 0


def test_without_int_an_overflow_sets_status_and_asks_for_no_pmi(new_bench: New) -> None:
    bench = new_bench()
    bench.write(msr.LVTPC, NMI_MODE)
    bench.write(PMC0, MASK)
    bench.write(EVTSEL0, BRANCHES & ~INT)
    bench.write(FIXED0, MASK)
    bench.write(msr.FIXED_CTR_CTRL, 0x3)
    bench.retire(branches=1, instructions=1)
    assert bench.vpmu.global_status == 1 | 1 << 32
    assert bench.delivery.requests == REQUEST_PMU
    assert not bench.delivery.pmi_pending


def test_a_fixed_counters_pmi_bit_asks_for_a_pmi(new_bench: New) -> None:
    bench = new_bench()
    bench.write(msr.LVTPC, NMI_MODE)
    bench.write(FIXED0, MASK)
    bench.write(msr.FIXED_CTR_CTRL, 0xB)
    bench.retire(instructions=1)
    assert bench.delivery.requests == REQUEST_PMU | REQUEST_PMI


# Events ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", [0x5377_C4, 0x5301_77, BRANCHES | 1 << 18, BRANCHES | 1 << 24])
def test_an_event_the_silicon_lacks_reads_back_as_written_and_never_counts(
    new_bench: New, selector: int
) -> None:
    bench = new_bench()
    assert bench.write(EVTSEL0, selector)
    bench.retire(branches=1000, cycles=1000)
    assert bench.read(EVTSEL0) == selector
    assert bench.read(PMC0) == 0
    assert bench.vpmu.not_counting == 1


def test_an_event_that_cpuid_hides_counts_as_a_raw_one(new_bench: New) -> None:
    bench = new_bench(cpuid=PmuCpuid(unavailable=1 << 5))
    bench.write(EVTSEL0, BRANCHES)
    bench.write(EVTSEL1, MISSES)
    bench.retire(branches=8, misses=8)
    assert (bench.read(PMC0), bench.read(PMC1)) == (8, 8)
    assert bench.vpmu.not_counting == 0


def test_a_pinned_event_without_a_counter_goes_to_error_until_it_is_enabled_again(
    new_bench: New,
) -> None:
    bench = new_bench(hardware=PhysicalPmu(gp=1, fixed=0))
    bench.write(EVTSEL0, BRANCHES)
    bench.write(EVTSEL1, MISSES)
    assert bench.vpmu.gp[1].event.state is State.ERROR
    assert bench.vpmu.not_counting == 2
    bench.write(EVTSEL0, 0)
    bench.retire(misses=5)
    assert bench.read(PMC1) == 0
    bench.write(msr.GLOBAL_CTRL, 0)
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    bench.retire(misses=5)
    assert bench.read(PMC1) == 5
    assert bench.vpmu.not_counting == 0


def test_a_changed_selector_releases_the_old_event_and_creates_another(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    assert bench.calls((EVTSEL0, MISSES)) == ["pause", "release", "create"]
    bench.retire(misses=6)
    assert bench.read(PMC0) == LEFT + 6


def test_lazy_release_keeps_the_value_and_the_next_enable_creates_the_event(
    new_bench: New,
) -> None:
    bench = new_bench()
    bench.start_four()
    bench.retire(branches=11)
    bench.write(EVTSEL0, BRANCHES & ~EN)
    bench.vpmu.cleanup()
    assert bench.vpmu.gp[0].event is not None, "written since the last cleanup: in use"
    bench.perf.take()
    bench.vpmu.cleanup()
    assert bench.perf.take() == ["release"]
    assert bench.vpmu.gp[0].event is None
    assert bench.vpmu.gp[1].event is not None, "enabled counters stay"
    assert bench.read(PMC0) == LEFT + 11
    assert bench.calls((EVTSEL0, BRANCHES)) == ["create"]
    bench.retire(branches=1)
    assert bench.read(PMC0) == LEFT + 12


def test_lazy_release_ignores_global_ctrl(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.write(msr.GLOBAL_CTRL, 0)
    bench.vpmu.cleanup()
    bench.vpmu.cleanup()
    assert all(pmc.event is not None for pmc in (*bench.vpmu.gp[:2], *bench.vpmu.fixed[:2]))


@pytest.mark.parametrize(("address", "marks"), [(PERFCTR0, 1), (PMC0, 0), (FIXED0, 1 << 32)])
def test_legacy_and_fixed_writes_mark_a_counter_in_use_and_reads_never_do(
    new_bench: New, address: int, marks: int
) -> None:
    bench = new_bench()
    bench.read(address)
    bench.vpmu.rdpmc(0)
    assert bench.vpmu.in_use == 0
    bench.write(address, 1)
    assert bench.vpmu.in_use == marks
