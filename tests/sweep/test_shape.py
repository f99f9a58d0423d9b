"""Scenarios with more events, or another frequency."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pvpmu.guest.scenario import ScenarioEvent, load_scenario
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import BY_NAME
from pvpmu.sweep.shape import with_events, with_frequency

BR_INSTR = load_scenario("br_instr")


def test_the_scenarios_own_events_come_first() -> None:
    assert with_events(BR_INSTR, 4) == BR_INSTR
    assert with_events(BR_INSTR, 2).events == BR_INSTR.events[:2]


def test_more_events_are_those_of_the_table_and_then_all_again() -> None:
    names = [event.name for event in with_events(BR_INSTR, 16).events]
    assert names[:4] == [event.name for event in BR_INSTR.events]
    assert set(names[:7]) == set(BY_NAME)
    assert names[7:14] == names[:7]
    assert len(names) == 16


def test_what_is_added_starts_at_its_own_rate() -> None:
    added = {event.name: event for event in with_events(BR_INSTR, 7).events}
    assert added["branch-misses"].frequency == 4000
    assert added["branch-misses"].initial_period == 1_200_000 // 4000


def test_an_event_that_the_pmu_lacks_is_not_added() -> None:
    no_fixed = replace(BR_INSTR, fixed=0)
    assert "ref-cycles" not in {event.name for event in with_events(no_fixed, 16).events}


def test_a_counting_scenario_gets_events_that_count() -> None:
    counting = replace(BR_INSTR, events=(ScenarioEvent(name="instructions"),))
    assert all(not event.frequency for event in with_events(counting, 5).events)


def test_a_frequency_changes_what_is_sampled_by_frequency_and_nothing_else() -> None:
    mixed = (*BR_INSTR.events[:1], ScenarioEvent(name="cache-misses", period=10))
    changed = with_frequency(replace(BR_INSTR, events=mixed), 1000)
    assert changed.events[0].frequency == 1000
    assert changed.events[0].initial_period == 2_500_000
    assert changed.events[1] == mixed[1]


def test_an_event_rarer_than_the_frequency_starts_at_period_1() -> None:
    assert with_frequency(BR_INSTR, 4000) == BR_INSTR
    assert BR_INSTR.events[3].initial_period == 1


def test_a_script_has_its_events_given() -> None:
    script = load_scenario("br_instr-trace")
    with pytest.raises(UsageError, match="'br_instr-trace' is a script"):
        with_events(script, 2)


def test_a_frequency_needs_an_event_that_is_sampled_by_it() -> None:
    counting = replace(BR_INSTR, events=(ScenarioEvent(name="instructions"),))
    with pytest.raises(UsageError, match="samples no event by frequency"):
        with_frequency(counting, 100)
