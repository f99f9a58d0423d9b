"""Scenarios of another size: more events, another sampling frequency. Pure."""

from __future__ import annotations

from dataclasses import replace

from pvpmu.guest.scenario import Scenario, ScenarioEvent
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import CYCLES, EVENTS, event_named

MAX_EVENTS = 64


def with_events(scenario: Scenario, count: int) -> Scenario:
    """Open ``count`` events: the scenario's own, others that its PMU can count, then all again.

    What is added is opened as the first event is: at its frequency, with its period, or to count.
    Raises :class:`UsageError` for a script, which has its overflows by event.
    """
    if not 1 <= count <= MAX_EVENTS:
        raise UsageError(f"events = {count} is outside 1..{MAX_EVENTS}")
    if scenario.script is not None:
        raise UsageError(
            f"events: scenario {scenario.name!r} is a script, which has its overflows by event"
        )
    own = list(scenario.events)
    present = {event.name for event in own}
    names = [name for name in _countable(scenario) if name not in present]
    around = own + [_like(scenario, own[0], name) for name in names]
    return replace(scenario, events=tuple(around[n % len(around)] for n in range(count)))


def with_frequency(scenario: Scenario, frequency: int) -> Scenario:
    """Sample every event that is sampled by frequency at ``frequency`` Hz.

    The adjustment starts at rate / frequency. Raises :class:`UsageError` if there is no such event,
    or the frequency is no rate that the scenario allows.
    """
    if not any(event.frequency for event in scenario.events):
        raise UsageError(f"frequency: scenario {scenario.name!r} samples no event by frequency")
    if not 1 <= frequency <= scenario.max_sample_rate:
        raise UsageError(
            f"frequency = {frequency} Hz is outside 1..{scenario.max_sample_rate}, "
            f"the scenario's max_sample_rate"
        )
    events = tuple(
        _sampled(scenario, event, frequency) if event.frequency else event
        for event in scenario.events
    )
    return replace(scenario, events=events)


def _countable(scenario: Scenario) -> list[str]:
    names = []
    for event in EVENTS:
        try:
            names.append(event_named(event.name, scenario.cpuid).name)
        except UsageError:
            continue
    return names


def _like(scenario: Scenario, model: ScenarioEvent, name: str) -> ScenarioEvent:
    event = replace(model, name=name)
    return _sampled(scenario, event, model.frequency) if model.frequency else event


def _sampled(scenario: Scenario, event: ScenarioEvent, frequency: int) -> ScenarioEvent:
    """The event at another frequency, starting at its rate / frequency."""
    rate = 0
    if event.name == EVENTS[CYCLES].name:
        rate = scenario.cpu_hz
    elif scenario.workload is not None:
        rate = scenario.workload.per_second.get(event.name, 0)
    return replace(event, frequency=frequency, initial_period=max(rate // frequency, 1))
