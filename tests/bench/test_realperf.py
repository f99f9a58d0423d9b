"""What a report says of real perf: whose events count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pvpmu.bench.document import Json
from pvpmu.bench.measure import BenchConfig, Measured
from pvpmu.bench.realperf import (
    counted_by,
    counted_by_line,
    perf_described,
    perf_lines,
    refused_events,
)
from pvpmu.bench.table import sections
from pvpmu.shared.events import BRANCHES, CYCLES, MODELLED, REFUSED

from .conftest import made

pytestmark = pytest.mark.usefixtures("_only_clocks")
KINDS = {"cpu-cycles": CYCLES, "branch-instructions": BRANCHES, "branch-instructions:u": BRANCHES}


def test_the_model_s_events_are_modelled() -> None:
    told = counted_by("model", KINDS, REFUSED)
    assert set(told.values()) == {MODELLED}
    assert refused_events(told) == []
    assert perf_described("model", REFUSED).startswith("the model's")


@pytest.mark.parametrize("missing", [MODELLED, REFUSED])
def test_where_the_guest_runs_each_event_is_a_clock_s_modelled_or_refused(missing: str) -> None:
    told = counted_by("linux", KINDS, missing, guest_runs=True)
    assert told == {
        "cpu-cycles": "cpu-clock (includes host time)",
        "branch-instructions": missing,
        "branch-instructions:u": missing,
    }
    assert counted_by_line(told) == (
        "what counts each event: cpu-cycles: cpu-clock (includes host time); branch-instructions, "
        f"branch-instructions:u: {missing}"
    )


def test_elsewhere_the_model_counts_what_is_not_refused_and_says_what_it_is_timed_on() -> None:
    assert list(counted_by("linux", KINDS).values()) == [
        "modelled, timed on a cpu-clock event",
        *["modelled, timed on a dummy event"] * 2,
    ]
    told = counted_by("linux", KINDS, REFUSED)
    assert refused_events(told) == ["branch-instructions", "branch-instructions:u"]
    assert "but for those that it refuses" in perf_described("linux", REFUSED)
    assert "refuses" not in perf_described("linux")


def test_the_document_and_its_table_say_it(config: BenchConfig, measured: Measured) -> None:
    plain = made(config, measured)
    assert set(plain["perf_events"]) == set(config.scenario.labels)
    assert list(perf_lines(plain)) == []
    scenario = replace(config.scenario, missing_events=REFUSED)
    real: Json = made(replace(config, perf="linux", scenario=scenario), measured)
    assert refused_events(real["perf_events"]) == [
        "instructions", "branch-instructions", "cache-misses",
    ]  # fmt: skip
    whose, each = perf_lines(real)
    assert whose.startswith("perf: the model's, but for those that it refuses")
    assert each.endswith("instructions, branch-instructions, cache-misses: refused")
    assert "accuracy" in [title for title, _, _ in sections(real)]
