"""The guest's periodic timers."""

from __future__ import annotations

import pytest

from pvpmu.guest.timers import Timers


def test_each_timer_fires_on_multiples_of_its_period() -> None:
    timers = Timers({"tick": 10, "read": 25})
    fired = [(now, name) for now in range(61) for name in ("tick", "read") if timers.due(name, now)]
    ticks = [(now, "tick") for now in (10, 20, 30, 40, 50, 60)]
    assert fired == sorted([*ticks, (25, "read"), (50, "read")], key=lambda each: each[0])


def test_a_late_look_fires_once(timers: Timers) -> None:
    assert timers.due("tick", 35)
    assert not timers.due("tick", 39)
    assert timers.due("tick", 40)


def test_what_is_skipped_does_not_fire_later(timers: Timers) -> None:
    timers.skip("tick", 30)
    assert not timers.due("tick", 39)
    assert timers.next_of(["tick"], 1000) == 40
    timers.skip("tick", 35)
    assert timers.next_of(["tick"], 1000) == 40


def test_a_timer_that_restarts_is_due_a_period_later(timers: Timers) -> None:
    timers.restart("tick", 17)
    assert timers.next_of(["tick"], 1000) == 27


def test_a_timer_without_a_period_never_fires(timers: Timers) -> None:
    assert not timers.due("never", 1 << 60)
    timers.skip("never", 5)
    assert timers.next_of(["tick", "never", "unheard"], 7) == 7


@pytest.fixture
def timers() -> Timers:
    return Timers({"tick": 10, "never": 0})
