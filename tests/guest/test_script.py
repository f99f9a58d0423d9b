"""Scripted programs: the right operations in number and order, counts that meet the script."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvpmu.guest.script import Kind, ScriptCounts, Scripted, Step, make_steps
from pvpmu.shared.events import BRANCHES, KINDS

DURATION = 591_000_000
MAIL = ScriptCounts(
    ticks=591,
    sched_in=7,
    sched_out=6,
    overflows=(2306, 2314, 2324, 378),
    coincident=72,
    stray=58,
)


def _counts(**changes: Any) -> ScriptCounts:
    given_counts: dict[str, Any] = {
        "ticks": 4,
        "sched_in": 2,
        "sched_out": 1,
        "overflows": (5, 3),
        "coincident": 2,
        "stray": 1,
    }
    return ScriptCounts(**(given_counts | changes))


def _of(steps: list[Step], kind: Kind) -> list[Step]:
    return [step for step in steps if step.kind is kind]


def test_the_script_holds_as_many_of_each_operation_as_asked() -> None:
    steps = make_steps(MAIL, DURATION)
    assert len(_of(steps, Kind.TICK)) == 591
    assert len(_of(steps, Kind.SCHED_IN)) == 7
    assert len(_of(steps, Kind.SCHED_OUT)) == 6
    numbers = [number for step in steps for number in step.overflows]
    assert [numbers.count(event) for event in range(4)] == [2306, 2314, 2324, 378]


def test_only_the_coincidences_asked_for_share_an_instant() -> None:
    pmis = _of(make_steps(MAIL, DURATION), Kind.OVERFLOW)
    assert len(pmis) == 7322 - 72
    assert sorted({len(step.overflows) for step in pmis}) == [1, 2]
    assert sum(len(step.overflows) == 2 for step in pmis) == 72
    assert len({step.time for step in pmis}) == len(pmis)


def test_strays_follow_pmis_with_two_status_bits() -> None:
    strays = [step for step in make_steps(MAIL, DURATION) if step.stray]
    assert len(strays) == 58
    assert all(len(step.overflows) == 2 for step in strays)


def test_ticks_are_evenly_spaced_to_the_end() -> None:
    ticks = [step.time for step in _of(make_steps(MAIL, DURATION), Kind.TICK)]
    assert ticks == [n * 1_000_000 for n in range(1, 592)]


def test_the_task_comes_in_first_and_alternates() -> None:
    steps = make_steps(MAIL, DURATION)
    assert steps[0].kind is Kind.SCHED_IN
    assert steps[0].time == 0
    switches = [step.kind for step in steps if step.kind in (Kind.SCHED_IN, Kind.SCHED_OUT)]
    assert switches == [Kind.SCHED_IN, Kind.SCHED_OUT] * 6 + [Kind.SCHED_IN]


def test_at_one_instant_an_overflow_precedes_a_tick_and_a_tick_a_switch() -> None:
    # Ten ns, five ticks: everything falls together somewhere.
    steps = make_steps(_counts(ticks=5, sched_in=5, sched_out=5, overflows=(5, 5)), 10)
    assert steps == sorted(steps, key=lambda step: (step.time, step.kind))
    assert [int(kind) for kind in (Kind.OVERFLOW, Kind.TICK, Kind.SCHED_OUT, Kind.SCHED_IN)] == [
        0, 1, 2, 3,
    ]  # fmt: skip


def test_without_ticks_or_switches_there_are_only_overflows() -> None:
    steps = make_steps(_counts(ticks=0, sched_in=0, sched_out=0), 1000)
    assert {step.kind for step in steps} == {Kind.OVERFLOW}


@given(
    overflows=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    ticks=st.integers(0, 20),
    data=st.data(),
)
def test_any_script_has_every_overflow_exactly_once(
    overflows: list[int], ticks: int, data: st.DataObject
) -> None:
    coincident = data.draw(st.integers(0, min(overflows)))
    stray = data.draw(st.integers(0, coincident))
    counts = _counts(overflows=tuple(overflows), ticks=ticks, coincident=coincident, stray=stray)
    steps = make_steps(counts, 100_000)
    numbers = [number for step in steps for number in step.overflows]
    assert [numbers.count(event) for event in range(len(overflows))] == overflows
    pmis = _of(steps, Kind.OVERFLOW)
    assert len(pmis) == sum(overflows) - coincident
    assert sum(step.stray for step in pmis) == stray
    assert all(len(step.overflows) == len(set(step.overflows)) for step in pmis)


def test_the_mail_script_is_the_same_every_time() -> None:
    assert make_steps(MAIL, DURATION) == make_steps(replace(MAIL), DURATION)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stray": 3}, "stray 3 exceeds coincident 2"),
        ({"sched_out": 0}, "sched_in 2 must be sched_out 0 or one more"),
        ({"sched_out": 3}, "sched_in 2 must be sched_out 3 or one more"),
        ({"coincident": 4}, "coincident 4 exceeds the rarest event's 3"),
    ],
)
def test_an_impossible_script_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        _counts(**changes)


def _program(*times: int) -> Scripted:
    return Scripted([Step(time, Kind.OVERFLOW, [0]) for time in times], [BRANCHES])


def _advance(program: Scripted, time: int, distance: int, kind: Kind = Kind.SCHED_OUT) -> int:
    """Counts retired on the way to an instant without an overflow."""
    return program.advance(Step(time, kind), _distances(distance))[BRANCHES]


def _overflow(program: Scripted, time: int, distance: int) -> int:
    return program.advance(Step(time, Kind.OVERFLOW, [0]), _distances(distance))[BRANCHES]


def _distances(distance: int) -> list[int]:
    return [distance if kind == BRANCHES else 0 for kind in range(KINDS)]


def test_counts_approach_the_next_overflow_linearly_in_time() -> None:
    program = _program(1000)
    distance = 400
    for time in (250, 500, 750):
        counted = _advance(program, time, distance)
        assert counted == 100
        distance -= counted


def test_an_event_that_overflows_retires_just_its_distance_and_only_its_kind() -> None:
    program = _program(10)
    assert program.advance(Step(10, Kind.OVERFLOW, [0]), _distances(400)) == _distances(400)


def test_counts_stop_one_short_of_an_overflow_that_is_not_scripted_now() -> None:
    assert _advance(_program(1000), 1000, 400) == 399
    assert _advance(_program(1000), 1000, 1, Kind.TICK) == 0


def test_after_the_last_overflow_nothing_counts_but_one_before_a_tick() -> None:
    program = _program(10)
    _overflow(program, 10, 400)
    assert _advance(program, 20, 400) == 0
    # It has counted since the last tick: the overflow did.
    assert _advance(program, 30, 400, Kind.TICK) == 0
    assert _advance(program, 40, 400, Kind.TICK) == 1


def test_each_overflow_makes_the_following_one_the_next() -> None:
    program = _program(10, 30)
    _overflow(program, 10, 100)
    assert _advance(program, 20, 100) == 50


def test_an_event_without_a_live_counter_retires_nothing() -> None:
    assert _advance(_program(10), 10, 0, Kind.TICK) == 0


def test_a_script_has_a_clock_and_no_code() -> None:
    program = _program(10)
    assert (program.now, program.ip, program.cycles) == (0, 0, 0)
    _advance(program, 7, 100)
    assert program.now == 7
