"""Chrome's trace event format: what Perfetto needs to draw it right."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from pvpmu.recording.chrome import ChromeTrace, chrome
from pvpmu.recording.format import Change, Kind, Pmi, State, head_of, record_of
from pvpmu.recording.reader import LOST, Stream, merged

PHASES = {"M": {"name", "args"}, "X": {"ts", "dur", "name", "cat"}, "i": {"ts", "s", "name"},
          "s": {"ts", "id", "name", "cat"}, "f": {"ts", "id", "name", "cat", "bp"}}  # fmt: skip
HOST = Stream(0, "host", 0, {"design": "page"}, -1)


def trace_of(run: Any) -> dict[str, Any]:
    with run.open() as recording:
        text = "".join(chrome(merged(recording.streams), {"sections": recording.sections}))
    made: dict[str, Any] = json.loads(text)
    return made


@pytest.fixture(scope="module", params=["trap_run", "page_run", "both_run"])
def run(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def events(run: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = trace_of(run)["traceEvents"]
    return made


def of(events: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == phase]


def tracks(events: list[dict[str, Any]]) -> dict[tuple[int, int], str]:
    return {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in of(events, "M")
        if event["name"] == "thread_name"
    }


def test_every_event_has_what_its_phase_needs(events: list[dict[str, Any]]) -> None:
    for event in events:
        assert PHASES[event["ph"]] | {"pid", "tid"} <= event.keys()
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0


def test_every_event_is_on_a_track_with_a_name(events: list[dict[str, Any]]) -> None:
    named = tracks(events)
    used = {(event["pid"], event["tid"]) for event in events if event["ph"] != "M"}
    assert used <= named.keys()
    assert "vCPU 0 guest" in named.values()
    assert "vCPU 0 host" in named.values()


def test_slices_of_a_track_nest(events: list[dict[str, Any]]) -> None:
    by_track = defaultdict(list)
    for event in of(events, "X"):
        # In whole ns, as they were recorded.
        start = round(event["ts"] * 1000)
        by_track[event["pid"], event["tid"]].append((start, -round(event["dur"] * 1000)))
    for slices in by_track.values():
        open_until: list[int] = []
        for start, length in sorted(slices):
            end = start - length
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)


def test_arrows_lead_from_an_exit_to_the_handler_that_took_the_pmi(
    events: list[dict[str, Any]],
) -> None:
    named = tracks(events)
    slices = defaultdict(list)
    for event in of(events, "X"):
        slices[event["pid"], event["tid"]].append(event)
    starts = {event["id"]: event for event in of(events, "s")}
    ends = {event["id"]: event for event in of(events, "f")}
    assert starts.keys() == ends.keys()
    assert len(ends) == len(of(events, "f")) > 10
    handlers = {(e["pid"], e["tid"], e["ts"]) for e in of(events, "X") if e["cat"] == "handler"}
    for number, start in starts.items():
        end = ends[number]
        assert end["ts"] > start["ts"]
        assert named[start["pid"], start["tid"]].endswith("host")
        assert (end["pid"], end["tid"], end["ts"]) in handlers
        assert any(
            each["cat"] == "exit" and each["ts"] <= start["ts"] <= each["ts"] + each["dur"]
            for each in slices[start["pid"], start["tid"]]
        )


def test_handlers_exits_and_samples_are_all_there(run: Any, events: list[dict[str, Any]]) -> None:
    categories = Counter(event["cat"] for event in events if "cat" in event)
    counted = [report.counts for report in run.reports]
    assert categories["handler"] == sum(counts.handlers for counts in counted)
    assert categories["sample"] == sum(counts.samples for counts in counted)
    assert categories["exit"] == sum(sum(stats.exits.values()) for stats in run.stats)
    names = Counter(event["name"] for event in of(events, "X"))
    spurious = sum(counts.spurious for counts in counted)
    assert names["NMI handler (spurious)"] == spurious
    assert names["tick"] == sum(counts.ticks for counts in counted)


def test_designs_are_processes_side_by_side(both_run: Any) -> None:
    names = {
        event["args"]["name"]: event["pid"]
        for event in trace_of(both_run)["traceEvents"]
        if event["name"] == "process_name"
    }
    assert names == {"trap": 1, "page": 2}
    for process in names.values():
        times = [
            e["ts"] for e in trace_of(both_run)["traceEvents"] if e["pid"] == process and "ts" in e
        ]
        assert min(times) == 0


def test_a_page_has_a_track_of_states(page_run: Any) -> None:
    made = trace_of(page_run)["traceEvents"]
    states = [event for event in of(made, "X") if event["cat"] == "state"]
    assert {event["name"] for event in states} == {"RUNNING", "FROZEN"}
    assert {event["args"]["by"] for event in states} >= {"COMMIT", "FREEZE"}


def record(wall: int, kind: int, code: int = 0, flags: int = 0, b: int = 0) -> Any:
    return HOST, record_of((wall, 0, 0, head_of(kind, code, flags), 0, b))


def test_without_a_guest_no_arrow_begins_that_has_no_end(page_run: Any) -> None:
    with page_run.open() as recording:
        host = [stream for stream in recording.streams if stream.side == "host"]
        events = list(ChromeTrace(arrows=False).events(merged(host)))
    assert any(event["name"] == "PMI raised" for event in events)
    assert not any(event["ph"] in "sf" for event in events)


def test_what_is_open_at_the_end_is_closed_there() -> None:
    made = list(
        ChromeTrace().events(
            [
                record(100, Kind.STATE, Change.REGISTER, State.RUNNING),
                record(200, Kind.EXIT, 12),
                record(300, Kind.PMI, Pmi.RAISED),
            ]
        )
    )
    slices = {event["name"]: (event["ts"], event["dur"]) for event in of(made, "X")}
    assert slices == {"RUNNING": (0.0, 0.2), "exit that did not end": (0.1, 0.1)}


def test_an_exit_whose_entry_was_lost_is_no_slice() -> None:
    made = list(
        ChromeTrace().events(
            [record(100, Kind.EXIT, 12), record(150, LOST), record(200, Kind.ENTRY, 12)]
        )
    )
    assert of(made, "X") == []
    assert [event["name"] for event in of(made, "i")] == ["0 records lost"]


def test_an_empty_recording_is_a_valid_file(tmp_path: Path) -> None:
    assert json.loads("".join(chrome([], {"a": 1})))["traceEvents"] == []
