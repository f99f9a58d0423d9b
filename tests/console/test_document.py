"""The view as JSON, CSV and plain text: the same numbers as the rows."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from pvpmu.console.document import CSV_COLUMNS, SCHEMA, csv_rows, document
from pvpmu.console.keys import View
from pvpmu.console.lines import report, update
from pvpmu.console.model import Model
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import bucket_of, value_of
from pvpmu.shared.liveview import HANDLER_KEY, AccessPath, Key, State

CTRL = Key(ExitReason.MSR_WRITE, 0x38F, AccessPath.COMMIT)
STATUS = Key(ExitReason.MSR_READ, 0x38E, AccessPath.PAGE)
FAST, SLOW = bucket_of(180), bucket_of(9000)


@pytest.fixture
def model(new_vm: Any) -> Model:
    made = Model()
    series = [{STATUS: {FAST: 20}, CTRL: {SLOW: 4}, HANDLER_KEY: {SLOW: 2}}] * 2
    made.update(1.0, [new_vm(exits=[{}, {}], series=[{}, {}])])
    made.update(3.0, [new_vm(exits=[{CTRL: 4}] * 2, series=series, pmis=[{"delivered": 2}] * 2)])
    return made


def test_a_document_says_what_it_is_and_survives_json(model: Model) -> None:
    made = json.loads(json.dumps(document(model, 1_700_000_000.1234, View(2.0))))
    assert (made["schema"], made["time"], made["interval_s"]) == (SCHEMA, 1_700_000_000.123, 2.0)
    (vm,) = made["vms"]
    assert (vm["name"], vm["design"], vm["condition"]) == ("vm0", "page", "guest 4711")
    assert vm["exits"] == {"MSR_WRITE": {"total": 8, "rate": 4.0}}
    assert vm["avoided"] == 40
    assert vm["rates"] == {"pmis": 2.0, "exits": 4.0, "avoided": 20.0}
    assert vm["pmis"]["delivered"] == 4
    assert vm["pmis"]["spurious"] == 0
    assert [each["vcpu"] for each in vm["vcpus"]] == [0, 1]
    assert vm["vcpus"][0]["state"] == "RUNNING"
    assert vm["vcpus"][0]["exits"] == {"MSR_WRITE": {"total": 4, "rate": 2.0}}


def test_a_documents_registers_and_latencies_are_the_rows(model: Model) -> None:
    (vm,) = document(model, 0.0, View(2.0))["vms"]
    registers = {each["name"]: each for each in vm["registers"]}
    status = registers["MSR_CORE_PERF_GLOBAL_STATUS"]
    assert (status["address"], status["op"], status["path"]) == (0x38E, "R", "page")
    assert (status["total"], status["rate"]) == (40, 20.0)
    assert status["latency"]["p50_ns"] == 180
    kinds = {each["what"]: each for each in vm["latency"]}
    assert set(kinds) == {"page", "exit", "PMI handler"}
    assert kinds["page"]["buckets"] == [[180, 40]]
    assert kinds["exit"]["p50_ns"] == value_of(SLOW)
    (only,) = document(model, 0.0, View(2.0, vcpu=1))["vms"]
    assert sum(each["total"] for each in only["registers"]) == 24


def test_csv_has_a_row_for_each_number(model: Model) -> None:
    out = io.StringIO()
    table = csv.DictWriter(out, CSV_COLUMNS)
    table.writeheader()
    table.writerows(csv_rows(model, 5.0, View(2.0)))
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert {row["kind"] for row in rows} == {
        "state", "exit", "pmi", "avoided", "lost", "register", "latency",
    }  # fmt: skip
    totals = {row["vcpu"]: row["total"] for row in rows if row["kind"] == "exit"}
    assert totals == {"0": "4", "1": "4", "all": "8"}
    (status,) = [row for row in rows if row["name"] == "MSR_CORE_PERF_GLOBAL_STATUS"]
    assert (status["address"], status["total"], status["p50_ns"]) == ("0x38e", "40", "180")
    assert {row["time"] for row in rows} == {"5.000"}


def test_a_report_has_every_table(model: Model) -> None:
    lines = report(model, View(1.0))
    assert lines[0] == "vm0: design page, guest 4711"
    titles = [line.split()[0] for line in lines if line]
    for title in ("vCPU", "latency", "register", "total"):
        assert title in titles
    assert any("MSR_CORE_PERF_GLOBAL_CTRL" in line and "9.02us" in line for line in lines)


def test_an_update_is_a_line_for_each_vm_under_a_title(model: Model) -> None:
    title, line = update(model, View(1.0), "12:00:01", titled=True)
    assert title.split()[:4] == ["time", "vm", "design", "state"]
    assert line.split()[:7] == ["12:00:01", "vm0", "page", "RUNNING", "2", "4", "20"]
    assert line.split()[7:] == ["180ns", "8.99us", "8.99us", "8", "40"]
    assert update(model, View(1.0), "12:00:01", titled=False) == [line]


@pytest.mark.parametrize("width", [80, 100, 140, 151, 152, 1000])
def test_an_update_keeps_to_the_terminal_and_its_columns_to_their_places(
    new_vm: Any, width: int
) -> None:
    places = set()
    for states in ({0: State.RUNNING}, {0: State.FROZEN, 1: State.RUNNING, 2: State.TRAP_ONLY}):
        vm = new_vm(exits=[{CTRL: 4}] * 3)
        vcpus = [replace(each, state=states.get(each.number, State.RUNNING)) for each in vm.vcpus]
        made = Model()
        made.update(1.0, [replace(vm, vcpus=vcpus)])
        title, line = update(made, View(1.0), "12:00:01", titled=True, width=width)
        assert max(len(title), len(line)) <= width
        assert "PMI handler p50" in title
        assert ("avoided" in title) == (width > 100)
        places.add(title.index("PMIs/s"))
    assert len(places) == 1


def test_an_update_of_a_vm_without_latencies_has_signs_in_their_place(new_vm: Any) -> None:
    made = Model()
    made.update(1.0, [new_vm(exits=[{CTRL: 4}])])
    _, line = update(made, View(1.0), "12:00:01", titled=True)
    assert line.split()[6:10] == ["-"] * 4


def test_an_update_has_the_latencies_of_the_chosen_vcpu(new_vm: Any) -> None:
    made = Model()
    made.update(1.0, [new_vm(series=[{STATUS: {FAST: 9}}, {STATUS: {SLOW: 9}}])])
    (line,) = update(made, View(1.0, vcpu=1), "12:00:01", titled=False)
    assert line.split()[7] == "8.99us"
