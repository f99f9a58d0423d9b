"""JSON lines: one object for each record, with words for its numbers."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from pvpmu.recording.format import (
    EXIT_NMI_BLOCKED,
    FAULT,
    NO_KIND,
    SPURIOUS,
    Kind,
    Path,
    head_of,
    record_of,
)
from pvpmu.recording.jsonl import fields, jsonl
from pvpmu.recording.reader import LOST, merged
from pvpmu.shared.exits import FAULT_GP, INJECT_IRQ, INJECT_NMI


@pytest.mark.parametrize(
    ("head", "a", "b", "said"),
    [
        (
            head_of(Kind.EXIT, 32, EXIT_NMI_BLOCKED, 0x38F),
            5,
            0,
            {"event": "exit", "reason": "MSR_WRITE", "address": "0x38f", "value": "0x5",
             "nmi_blocked": True},
        ),
        (head_of(Kind.EXIT, 12), 0, 0, {"event": "exit", "reason": "HLT", "nmi_blocked": False}),
        (
            head_of(Kind.MSR, 0, FAULT, 0x38E),
            9,
            0,
            {"event": "msr", "op": "rdmsr", "name": "MSR_CORE_PERF_GLOBAL_STATUS",
             "address": "0x38e", "value": "0x9", "fault": True},
        ),
        (
            head_of(Kind.ENTRY, 15, FAULT_GP | INJECT_NMI),
            7,
            0,
            {"event": "entry", "reason": "RDPMC", "value": "0x7", "fault": True,
             "injects": "NMI"},
        ),
        (
            head_of(Kind.ENTRY, 0, INJECT_IRQ, 0x51),
            0,
            0,
            {"event": "entry", "reason": "EXCEPTION_NMI", "fault": False, "injects": "0x51"},
        ),
        (
            head_of(Kind.PERF_CALL, 2, 0b11 << 8 | 5, 4),
            1000,
            250,
            {"event": "perf_call", "call": "period", "host_event": 4,
             "counts": "branch-instructions", "modes": 3, "value": "0x3e8", "took_ns": 250},
        ),
        (
            head_of(Kind.PERF_CALL, 6, NO_KIND, 4),
            1,
            2,
            {"event": "perf_call", "call": "create", "host_event": 4, "counts": None, "modes": 0,
             "value": "0x1", "took_ns": 2},
        ),
        (head_of(Kind.PMI, 1), 0, 0, {"event": "pmi", "what": "coalesced"}),
        (
            head_of(Kind.STATE, 2, 2),
            8,
            0,
            {"event": "state", "change": "COMMIT", "state": "RUNNING", "generation": 8},
        ),
        (head_of(Kind.MARK, 1), 0, 0, {"event": "mark", "what": "START"}),
        (
            head_of(Kind.ACCESS, 2, Path.SILICON, 1 << 30),
            6,
            40,
            {"event": "access", "op": "rdpmc", "address": "0x40000000", "value": "0x6",
             "path": "silicon", "fault": False, "took_ns": 40},
        ),
        (head_of(Kind.HANDLER_ENTRY), 0x1000, 0, {"event": "handler_entry", "ip": "0x1000"}),
        (
            head_of(Kind.HANDLER_EXIT, 0, SPURIOUS),
            0,
            9,
            {"event": "handler_exit", "bits": 0, "spurious": True, "took_ns": 9},
        ),
        (
            head_of(Kind.SAMPLE, 3),
            0x1000,
            77,
            {"event": "sample", "number": 3, "ip": "0x1000", "period": 77},
        ),
        (head_of(Kind.OPERATION, 0), 0, 5, {"event": "operation", "what": "tick", "took_ns": 5}),
        (head_of(LOST), 12, 0, {"event": "lost", "records": 12}),
        (head_of(200), 1, 2, {"event": "kind_200", "words": ["0x1", "0x2"]}),
    ],
)  # fmt: skip
def test_what_each_kind_of_record_says(head: int, a: int, b: int, said: dict[str, Any]) -> None:
    assert fields(record_of((1, 2, 3, head, a, b))) == said


def test_numbers_of_a_later_version_have_no_word() -> None:
    for kind in (Kind.PMI, Kind.STATE, Kind.MARK, Kind.ACCESS, Kind.OPERATION, Kind.PERF_CALL):
        assert "200" in str(fields(record_of((1, 2, 3, head_of(kind, 200), 0, 0))))


def test_a_run_comes_out_line_by_line(page_run: Any) -> None:
    with page_run.open() as recording:
        lines = list(jsonl(merged(recording.streams), recording.sections))
    header, *records = map(json.loads, lines)
    assert header["schema"] == "pvpmu-recording/1"
    assert header["sections"][0]["design"] == "page"
    walls = [record["wall_ns"] for record in records]
    assert walls == sorted(walls)
    events = Counter((record["event"], record["side"]) for record in records)
    counted = [report.counts for report in page_run.reports]
    assert events["sample", "guest"] == sum(counts.samples for counts in counted)
    assert events["exit", "host"] == sum(sum(s.exits.values()) for s in page_run.stats)
    by_page = sum(r["event"] == "access" and r["path"] == "page" for r in records)
    assert by_page > events["msr", "host"]
    assert {record["vcpu"] for record in records} == {0, 1}
