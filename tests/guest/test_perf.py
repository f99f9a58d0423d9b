"""The guest's perf core: frequency mode, throttling, rotation, the sample log."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvpmu.guest.perf_event import EventConfig, Sample, SampleLog
from pvpmu.guest.pmu import LINUX_5_14, LINUX_6_12, Generation
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.events import BY_NAME

MASK = (1 << 48) - 1
BRANCHES = BY_NAME["branch-instructions"]
TICK = 1_000_000
"""Nanoseconds at 1000 ticks per second."""


def _frequency(rig: Any, period: int, frequency: int = 1000, **core: Any) -> Any:
    made = rig(EventConfig(BRANCHES, frequency, initial_period=period), **core)
    made.core.sched_in(0)
    made.cpu.taken()
    return made


@pytest.mark.parametrize(
    ("period", "counted", "expected"),
    [
        (1000, 1000, 1000),
        (1000, 1001, 1001),  # (1 + 7) / 8 = 1
        (1000, 2000, 1125),  # 1007 / 8 = 125.9
        (1000, 993, 1000),  # (-7 + 7) / 8 = 0
        (1000, 992, 1000),  # -1 / 8 truncates toward zero
        (1000, 985, 999),  # -8 / 8 = -1
        (1000, 984, 999),  # -9 / 8 = -1.1
        (1000, 500, 939),  # -493 / 8 = -61.6
        (8, 1, 8),  # the step is 0 so near the target
    ],
)
def test_a_tick_moves_the_period_an_eighth_of_the_way_truncated_toward_zero(
    rig: Any, period: int, counted: int, expected: int
) -> None:
    # At 1000 Hz and 1000 ticks per second the target period is what one tick counted.
    made = _frequency(rig, period)
    made.cpu.advance(0, counted)
    made.core.tick()
    assert made.core.events[0].hw.sample_period == expected


def test_the_target_period_is_the_count_over_elapsed_time_and_frequency(rig: Any) -> None:
    made = _frequency(rig, 1000, frequency=4000)
    made.cpu.advance(0, 36_000)
    made.core.tick()
    # 36,000 per ms at 4000 Hz: one sample every 9,000.
    assert made.core.events[0].hw.sample_period == 1000 + (9000 - 1000 + 7) // 8


def test_a_tick_in_which_nothing_counted_leaves_period_and_counter_alone(rig: Any) -> None:
    made = _frequency(rig, 1000)
    made.core.tick()
    assert made.core.events[0].hw.sample_period == 1000
    assert made.shape() == [
        ("wrmsr", 0x38F),
        ("wrmsr", 0x186),
        ("rdpmc", 0),
        ("wrmsr", 0x186),
        ("wrmsr", 0x38F),
    ]


@pytest.mark.parametrize(
    ("elapsed", "expected"),
    [
        (TICK // 2, 1125),  # 1000 in half a tick: target 2000
        (2 * TICK - 1, 1000 - 61),  # target 500: -493 / 8
        (2 * TICK, 1000),  # too long ago
        (0, 1000),
    ],
)
def test_a_sample_adjusts_the_period_by_the_time_since_the_last_one(
    rig: Any, elapsed: int, expected: int
) -> None:
    made = _frequency(rig, 1000)
    for now in (10 * TICK, 10 * TICK + elapsed):
        made.cpu.overflow(0)
        made.core.handle_nmi(now, 0)
    assert made.core.events[0].hw.sample_period == expected


@pytest.mark.parametrize(
    ("generation", "steps"),
    [
        # From 1000 towards these: an eighth of the way, and what rounding makes of it.
        (LINUX_5_14, {1001: 1, 1008: 1, 1009: 2, 999: 0, 986: 0, 985: -1, 984: -1, 977: -2}),
        (LINUX_6_12, {1001: 1, 1008: 1, 1009: 2, 999: -1, 992: -1, 991: -2, 984: -2, 977: -3}),
    ],
)
def test_how_the_period_s_step_is_rounded_is_the_kernel_s(
    rig: Any, generation: Generation, steps: dict[int, int]
) -> None:
    made = rig(EventConfig(BRANCHES, 1000, initial_period=1000), generation=generation)
    event = made.core.events[0]
    found = {}
    for target in steps:
        event.hw.sample_period = 1000
        # 1000 Hz, so that a tick's count is the target.
        made.core._adjust_period(event, TICK, target, stopped=True)
        found[target] = event.hw.sample_period - 1000
    assert found == steps


def test_a_fixed_period_is_never_adjusted(rig: Any) -> None:
    made = rig(EventConfig(BRANCHES, period=5000))
    made.core.sched_in(0)
    made.cpu.taken()
    for now in (10, 20, 30):
        made.cpu.overflow(0)
        made.core.handle_nmi(now, 0)
    made.cpu.taken()
    made.core.tick()
    assert made.cpu.taken() == []  # no frequency event, nothing throttled: no access at all
    assert made.core.events[0].hw.sample_period == 5000
    assert made.core.samples.total == 3


def test_a_counting_event_overflows_without_a_sample(rig: Any) -> None:
    made = rig(EventConfig(BRANCHES))
    made.core.sched_in(0)
    made.cpu.overflow(0, past=4)
    assert made.core.handle_nmi(5, 0) == 1
    assert made.core.samples.total == 0
    assert made.core.events[0].hw.count == (MASK >> 1) + 4


def _sample_times(made: Any, many: int) -> list[int]:
    """Handle ``many`` overflows in one tick; the number of accesses of each handler."""
    lengths = []
    for number in range(many):
        made.cpu.overflow(0)
        made.core.handle_nmi(100 * TICK + number, 0)
        lengths.append(len(made.cpu.taken()))
    return lengths


def test_the_tenth_sample_of_a_tick_throttles(rig: Any) -> None:
    made = rig(EventConfig(BRANCHES, period=1000))
    made.core.sched_in(0)
    made.cpu.taken()
    # A throttled general counter is stopped without an update: one more access.
    assert _sample_times(made, 10) == [8] * 9 + [9]
    assert not made.core.events[0].hw.active
    assert made.core.samples.total == 10
    # What overflows while throttled is acknowledged and nothing else.
    made.cpu.overflow(0)
    assert made.core.handle_nmi(101 * TICK, 0) == 1
    assert len(made.cpu.taken()) == 6
    assert made.core.samples.total == 10


def test_a_throttled_fixed_counter_costs_two_more_accesses(rig: Any) -> None:
    made = rig(EventConfig(BY_NAME["cpu-cycles"], period=1000), max_sample_rate=2000)
    made.core.sched_in(0)
    made.cpu.taken()
    lengths = []
    for now in (1, 2):
        made.cpu.overflow(33)
        made.core.handle_nmi(now, 0)
        lengths.append(len(made.cpu.taken()))
    assert lengths == [8, 10]


def test_the_limit_is_the_rate_per_tick_rounded_up(rig: Any) -> None:
    made = rig(EventConfig(BRANCHES, period=1000), hz=300, max_sample_rate=1000)
    made.core.sched_in(0)
    made.cpu.taken()
    assert _sample_times(made, 4) == [8, 8, 8, 9]


def test_nine_samples_a_tick_never_throttle(rig: Any) -> None:
    made = rig(EventConfig(BRANCHES, period=1000))
    made.core.sched_in(0)
    made.cpu.taken()
    for _ in range(3):
        assert _sample_times(made, 9) == [8] * 9
        made.core.tick()
        made.cpu.taken()


def test_the_next_tick_unthrottles_without_a_reload(rig: Any) -> None:
    made = rig(EventConfig(BRANCHES, period=1000))
    made.core.sched_in(0)
    _sample_times(made, 10)
    made.core.tick()
    assert made.shape() == [("wrmsr", 0x38F), ("wrmsr", 0x186), ("wrmsr", 0x38F)]
    assert made.core.events[0].hw.active
    assert _sample_times(made, 1) == [8]
    made.core.tick()
    assert made.cpu.taken() == []


def test_unthrottling_a_frequency_event_precedes_its_normal_tick(rig: Any) -> None:
    made = _frequency(rig, 1000, max_sample_rate=1000)
    made.cpu.overflow(0)
    made.core.handle_nmi(10 * TICK, 0)  # the first sample of a tick only starts the count
    made.cpu.overflow(0)
    made.core.handle_nmi(20 * TICK, 0)
    made.cpu.taken()
    made.core.tick()
    write, read = ("wrmsr", 0x186), ("rdpmc", 0)
    assert made.shape() == [
        ("wrmsr", 0x38F), write, write, read, ("wrmsr", 0x4C1), write, ("wrmsr", 0x38F),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "accesses"), [("branch-instructions", 4), ("instructions", 6)])
def test_a_period_that_shrank_eightfold_restarts_the_counter(
    rig: Any, name: str, accesses: int
) -> None:
    made = rig(EventConfig(BY_NAME[name], 1000, initial_period=1000))
    made.core.sched_in(0)
    made.cpu.taken()
    event = made.core.events[0]
    event.hw.left = 8001
    made.core._adjust_period(event, TICK, 1000, stopped=False)
    assert len(made.cpu.taken()) == accesses
    assert event.hw.left == 1000
    event.hw.left = 8000
    made.core._adjust_period(event, TICK, 1000, stopped=False)
    assert made.cpu.taken() == []


def _three_on_two(rig: Any) -> Any:
    names = ("branch-instructions", "cache-misses", "branch-misses")
    configs = [EventConfig(BY_NAME[name], period=1000) for name in names]
    made = rig(*configs, cpuid=PmuCpuid(gp=2, fixed=0))
    made.core.sched_in(0)
    made.cpu.taken()
    return made


def test_rotation_takes_all_off_and_puts_the_next_ones_on(rig: Any) -> None:
    made = _three_on_two(rig)
    assert made.core.rotates
    made.core.rotate(TICK)
    assert made.shape() == [
        ("wrmsr", 0x38F),
        *[("wrmsr", 0x186), ("rdpmc", 0), ("wrmsr", 0x187), ("rdpmc", 1)],
        *[("wrmsr", 0x4C1), ("wrmsr", 0x186), ("wrmsr", 0x4C2), ("wrmsr", 0x187)],
        ("wrmsr", 0x834),
        ("wrmsr", 0x38F),
    ]
    assert [event.hw.counter for event in made.core.events] == [None, 0, 1]
    made.core.rotate(2 * TICK)
    assert [event.hw.counter for event in made.core.events] == [1, None, 0]


def test_rotation_shares_the_time_and_keeps_the_counts(rig: Any) -> None:
    made = _three_on_two(rig)
    for number in range(1, 4):
        for ecx in (0, 1):
            made.cpu.advance(ecx, 10)
        made.core.rotate(number * TICK)
    made.core.sched_out(3 * TICK)
    assert [event.enabled_ns for event in made.core.events] == [3 * TICK] * 3
    assert [event.running_ns for event in made.core.events] == [2 * TICK] * 3
    assert [event.hw.count for event in made.core.events] == [20, 20, 20]


def test_events_that_fit_are_not_rotated(mail_rig: Any) -> None:
    assert not mail_rig.core.rotates
    mail_rig.core.rotate(TICK)
    assert mail_rig.cpu.taken() == []


def test_nothing_rotates_while_the_task_is_out(rig: Any) -> None:
    made = _three_on_two(rig)
    made.core.sched_out(TICK)
    assert not made.core.rotates
    # The time out is neither enabled nor running time.
    made.core.sched_in(5 * TICK)
    made.core.sched_out(6 * TICK)
    assert [event.enabled_ns for event in made.core.events] == [2 * TICK] * 3


def test_a_sample_says_when_what_where_and_how_many(rig: Any) -> None:
    made = rig(EventConfig(BRANCHES, period=1000), capacity=4)
    made.core.sched_in(0)
    made.cpu.overflow(0, past=7)
    made.core.handle_nmi(123, 0x40_1234)
    assert list(made.core.samples.kept) == [Sample(123, 0, 0x40_1234, 1000, 1007)]


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_the_log_keeps_the_last_samples_and_its_digest_covers_all(capacity: int) -> None:
    samples = [Sample(n, n % 4, 0x1000 + n, 100, n * 100) for n in range(7)]
    log = SampleLog(capacity)
    packed = b""
    for sample in samples:
        log.add(sample)
        packed += struct.pack(
            "<QIQQQ", sample.time, sample.event, sample.ip, sample.period, sample.event_count
        )
        assert len(log.kept) <= capacity
    assert list(log.kept) == samples[len(samples) - capacity :]
    assert log.total == 7
    assert log.digest == hashlib.sha256(packed).hexdigest()


@given(order=st.permutations(range(5)))
def test_the_digest_depends_on_the_order_of_samples(order: list[int]) -> None:
    samples = [Sample(n, 0, 0, 1, n) for n in range(5)]
    straight, shuffled = SampleLog(0), SampleLog(0)
    for n in range(5):
        straight.add(samples[n])
        shuffled.add(samples[order[n]])
    assert (straight.digest == shuffled.digest) == (order == [0, 1, 2, 3, 4])
