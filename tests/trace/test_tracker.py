"""A thread's accesses, cut into operations; what is left over, and why."""

from __future__ import annotations

from collections import Counter

import pytest

from pvpmu.shared.cpuid import EVTSEL_EN
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.trace import tracker as module
from pvpmu.trace.names import READ, WRITE
from pvpmu.trace.operations import Operation
from pvpmu.trace.tokens import RDPMC_TOKEN, Control, Token, control_of, fields_of, token_of
from pvpmu.trace.tracker import (
    BEFORE_FIRST,
    CUT_OFF,
    LOST,
    OUTSIDE,
    PATTERN,
    TOO_MANY,
    Shapes,
    Tracker,
)

OFF, ON, LVTPC = (WRITE, 0x38F, 0), (WRITE, 0x38F, 0xF), (WRITE, 0x834, 0x400)
STATUS, NOTHING, ACK = (READ, 0x38E, 1), (READ, 0x38E, 0), (WRITE, 0x390, 1)
READ_IT, RELOAD = None, (WRITE, 0x4C1, 5)
SELECT, DESELECT = (WRITE, 0x186, EVTSEL_EN), (WRITE, 0x186, 0)
BODY = (STATUS, ACK, READ_IT, RELOAD, NOTHING)
PMI = (OFF, *BODY, ON, LVTPC)
SPURIOUS = (OFF, NOTHING, ON, LVTPC)
TICK = (OFF, DESELECT, READ_IT, RELOAD, SELECT, ON)
SCHED_IN = (OFF, RELOAD, SELECT, LVTPC, ON)
SCHED_OUT = (OFF, DESELECT, READ_IT, ON)

One = tuple[int, int, int] | None


class Followed:
    """A tracker that has taken some accesses."""

    def __init__(self, *accesses: One) -> None:
        self.shapes = Shapes()
        self.done: list[tuple[str | None, int]] = []
        self.times: list[tuple[bytes, bytes]] = []
        self.tracker = Tracker(self.shapes, lambda a, b: self.times.append((a, b)), self._sink)
        self.count = 0
        self.take(*accesses)

    def take(self, *accesses: One) -> None:
        for one in accesses:
            self.count += 1
            token, control = RDPMC_TOKEN, Control.PLAIN
            if one is not None:
                token = token_of(*one)
                control = control_of(one[0], BY_ADDRESS[one[1]], fields_of(token).detail)
            self.tracker.access(token, control, b"", b"%d" % self.count)

    def finish(self) -> Followed:
        self.tracker.finish()
        return self

    @property
    def kinds(self) -> list[str | None]:
        return [kind for kind, _ in self.done]

    def _sink(self, operation: Operation | None, tokens: list[Token], values: list[bytes]) -> None:
        assert len(tokens) == len(values)
        self.done.append((operation and operation.kind, len(tokens)))


def test_each_operation_is_found_where_it_ends() -> None:
    followed = Followed(*SCHED_IN, *PMI, *SPURIOUS, *TICK, *SCHED_OUT).finish()
    assert followed.kinds == ["sched_in", "pmi", "pmi_spurious", "tick", "sched_out"]
    assert followed.tracker.kinds == Counter(followed.kinds)
    assert not followed.shapes.left_over


def test_equal_operations_are_one_shape() -> None:
    followed = Followed(*SCHED_IN, *PMI * 3).finish()
    assert [(o.kind, n) for o, n in followed.shapes.operations()] == [("sched_in", 1), ("pmi", 3)]


def test_a_handler_inside_a_tick_is_its_own_and_the_tick_goes_on() -> None:
    followed = Followed(*SCHED_IN, OFF, OFF, *BODY, LVTPC, *TICK[1:]).finish()
    assert followed.done == [("sched_in", 5), ("pmi_disabled", 7), ("tick", 6)]


def test_a_handler_before_the_write_that_disables_finds_the_pmu_disabled() -> None:
    followed = Followed(*SCHED_IN, OFF, *BODY, LVTPC, *TICK).finish()
    assert followed.kinds == ["sched_in", "pmi_disabled", "tick"]


@pytest.mark.parametrize(
    "early", [(LVTPC, OFF, *BODY, ON), (OFF, LVTPC, *BODY, ON), (OFF, *BODY, ON)]
)
def test_other_cpus_acknowledge_the_pmi_elsewhere_or_not_by_an_msr(early: tuple[One, ...]) -> None:
    followed = Followed(*SCHED_IN, *early, *early, *TICK).finish()
    assert followed.kinds == ["sched_in", "pmi", "pmi", "tick"]
    assert not followed.shapes.left_over


def test_handlers_are_timed_from_their_first_access_to_their_last() -> None:
    assert Followed(*PMI, *TICK, *SPURIOUS).finish().times == [(b"1", b"8"), (b"15", b"18")]


@pytest.mark.parametrize(
    ("accesses", "left"),
    [
        ((RELOAD, READ_IT), {BEFORE_FIRST: 2}),
        ((*BODY, ON, LVTPC), {BEFORE_FIRST: 7}),
        ((*SCHED_IN, READ_IT, READ_IT), {OUTSIDE: 2}),
        ((*SCHED_IN, LVTPC, READ_IT), {OUTSIDE: 2}),
        ((*SCHED_IN, *TICK[:4]), {CUT_OFF: 4}),
        ((*SCHED_IN, *PMI[:-1]), {CUT_OFF: 7}),
        ((*SCHED_IN, LVTPC), {OUTSIDE: 1}),
        ((*SCHED_IN, OFF, (READ, 0x4C1, 7), ON), {PATTERN: 3}),
        ((*SCHED_IN, OFF, OFF, RELOAD, ON), {PATTERN: 4}),
        ((OFF, ON, *SCHED_IN, OFF, ON), {BEFORE_FIRST: 2}),
    ],
)
def test_what_is_in_no_operation_is_counted_with_its_reason(
    accesses: tuple[One, ...], left: dict[str, int]
) -> None:
    followed = Followed(*accesses).finish()
    assert followed.shapes.left_over == left
    assert sum(number for kind, number in followed.done if kind is None) == sum(left.values())
    assert sum(number for _, number in followed.done) == len(accesses)


def test_lost_events_end_what_is_under_way() -> None:
    followed = Followed(*SCHED_IN, *TICK[:3])
    followed.tracker.lost()
    followed.take(*TICK[3:], *TICK)
    assert followed.finish().kinds[-1] == "tick"
    assert followed.shapes.left_over == {LOST: 3, OUTSIDE: 3}


def test_a_sequence_without_an_end_is_given_up() -> None:
    followed = Followed(*SCHED_IN, OFF, *[RELOAD] * 1000, *TICK).finish()
    assert followed.kinds[-1] == "tick"
    assert sum(followed.shapes.left_over.values()) == 1001


def test_different_operations_beyond_a_limit_are_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_SHAPES", 3)
    followed = Followed(*SCHED_IN, *PMI, *TICK, *SPURIOUS, *PMI).finish()
    assert followed.kinds == ["sched_in", "pmi", "tick", None, "pmi"]
    assert followed.shapes.left_over == {TOO_MANY: 4}


def test_a_sequence_that_was_never_counted_is_no_operation() -> None:
    # All that a guest with a page leaves of its ticks: what they cost nobody can know.
    followed = Followed(OFF, ON, OFF, ON).finish()
    assert followed.shapes.operations() == []
    assert followed.shapes.left_over == {BEFORE_FIRST: 4}
