"""KVM's vPMU: how many perf calls every operation makes, and in which order."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.shared import registers as msr
from pvpmu.shared.tally import REDUNDANT

New = Callable[..., Any]
EVTSEL0, EVTSEL1 = 0x186, 0x187
PMC0, PMC1, PERFCTR0 = 0x4C1, 0x4C2, 0xC1
FIXED0, FIXED1 = 0x309, 0x30A
BRANCHES, MISSES = 0x5300C4, 0x53412E
EN = 1 << 22
ALL_ON = 0x7_0000_00FF
LEFT = (1 << 48) - 1000
NMI_MODE, MASKED = 0x400, 1 << 16

OVERFLOWS = [
    {},
    {"branches": 1000},
    {"branches": 1000, "misses": 1000},
    {"branches": 1000, "misses": 1000, "instructions": 1000},
    {"branches": 1000, "misses": 1000, "instructions": 1000, "cycles": 1000},
]
COUNTER_OF = {0: (0, PMC0), 1: (1, PMC1), 32: (1 << 30, FIXED0), 33: (1 << 30 | 1, FIXED1)}


def run_handler(bench: Any) -> list[str]:
    """Linux's PMI handler: the perf calls of its accesses, in order."""
    bench.perf.take()
    bench.write(msr.GLOBAL_CTRL, 0)
    status = bench.read(msr.GLOBAL_STATUS)
    if status:
        bench.write(msr.OVF_CTRL, status)
        for bit, (ecx, address) in COUNTER_OF.items():
            if status >> bit & 1:
                bench.vpmu.rdpmc(ecx)
                bench.write(address, LEFT)
        assert bench.read(msr.GLOBAL_STATUS) == 0
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    bench.write(msr.LVTPC, NMI_MODE)
    return bench.perf.take()


def stop(bench: Any) -> None:
    """Linux's stop of all four events, inside a GLOBAL_CTRL = 0 section."""
    for number, (address, value) in enumerate(((EVTSEL0, BRANCHES), (EVTSEL1, MISSES))):
        bench.write(address, value & ~EN)
        bench.vpmu.rdpmc(number)
    for number in (0, 1):
        bench.write(msr.FIXED_CTR_CTRL, bench.read(msr.FIXED_CTR_CTRL) & ~(0xF << 4 * number))
        bench.vpmu.rdpmc(1 << 30 | number)


def start(bench: Any) -> None:
    """Linux's start with reload of all four events."""
    for address, selector, value in ((PMC0, EVTSEL0, BRANCHES), (PMC1, EVTSEL1, MISSES)):
        bench.write(address, LEFT)
        bench.write(selector, value)
    for number, address in enumerate((FIXED0, FIXED1)):
        bench.write(address, LEFT)
        bench.write(msr.FIXED_CTR_CTRL, bench.read(msr.FIXED_CTR_CTRL) | 0xB << 4 * number)


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("skip_paused", [False, True])
def test_a_pmi_handler_with_four_counters_makes_4m_plus_3k_calls_or_3m_with_is_paused(
    new_bench: New, skip_paused: bool, k: int
) -> None:
    bench = new_bench(skip_paused=skip_paused)
    bench.start_four()
    bench.retire(**OVERFLOWS[k])
    bench.perf.take()
    bench.vpmu.handle_pmu_request(pause_only=False)
    assert bench.perf.take() == ["pause", "period", "enable"] * k
    assert len(run_handler(bench)) == (12 if skip_paused else 16 + 3 * k)


def test_the_handlers_calls_come_in_kvms_order_before_is_paused(new_bench: New) -> None:
    bench = new_bench(skip_paused=False)
    bench.start_four()
    bench.retire(branches=1000)
    bench.vpmu.handle_pmu_request(pause_only=False)
    bench.perf.tally[REDUNDANT] = 0
    calls = run_handler(bench)
    assert calls == (
        ["pause"] * 4
        + ["read_value"]  # RDPMC
        + ["read_value", "period"]  # the counter write
        + ["pause", "period", "enable"] * 4
    )
    # 4 pauses, 2 reads and 1 period: the 7 calls that is_paused removes.
    assert bench.perf.tally[REDUNDANT] == 7


def test_the_handlers_calls_come_in_kvms_order_with_is_paused(new_bench: New) -> None:
    bench = new_bench(skip_paused=True)
    bench.start_four()
    bench.retire(branches=1000)
    bench.vpmu.handle_pmu_request(pause_only=False)
    assert run_handler(bench) == ["pause"] * 4 + ["period", "enable"] * 4
    assert bench.perf.tally[REDUNDANT] == 0


@pytest.mark.parametrize(("skip_paused", "expected"), [(False, 36), (True, 12)])
def test_a_frequency_tick_makes_9m_calls_or_3m(
    new_bench: New, skip_paused: bool, expected: int
) -> None:
    bench = new_bench(skip_paused=skip_paused)
    bench.start_four()
    bench.write(msr.GLOBAL_CTRL, 0)
    stop(bench)
    start(bench)
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    assert len(bench.perf.take()) == expected


@pytest.mark.parametrize(("skip_paused", "out", "back"), [(False, 16, 28), (True, 4, 8)])
def test_a_sched_out_makes_4m_calls_or_m_and_a_warm_sched_in_7m_or_2m(
    new_bench: New, skip_paused: bool, out: int, back: int
) -> None:
    bench = new_bench(skip_paused=skip_paused)
    bench.start_four()
    bench.write(msr.GLOBAL_CTRL, 0)
    stop(bench)
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    assert len(bench.perf.take()) == out
    bench.write(msr.GLOBAL_CTRL, 0)
    start(bench)
    bench.write(msr.LVTPC, NMI_MODE)
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    assert len(bench.perf.take()) == back


def test_a_cold_sched_in_creates_each_event_once(new_bench: New) -> None:
    bench = new_bench(skip_paused=True)
    bench.write(msr.GLOBAL_CTRL, 0)
    start(bench)
    assert bench.calls((msr.GLOBAL_CTRL, ALL_ON)) == ["create"] * 4


@pytest.mark.parametrize(
    ("running", "skip_paused", "read", "write"),
    [
        (True, True, ["read_value"], ["read_value", "period"]),
        (True, False, ["read_value"], ["read_value", "period"]),
        (False, True, [], []),
        (False, False, ["read_value"], ["read_value", "period"]),
    ],
)
@pytest.mark.parametrize("address", [PMC0, PERFCTR0, FIXED0])
def test_counter_reads_and_writes_call_perf_unless_paused_and_skipped(
    new_bench: New, address: int, running: bool, skip_paused: bool, read: list, write: list
) -> None:
    bench = new_bench(skip_paused=skip_paused)
    bench.start_four()
    if not running:
        bench.write(msr.GLOBAL_CTRL, 0)
    bench.perf.take()
    bench.read(address)
    assert bench.perf.take() == read
    assert bench.calls((address, 5)) == write


def test_reads_of_control_registers_call_nothing(new_bench: New) -> None:
    bench = new_bench(skip_paused=False)
    bench.start_four()
    for address in (0x38D, 0x38E, 0x38F, 0x390, 0x345, 0x834, EVTSEL0):
        bench.read(address)
    assert bench.perf.take() == []


def test_ovf_ctrl_and_lvtpc_writes_call_nothing(new_bench: New) -> None:
    bench = new_bench(skip_paused=False)
    bench.start_four()
    assert bench.calls((msr.OVF_CTRL, 1), (msr.OVF_CTRL, 1), (msr.LVTPC, MASKED)) == []
