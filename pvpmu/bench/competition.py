"""What the guest did not count: what the host's own events took, and what real perf refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pvpmu.bench.realperf import refused_events
from pvpmu.bench.totals import Totals
from pvpmu.guest.scenario import Scenario
from pvpmu.shared.events import EVENTS

Json = dict[str, Any]
Value = Callable[[Json], str]
Row = tuple[str, Value, str]


def competition(scenario: Scenario, totals: Totals) -> Json:
    """The fields of a design in ``docs/bench-json.md``, "The host's own events"."""
    events = scenario.host_load.events
    did_of: list[Counter[str]] = totals.host_events or [Counter() for _ in events]
    told = {label: totals.told[i] for i, label in enumerate(scenario.labels)}
    return {
        "refused": totals.refused,
        "missed": {EVENTS[kind].name: count for kind, count in sorted(totals.missed.items())},
        "not_counting": told if totals.page_registered else None,
        "host_events": [
            {
                "name": event.name,
                "pinned": event.pinned,
                "guest": event.guest,
                "period": event.period,
                **{key: did[key] for key in ("samples", "count")},
                "running_share": round(did["running"] / did["cycles"], 6) if did["cycles"] else 0.0,
                "refused": bool(did["refused"]),
            }
            for event, did in zip(events, did_of, strict=True)
        ],
    }


def accounts_for_errors(scenario: Scenario, totals: Totals) -> bool:
    """Whether what the guest did not count is what its counters without an event missed, by kind.

    And whether a page said so of every one of these counts.
    """
    wrong = dict.fromkeys(range(len(EVENTS)), 0)
    for number, config in enumerate(scenario.configs(scenario.cpuid)):
        wrong[config.event.kind] += totals.error[number]
    told = not totals.page_registered or +totals.told == +totals.error
    return told and all(wrong[kind] == totals.missed[kind] for kind in wrong)


def of_refused_alone(scenario: Scenario, totals: Totals, refused: Sequence[str]) -> bool:
    """Whether only refused events were not counted, and a page said so of every count."""
    wrong = {label for number, label in enumerate(scenario.labels) if totals.error[number]}
    told = not totals.page_registered or +totals.told == +totals.error
    return told and wrong <= set(refused)


def competition_rows(result: Json) -> Iterator[Row]:
    """The section of the table; nothing without events of the host."""
    designs = result["designs"]
    for number, event in enumerate(designs[0]["host_events"]):
        how = "pinned" if event["pinned"] else "flexible"
        name = f"host's {event['name']}, {how}"
        if event["period"]:
            yield f"{name}: samples", _of_event(number, "samples", "{:,}"), ""
        yield f"{name}: on a counter", _of_event(number, "running_share", "{:.1%}"), ""
    if designs[0]["host_events"]:
        yield "guest events enabled without a counter", _refused, ""
        for kind in designs[0]["missed"]:
            if any(design["missed"][kind] for design in designs):
                yield f"missed, {kind}", _missed(kind), ""
        yield from _told_rows(result)


def refused_rows(result: Json) -> Iterator[Row]:
    """Rows of what a page says of events that real perf refuses; nothing where there are none."""
    # With events of the host their section has the rows.
    if refused_events(result["perf_events"]) and not result["designs"][0]["host_events"]:
        yield from _told_rows(result)


def _told_rows(result: Json) -> Iterator[Row]:
    designs = result["designs"]
    for label in designs[0]["count_error"]:
        if any(design["count_error"][label] for design in designs):
            yield f"said not to count, {label}", _told(label), ""


def _of_event(number: int, key: str, form: str) -> Value:
    def value(design: Json) -> str:
        event = design["host_events"][number]
        return "refused" if event["refused"] else form.format(event[key])

    return value


def _refused(design: Json) -> str:
    return f"{design['refused']:,}"


def _missed(kind: str) -> Value:
    return lambda design: f"{design['missed'][kind]:,}"


def _told(label: str) -> Value:
    def value(design: Json) -> str:
        told = design["not_counting"]
        return "unknown" if told is None else f"{told[label]:,}"

    return value
