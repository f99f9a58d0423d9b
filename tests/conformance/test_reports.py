"""Reports: read back by readers that are not ours."""

from __future__ import annotations

import json
import re
from io import StringIO
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from pvpmu.conformance.console import print_run
from pvpmu.conformance.matrix import as_html
from pvpmu.conformance.reports import as_json, as_junit, as_tap
from pvpmu.conformance.target import Hello
from pvpmu.conformance.verdict import CaseResult, Failure, RunResult, Verdict, tally


def _case(verdict: Verdict, number: int, **more: Any) -> CaseResult:
    given: dict[str, Any] = {
        "id": f"OVF-0{number}",
        "path": "page",
        "profile": "kvm-5.14",
        "verdict": verdict,
        "title": "a <title> # with & marks",
        "clause": "SDM",
        "level": "MUST",
    }
    return CaseResult(**given | more)


@pytest.fixture
def result() -> RunResult:
    failure = Failure(
        where="3.0#1", op="rd msr=STATUS", expected="0x1", actual="<0x0>", variables={"i": "0x1"}
    )
    cases = (
        _case(Verdict.PASS, 1),
        _case(Verdict.FAIL, 2, failure=failure, replay="pvpmu conform run OVF-02"),
        _case(Verdict.SKIP, 3, reason="needs kill: #1"),
        _case(Verdict.ERROR, 4, reason="op 1: oh\x00"),
        _case(Verdict.NON_STRICT, 5, failure=failure),
    )
    hello = Hello(name="fake", version="1", features=("page",), profiles=("kvm-5.14",))
    return RunResult(
        pvpmu="0", target=hello, path="both", strict=False, tally=tally(cases), results=cases
    )


def test_json_has_every_result_and_the_tally(result: RunResult) -> None:
    data = json.loads(as_json(result))
    assert data["tally"] == {"pass": 1, "non-strict": 1, "fail": 1, "skip": 1, "error": 1}
    assert [case["verdict"] for case in data["results"]] == [
        "pass",
        "fail",
        "skip",
        "error",
        "non-strict",
    ]
    assert data["results"][1]["failure"]["variables"] == {"i": "0x1"}


def test_junit_counts_and_tells(result: RunResult) -> None:
    suite = ET.fromstring(as_junit(result)).find("testsuite")  # noqa: S314 (our own text)
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    failed = suite.find("testcase/failure")
    assert failed is not None
    assert "actual: <0x0>" in (failed.text or "")
    assert "replay: pvpmu conform run OVF-02" in (failed.text or "")


def test_tap_has_a_plan_and_a_line_for_each(result: RunResult) -> None:
    lines = as_tap(result).splitlines()
    assert lines[:2] == ["TAP version 14", "1..5"]
    points = [line for line in lines if re.match(r"(not )?ok \d", line)]
    assert [line.split(" - ")[0] for line in points] == [
        "ok 1",
        "not ok 2",
        "ok 3",
        "not ok 4",
        "ok 5",
    ]
    assert points[2].endswith("# SKIP needs kill: \\#1")
    assert all(" # " not in line for line in points if "SKIP" not in line)
    assert '  actual: "<0x0>"' in lines


def test_html_is_one_file_that_escapes_what_it_shows(result: RunResult) -> None:
    text = as_html(result)
    assert "<title>" in text
    assert "a &lt;title&gt; # with &amp; marks" in text
    assert "actual: &lt;0x0&gt;" in text
    assert not re.search(r"(src|href)=", text)
    assert text.count("<tr id=") == 5


def test_the_terminal_shows_areas_failures_and_reasons(result: RunResult) -> None:
    out = StringIO()
    print_run(result, Console(file=out, width=120))
    text = out.getvalue()
    assert "fail OVF-02 on page: a <title> # with & marks" in text
    assert "    op       3.0#1: rd msr=STATUS" in text
    assert "    replay   pvpmu conform run OVF-02" in text
    assert "skip   1: needs kill: #1" in text
    assert "target fake: 1 pass, 1 non-strict, 1 fail, 1 skip, 1 error" in text
    out = StringIO()
    print_run(result, Console(file=out, width=120), skips=True)
    assert "skip OVF-03 on page: needs kill: #1" in out.getvalue()
