"""What the host's own events took and got, as the document has it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from pvpmu.bench.competition import accounts_for_errors, competition, competition_rows
from pvpmu.bench.document import Json
from pvpmu.bench.totals import Totals
from pvpmu.guest.scenario import Scenario, load_scenario
from pvpmu.shared.events import BRANCHES, CYCLES


def scenario() -> Scenario:
    return load_scenario("host-profiles")


def totals(**changes: object) -> Totals:
    """The guest's cpu-cycles missed 900; the host's four events did something."""
    did = Counter(samples=3, count=30, running=50, cycles=200)
    made = Totals(
        error=Counter({0: 900}),
        told=Counter({0: 900}),
        missed=Counter({CYCLES: 900, BRANCHES: 0}),
        refused=7,
        host_events=[did] * 4,
        page_registered=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_document_has_what_each_side_got() -> None:
    found = competition(scenario(), totals())
    assert (found["refused"], found["missed"]["cpu-cycles"]) == (7, 900)
    assert found["not_counting"]["cpu-cycles"] == 900
    assert [event["name"] for event in found["host_events"]] == [
        "cpu-cycles", "branch-instructions", "ref-cycles", "branch-misses",
    ]  # fmt: skip
    expected = {
        "name": "branch-instructions", "pinned": True, "guest": True, "period": 925_000,
        "samples": 3, "count": 30, "running_share": 0.25,
    }  # fmt: skip
    assert found["host_events"][1].items() >= expected.items()


def test_without_a_page_nothing_says_what_does_not_count() -> None:
    assert competition(scenario(), totals(page_registered=False))["not_counting"] is None


def test_before_any_run_the_host_did_nothing() -> None:
    found = competition(scenario(), Totals())
    assert [event["samples"] for event in found["host_events"]] == [0] * 4


@pytest.mark.parametrize(
    ("changes", "accounted"),
    [
        ({}, True),
        ({"missed": Counter({CYCLES: 901})}, False),
        ({"missed": Counter({CYCLES: 900, BRANCHES: 1})}, False),
        ({"told": Counter({0: 899})}, False),
        ({"told": Counter(), "page_registered": False}, True),
    ],
)
def test_count_errors_have_to_be_what_was_missed_and_told(
    changes: dict[str, object], accounted: bool
) -> None:
    assert accounts_for_errors(scenario(), totals(**changes)) is accounted


def test_the_table_has_a_section_only_where_the_host_has_events(result: Json) -> None:
    assert list(competition_rows(result)) == []
    busy = {
        "designs": [
            {**competition(scenario(), totals()), "count_error": {"cpu-cycles": 900, "other": 0}}
        ]
    }
    rows = {label: value(busy["designs"][0]) for label, value, _ in competition_rows(busy)}
    assert rows["host's branch-instructions, pinned: samples"] == "3"
    assert rows["host's ref-cycles, flexible: on a counter"] == "25.0%"
    assert rows["guest events enabled without a counter"] == "7"
    assert rows["missed, cpu-cycles"] == "900"
    assert rows["said not to count, cpu-cycles"] == "900"
    assert "missed, branch-instructions" not in rows
