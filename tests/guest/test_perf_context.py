"""Which events get counters: pinned before flexible, the CPU's before the task's, then in turn."""

from __future__ import annotations

from typing import Any

import pytest

from pvpmu.guest.perf_context import THROTTLED
from pvpmu.guest.perf_event import EventConfig
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.events import BY_NAME
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER

TICK = 1_000_000
CYCLES, BRANCHES = BY_NAME["cpu-cycles"], BY_NAME["branch-instructions"]
GLOBAL, LVT = ("wrmsr", 0x38F), ("wrmsr", 0x834)


def _config(**changes: Any) -> EventConfig:
    return EventConfig(BRANCHES, period=1000, **changes)


def _counters(made: Any) -> list[int | None]:
    return [event.hw.counter for event in made.core.events]


def _two_counters(rig: Any, *configs: EventConfig) -> Any:
    made = rig(*configs, cpuid=PmuCpuid(gp=2, fixed=0))
    made.core.start(0)
    return made


def test_an_event_of_the_cpu_stays_on_when_the_task_goes(rig: Any) -> None:
    made = _two_counters(rig, _config(per_cpu=True, pinned=True), _config())
    assert _counters(made) == [0, None]
    made.core.sched_in(TICK)
    assert _counters(made) == [0, 1]
    made.cpu.taken()
    made.core.sched_out(2 * TICK)
    assert _counters(made) == [0, None]
    assert made.shape() == [GLOBAL, ("wrmsr", 0x187), ("rdpmc", 1), GLOBAL]
    made.core.stop(3 * TICK)
    assert _counters(made) == [None, None]
    watchdog, sampled = made.core.events
    assert (watchdog.enabled_ns, watchdog.running_ns) == (3 * TICK, 3 * TICK)
    assert (sampled.enabled_ns, sampled.running_ns) == (TICK, TICK)


def test_a_task_without_events_costs_no_access_at_a_switch(rig: Any) -> None:
    made = _two_counters(rig, _config(per_cpu=True))
    made.cpu.taken()
    made.core.sched_in(TICK)
    made.core.sched_out(2 * TICK)
    assert made.cpu.taken() == []


def test_pinned_events_of_the_task_go_before_flexible_ones_of_the_cpu(rig: Any) -> None:
    made = _two_counters(
        rig, _config(per_cpu=True), _config(per_cpu=True), _config(pinned=True), _config()
    )
    assert _counters(made) == [0, 1, None, None]
    made.core.sched_in(TICK)
    # The CPU's flexible events made room; one of them went on again, the task's has to wait.
    assert _counters(made) == [1, None, 0, None]
    assert made.core.rotates


def test_flexible_events_of_the_cpu_stay_for_a_task_without_pinned_ones(rig: Any) -> None:
    made = _two_counters(rig, _config(per_cpu=True), _config())
    made.cpu.taken()
    made.core.sched_in(TICK)
    assert made.shape() == [GLOBAL, ("wrmsr", 0x4C2), ("wrmsr", 0x187), LVT, GLOBAL]


def test_a_pinned_event_that_does_not_fit_is_in_error_and_never_tried_again(rig: Any) -> None:
    made = _two_counters(rig, *(_config(pinned=True) for _ in range(3)))
    for now in (0, 2 * TICK):
        made.core.sched_in(now)
        assert _counters(made) == [0, 1, None]
        assert [event.failed for event in made.core.events] == [False, False, True]
        assert not made.core.rotates
        made.core.sched_out(now + TICK)


def test_the_first_that_does_not_fit_keeps_the_rest_off(rig: Any) -> None:
    configs = [EventConfig(event) for event in (BRANCHES, BRANCHES, BRANCHES, CYCLES)]
    made = rig(*configs, cpuid=PmuCpuid(gp=2, fixed=2))
    made.core.sched_in(0)
    # Fixed counter 1 is free for cpu-cycles, but Linux stops looking.
    assert _counters(made) == [0, 1, None, None]
    made.core.rotate(TICK)
    assert _counters(made) == [None, 0, 1, 33]


def test_events_of_the_cpu_take_turns_without_any_task(rig: Any) -> None:
    made = _two_counters(rig, *(_config(per_cpu=True) for _ in range(3)))
    seen = []
    for number in range(1, 4):
        made.core.rotate(number * TICK)
        seen.append(_counters(made))
    assert seen == [[None, 0, 1], [1, None, 0], [0, 1, None]]
    made.core.stop(3 * TICK)
    assert [event.running_ns for event in made.core.events] == [2 * TICK] * 3
    assert [event.enabled_ns for event in made.core.events] == [3 * TICK] * 3


def test_a_tick_adjusts_each_context_for_itself(rig: Any) -> None:
    frequency = EventConfig(BRANCHES, 1000, initial_period=1000)
    made = _two_counters(rig, EventConfig(BRANCHES, 1000, per_cpu=True), frequency)
    made.core.sched_in(0)
    made.cpu.taken()
    made.core.tick()
    assert made.shape().count(GLOBAL) == 4


def test_reading_the_counts_is_one_rdpmc_for_each_event_that_has_a_counter(rig: Any) -> None:
    made = rig(*(EventConfig(BRANCHES) for _ in range(3)), cpuid=PmuCpuid(gp=2, fixed=0))
    made.core.sched_in(0)
    made.cpu.taken()
    made.cpu.advance(0, 5)
    made.core.read()
    assert made.shape() == [("rdpmc", 0), ("rdpmc", 1)]
    assert [event.hw.count for event in made.core.events] == [5, 0, 0]


def test_an_event_that_comes_back_is_no_longer_throttled(rig: Any) -> None:
    made = rig(EventConfig(BRANCHES, period=1000), max_sample_rate=2000)
    made.core.sched_in(0)
    for _ in range(2):
        made.cpu.overflow(0)
        made.core.handle_nmi(TICK, 0)
    event = made.core.events[0]
    assert event.interrupts == THROTTLED
    assert not event.hw.active
    made.core.sched_out(2 * TICK)
    made.core.sched_in(3 * TICK)
    assert event.interrupts == 0
    assert event.hw.active


@pytest.mark.parametrize(
    ("modes", "evtsel", "nibble"),
    [
        (MODE_USER, 0x51_00C4, 0xA),
        (MODE_KERNEL, 0x52_00C4, 0x9),
        (MODE_USER | MODE_KERNEL, 0x53_00C4, 0xB),
    ],
)
def test_modes_are_the_ring_bits_of_the_selector(
    rig: Any, modes: int, evtsel: int, nibble: int
) -> None:
    made = rig(EventConfig(BRANCHES, modes=modes), EventConfig(CYCLES, modes=modes))
    made.core.sched_in(0)
    assert made.cpu.registers[0x186] == evtsel
    assert made.cpu.registers[0x38D] == nibble << 4
    made.core.sched_out(1)
    assert made.cpu.registers[0x186] == evtsel & ~(1 << 22)
    assert made.cpu.registers[0x38D] == 0
