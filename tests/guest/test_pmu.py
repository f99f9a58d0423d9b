"""The driver's access sequences: which registers, in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvpmu.guest.perf_event import EventConfig
from pvpmu.guest.pmu import GENERATIONS, LINUX_6_12, HwEvent, PmuDriver
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import DRIVERS
from pvpmu.shared.events import BY_NAME

# cpu-cycles is on FIXED1, instructions on FIXED0, branches on PMC0, cache-misses on PMC1.
ON = 0x7_0000_00FF
MASK = (1 << 48) - 1
PERIOD = 100_000
GLOBAL_ON, GLOBAL_OFF = ("wrmsr", 0x38F, ON), ("wrmsr", 0x38F, 0)
LVT = ("wrmsr", 0x834, 0x400)
FIXED1, FIXED0 = 1 << 33, 1 << 32
PMI_ORDER = (0, 1, 32, 33)
RDPMC = {0: 0, 1: 1, 32: 1 << 30, 33: 1 << 30 | 1}
COUNTER = {0: 0x4C1, 1: 0x4C2, 32: 0x309, 33: 0x30A}


def _shape(log: list[tuple[str, int, int]]) -> list[tuple[str, int]]:
    return [(op, address) for op, address, _ in log]


def test_sched_in_makes_thirteen_accesses_in_the_order_of_the_kernel(rig: Any) -> None:
    made = rig("cpu-cycles", "instructions", "branch-instructions", "cache-misses")
    made.core.sched_in(0)
    start = -PERIOD & MASK
    assert made.cpu.taken() == [
        GLOBAL_OFF,
        ("wrmsr", 0x30A, start),
        ("rdmsr", 0x38D, 0),
        ("wrmsr", 0x38D, 0xB0),
        ("wrmsr", 0x309, start),
        ("rdmsr", 0x38D, 0xB0),
        ("wrmsr", 0x38D, 0xBB),
        ("wrmsr", 0x4C1, start),
        ("wrmsr", 0x186, 0x53_00C4),
        ("wrmsr", 0x4C2, start),
        ("wrmsr", 0x187, 0x53_412E),
        LVT,
        GLOBAL_ON,
    ]


@pytest.fixture
def later_rig(rig: Any) -> Any:
    """The four events with the driver of Linux 6.12, scheduled in; the log is empty."""
    events = ("cpu-cycles", "instructions", "branch-instructions", "cache-misses")
    made = rig(*events, generation=LINUX_6_12)
    made.core.sched_in(0)
    made.cpu.taken()
    return made


def test_a_later_driver_writes_fixed_ctr_ctrl_once_when_it_enables_the_pmu(rig: Any) -> None:
    events = ("cpu-cycles", "instructions", "branch-instructions", "cache-misses")
    made = rig(*events, generation=LINUX_6_12)
    made.core.sched_in(0)
    log = made.cpu.taken()
    assert len(log) == 10
    assert log[-3:] == [LVT, ("wrmsr", 0x38D, 0xBB), GLOBAL_ON]
    assert "rdmsr" not in {op for op, _, _ in log}


def test_every_driver_that_a_design_can_name_exists() -> None:
    assert tuple(GENERATIONS) == DRIVERS


def test_a_later_driver_needs_nine_accesses_to_sched_out(later_rig: Any) -> None:
    later_rig.core.sched_out(0)
    log = later_rig.cpu.taken()
    assert len(log) == 9
    assert log[-2:] == [("wrmsr", 0x38D, 0), GLOBAL_ON]


def test_a_later_driver_leaves_fixed_ctr_ctrl_alone_in_a_tick(later_rig: Any) -> None:
    later_rig.cpu.counters = dict.fromkeys((0, 1, 1 << 30, 1 << 30 | 1), 5)
    later_rig.core.tick()
    log = later_rig.cpu.taken()
    assert 0x38D not in {address for _, address, _ in log}
    assert log[0] == GLOBAL_OFF
    assert log[-1] == GLOBAL_ON


def test_sched_out_makes_twelve_accesses_in_the_order_of_the_kernel(mail_rig: Any) -> None:
    at = -PERIOD & MASK
    mail_rig.core.sched_out(0)
    assert mail_rig.cpu.taken() == [
        GLOBAL_OFF,
        ("rdmsr", 0x38D, 0xBB),
        ("wrmsr", 0x38D, 0x0B),
        ("rdpmc", 1 << 30 | 1, at),
        ("rdmsr", 0x38D, 0x0B),
        ("wrmsr", 0x38D, 0),
        ("rdpmc", 1 << 30, at),
        ("wrmsr", 0x186, 0x13_00C4),
        ("rdpmc", 0, at),
        ("wrmsr", 0x187, 0x13_412E),
        ("rdpmc", 1, at),
        GLOBAL_ON,
    ]


def test_a_tick_makes_twenty_two_accesses_when_all_four_events_counted(mail_rig: Any) -> None:
    for ecx in RDPMC.values():
        mail_rig.cpu.advance(ecx, 10)
    mail_rig.core.tick()
    fixed = [("rdmsr", 0x38D), ("wrmsr", 0x38D)]
    expected = [
        ("wrmsr", 0x38F),
        *[*fixed, ("rdpmc", 1 << 30 | 1), ("wrmsr", 0x30A), *fixed],
        *[*fixed, ("rdpmc", 1 << 30), ("wrmsr", 0x309), *fixed],
        *[("wrmsr", 0x186), ("rdpmc", 0), ("wrmsr", 0x4C1), ("wrmsr", 0x186)],
        *[("wrmsr", 0x187), ("rdpmc", 1), ("wrmsr", 0x4C2), ("wrmsr", 0x187)],
        ("wrmsr", 0x38F),
    ]
    assert len(expected) == 22
    assert mail_rig.shape() == expected


@pytest.mark.parametrize("idle", range(5))
def test_a_tick_saves_one_access_for_each_event_that_did_not_count(
    mail_rig: Any, idle: int
) -> None:
    for ecx in list(RDPMC.values())[idle:]:
        mail_rig.cpu.advance(ecx, 10)
    mail_rig.core.tick()
    assert len(mail_rig.cpu.taken()) == 22 - idle


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_handler_with_k_overflows_makes_six_and_two_k_accesses(mail_rig: Any, k: int) -> None:
    overflowed = PMI_ORDER[:k]
    status = sum(1 << index for index in overflowed)
    mail_rig.cpu.overflow(*overflowed, past=3)
    # Keep the frequency estimate out of it: the previous sample is two ticks away.
    assert mail_rig.core.handle_nmi(2_000_000, 0) == k
    expected = [GLOBAL_OFF, ("rdmsr", 0x38E, status), ("wrmsr", 0x390, status)]
    for index in overflowed:
        # The counter is 3 past the wrap, so the next overflow is 3 short of a whole period.
        expected.append(("rdpmc", RDPMC[index], 3))
        expected.append(("wrmsr", COUNTER[index], -(PERIOD - 3) & MASK))
    expected += [("rdmsr", 0x38E, 0), GLOBAL_ON, LVT]
    assert mail_rig.cpu.taken() == expected
    assert len(expected) == 6 + 2 * k


def test_a_handler_with_two_overflows_makes_ten_accesses(mail_rig: Any) -> None:
    mail_rig.cpu.overflow(0, 33)
    mail_rig.core.handle_nmi(2_000_000, 0)
    assert len(mail_rig.cpu.taken()) == 10


def test_a_spurious_handler_makes_four_accesses(mail_rig: Any) -> None:
    assert mail_rig.core.handle_nmi(0, 0) == 0
    assert mail_rig.cpu.taken() == [GLOBAL_OFF, ("rdmsr", 0x38E, 0), GLOBAL_ON, LVT]


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4])
def test_a_handler_entered_with_the_pmu_disabled_leaves_it_disabled(mail_rig: Any, k: int) -> None:
    mail_rig.driver.disable()
    mail_rig.cpu.overflow(*PMI_ORDER[:k])
    mail_rig.cpu.taken()
    mail_rig.core.handle_nmi(2_000_000, 0)
    log = mail_rig.cpu.taken()
    assert len(log) == (5 + 2 * k if k else 3)
    assert log[-1] == LVT
    assert GLOBAL_ON not in log
    assert not mail_rig.driver.enabled


def test_a_status_bit_that_arrives_during_the_handler_is_handled_in_a_second_round(
    mail_rig: Any,
) -> None:
    mail_rig.cpu.overflow(0)
    mail_rig.cpu.late_status = 1 << 1
    mail_rig.cpu.registers[0x4C2] = 0
    assert mail_rig.core.handle_nmi(2_000_000, 0) == 2
    acks = [value for op, address, value in mail_rig.cpu.taken() if (op, address) == _ACK]
    assert acks == [1, 2]


_ACK = ("wrmsr", 0x390)


def test_a_status_that_never_clears_ends_after_a_hundred_rounds(mail_rig: Any) -> None:
    cpu = mail_rig.cpu
    cpu.overflow(7)  # no event there: acknowledged, nothing else
    write = cpu.wrmsr

    def stuck(address: int, value: int) -> None:
        write(address, value)
        cpu.status = 1 << 7

    mail_rig.driver._wrmsr = stuck
    assert mail_rig.core.handle_nmi(0, 0) == 100
    shape = mail_rig.shape()
    assert shape.count(_ACK) == 100
    assert shape[-2:] == [("wrmsr", 0x38F), ("wrmsr", 0x834)]


def test_a_status_bit_without_an_active_event_is_handled_without_a_counter_access(
    mail_rig: Any,
) -> None:
    mail_rig.driver.stop(mail_rig.core.events[2].hw, update=False)
    mail_rig.cpu.overflow(0, 5)
    mail_rig.cpu.taken()
    assert mail_rig.core.handle_nmi(0, 0) == 2
    assert len(mail_rig.cpu.taken()) == 6


def test_nested_disables_write_global_ctrl_once(mail_rig: Any) -> None:
    driver = mail_rig.driver
    driver.disable()
    driver.disable()
    driver.enable()
    assert mail_rig.cpu.taken() == [GLOBAL_OFF]
    driver.enable()
    assert mail_rig.cpu.taken() == [GLOBAL_ON]


def test_starting_without_reload_leaves_the_counter_alone(mail_rig: Any) -> None:
    gp, fixed = mail_rig.core.events[2].hw, mail_rig.core.events[0].hw
    for hw in (gp, fixed):
        mail_rig.driver.stop(hw, update=False)
    assert mail_rig.shape() == [("wrmsr", 0x186), ("rdmsr", 0x38D), ("wrmsr", 0x38D)]
    for hw in (gp, fixed):
        mail_rig.driver.start(hw, reload=False)
    assert mail_rig.shape() == [("wrmsr", 0x186), ("rdmsr", 0x38D), ("wrmsr", 0x38D)]


def test_stopping_twice_touches_nothing_the_second_time(mail_rig: Any) -> None:
    hw = mail_rig.core.events[2].hw
    mail_rig.driver.stop(hw, update=True)
    mail_rig.cpu.taken()
    mail_rig.driver.stop(hw, update=True)
    assert mail_rig.cpu.taken() == []


def test_without_full_width_writes_the_legacy_counters_are_used(
    rig: Callable[..., Any], fake_cpu: Any
) -> None:
    cpu = fake_cpu(full_width=False)
    made = rig("branch-instructions", "cache-misses", "cpu-cycles", cpu=cpu)
    made.core.sched_in(0)
    shape = made.shape()
    assert ("wrmsr", 0xC1) in shape
    assert ("wrmsr", 0xC2) in shape
    assert ("wrmsr", 0x30A) in shape
    assert not [address for _, address in shape if 0x4C1 <= address <= 0x4C8]


@pytest.mark.parametrize(("full_width", "longest"), [(True, MASK >> 1), (False, 0x7FFF_FFFF)])
def test_a_counting_event_is_programmed_to_the_longest_period(
    rig: Callable[..., Any], fake_cpu: Any, full_width: bool, longest: int
) -> None:
    made = rig(EventConfig(BY_NAME["branch-misses"]), cpu=fake_cpu(full_width=full_width))
    assert made.driver.max_period == longest
    made.core.sched_in(0)
    assert made.cpu.registers[0x4C1] == -longest & MASK


@pytest.mark.parametrize(("left", "written"), [(1, 2), (2, 2), (3, 3)])
def test_never_less_than_two_counts_are_programmed(mail_rig: Any, left: int, written: int) -> None:
    hw = mail_rig.core.events[2].hw
    hw.left = left
    assert not mail_rig.driver.set_period(hw)
    assert mail_rig.cpu.taken() == [("wrmsr", 0x4C1, -written & MASK)]
    assert hw.left == left  # the programmed distance is longer, what is left is not


@pytest.mark.parametrize(
    ("left", "expected", "elapsed"),
    [(1, 1, False), (0, 1000, True), (-1, 999, True), (-999, 1, True), (-1000, 1000, True),
     (-5000, 1000, True)],
)  # fmt: skip
def test_what_is_left_is_topped_up_by_one_period_once_it_has_elapsed(
    mail_rig: Any, left: int, expected: int, elapsed: bool
) -> None:
    hw = mail_rig.core.events[2].hw
    hw.sample_period, hw.left = 1000, left
    assert mail_rig.driver.set_period(hw) is elapsed
    assert hw.left == expected


def test_an_update_is_repeated_when_a_nested_pmi_moved_the_previous_value(mail_rig: Any) -> None:
    hw = mail_rig.core.events[2].hw
    cpu, driver = mail_rig.cpu, mail_rig.driver
    driver.disable()
    cpu.overflow(0, past=40)
    cpu.taken()
    cpu.on_rdpmc = lambda: driver.handle_pmi(lambda _: False) and None
    driver.update(hw)
    reads = [entry for entry in cpu.taken() if entry[0] == "rdpmc"]
    # The outer read, the handler's, and the outer one again after the handler's reload.
    assert [value for _, _, value in reads] == [40, 40, -(PERIOD - 40) & MASK]
    assert hw.count == PERIOD + 40
    assert hw.left == PERIOD - 40


def test_an_update_reads_once_when_nothing_nests(mail_rig: Any) -> None:
    mail_rig.cpu.advance(0, 77)
    mail_rig.driver.update(mail_rig.core.events[2].hw)
    assert mail_rig.shape() == [("rdpmc", 0)]
    assert mail_rig.core.events[2].hw.count == 77


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    width=st.integers(32, 48),
    spans=st.lists(st.integers(0, (1 << 31) - 1), min_size=1, max_size=8),
    start=st.integers(0, (1 << 48) - 1),
)
def test_counts_are_exact_across_wraps_of_any_width(
    fake_cpu: Any, width: int, spans: list[int], start: int
) -> None:
    mask = (1 << width) - 1
    value = start & mask

    cpu = fake_cpu()
    cpu.rdpmc = lambda _: value
    driver = PmuDriver(cpu, PmuCpuid(gp_width=width, fixed_width=width))
    hw = HwEvent(BY_NAME["branch-misses"], 1000, prev=value, left=1000)
    assert driver.assign(hw)
    for span in spans:
        value = value + span & mask
        driver.update(hw)
    assert hw.count == sum(spans)
    assert hw.left == 1000 - sum(spans)


def test_an_event_takes_its_fixed_counter_first_and_a_general_one_next(rig: Any) -> None:
    made = rig("cpu-cycles", "cpu-cycles", "branch-misses")
    made.core.sched_in(0)
    assert [event.hw.counter for event in made.core.events] == [33, 0, 1]


def test_an_event_that_only_a_fixed_counter_counts_gets_no_other(rig: Any) -> None:
    made = rig("ref-cycles", "ref-cycles")
    made.core.sched_in(0)
    assert [event.hw.counter for event in made.core.events] == [34, None]


def test_without_fixed_counters_every_event_goes_to_a_general_one(rig: Any) -> None:
    made = rig("cpu-cycles", "instructions", cpuid=PmuCpuid(gp=2, fixed=0))
    made.core.sched_in(0)
    assert [event.hw.counter for event in made.core.events] == [0, 1]
    assert made.cpu.taken()[-1] == ("wrmsr", 0x38F, 0x3)
