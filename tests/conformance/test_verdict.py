"""Baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pvpmu.conformance.verdict import CaseResult, Verdict, deviations, load_result
from pvpmu.shared.errors import UsageError


def _case(name: str, verdict: Verdict) -> CaseResult:
    return CaseResult(
        id=name, path="trap", profile="p", verdict=verdict, title="t", clause="c", level="MUST"
    )


def test_a_run_that_is_its_baseline_deviates_in_nothing() -> None:
    cases = [_case("A", Verdict.PASS), _case("B", Verdict.FAIL)]
    assert deviations(cases, cases) == []


def test_each_other_verdict_new_case_and_missing_case_is_a_line() -> None:
    before = [_case("A", Verdict.PASS), _case("B", Verdict.FAIL), _case("C", Verdict.SKIP)]
    after = [_case("A", Verdict.FAIL), _case("B", Verdict.PASS), _case("D", Verdict.PASS)]
    assert deviations(before, after) == [
        "A on trap: expected pass, actual fail",
        "B on trap: expected fail, actual pass",
        "C on trap: expected skip, actual not run",
        "D on trap: expected no such case, actual pass",
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    path: Any = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no result of a run"):
        load_result(path)
    with pytest.raises(UsageError, match="is no result of a run"):
        load_result(tmp_path / "gone.json")
