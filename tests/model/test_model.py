"""The protocol's model, checked by spin: it holds, and each way to break it breaks a property."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

MODEL = Path(__file__).parents[2] / "docs" / "model"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("pvpmu_model_verify", MODEL / "verify.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


verify = _load()
RUNS = {run.name: run for run in verify.RUNS}
BOUNDED = [name for name, run in RUNS.items() if not run.full]
SOURCE = (MODEL / "pvpage.pml").read_text()
README = (MODEL / "README.md").read_text()


@pytest.mark.parametrize("name", BOUNDED)
def test_the_run_says_what_it_must(name: str, tmp_path: Path) -> None:
    if reason := verify.missing():
        pytest.skip(reason)
    run = RUNS[name]
    result = verify.search(run, tmp_path, timeout=300)
    assert not verify.as_expected(run, result), result.output
    assert result.mib < 2048


def test_the_plain_mistakes_are_among_the_broken_variants() -> None:
    plain = {
        "dirty-bitmap",
        "shared-status",
        "plain-ack",
        "re-raise",
        "no-import",
        "double-fetch",
        "commit-only-global-ctrl",
        "no-generation",
    }
    assert plain <= {name for name, run in RUNS.items() if run.violates}


def test_every_way_to_break_the_model_has_a_run() -> None:
    in_model = set(re.findall(r"ifn?def (BROKEN_\w+)", SOURCE))
    in_runs = set(re.findall(r"-D(BROKEN_\w+)", " ".join(run.macros for run in verify.RUNS)))
    assert in_model == in_runs


def test_the_readme_names_every_property_and_every_run() -> None:
    properties = set(re.findall(r"(?:CHECK|TRUTH)\((\w+),", SOURCE)) - {"property"}
    assert len(properties) >= 10
    for name in (*properties, *RUNS, *(run.claim for run in verify.RUNS if run.claim)):
        assert f"`{name}`" in README, name


def test_a_violation_that_is_not_the_expected_one_is_told() -> None:
    broken = RUNS["plain-ack"]
    result = verify.Result("", True, 1, 1, 1, 1.0, 1.0, "")
    assert "violates nothing, expected no_doubled_overflow" in verify.as_expected(broken, result)
    partial = verify.Result("", False, 1, 1, 1, 1.0, 1.0, "")
    assert "not complete" in verify.as_expected(RUNS["guest-and-host"], partial)
