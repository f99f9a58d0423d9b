"""``pvpmu bench --report``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pvpmu.cli

from ..test_cli import SHORT  # noqa: TID252 (tests are no package)


def test_a_report_is_pages_drawings_and_tables(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    scenario, out = tmp_path / "short.toml", tmp_path / "out"
    scenario.write_text(SHORT.replace("20_000", "2_000", 1))
    args = ["--scenario", str(scenario), "--transport", "inline", "--design", "page"]
    assert pvpmu.cli.main(["bench", *args, "--report", str(out)]) == 0
    errors = capsys.readouterr().err
    for end in ("html", "md", "json"):
        assert f"wrote {out}/results.{end}" in errors
    evidence = json.loads((out / "results.json").read_text())
    assert evidence["command"].startswith("pvpmu bench --scenario ")
    assert evidence["bench"]["scenario"] == "short"
    text = (out / "results.md").read_text()
    drawings = {path.stem for path in (out / "results").glob("*.svg")}
    assert {name for name in drawings if f"(results/{name}.svg)" in text} == drawings
    assert len(drawings) > 5
    tables = {path.stem for path in (out / "results").glob("*.csv")}
    assert tables == {"designs", *evidence["sweeps"]}
    for name, sweep in evidence["sweeps"].items():
        lines = (out / "results" / f"{name}.csv").read_text().splitlines()
        assert lines[1] == f"# {sweep['command']}"
        assert len(lines) == 3 + len(sweep["rows"])
        assert {row["scenario"] for row in sweep["rows"]} == {"short"}


def refused(capsys: Any, *args: str) -> str:
    assert pvpmu.cli.main(["bench", *args]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    return str(errors)


def test_without_the_extra_the_report_names_it(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'pvpmu[report]'" in refused(capsys, "--report", "/nonexistent/out")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    (tmp_path / "file").write_text("")
    assert "--report" in refused(capsys, "--report", str(tmp_path / "file"))


def test_no_command_loads_what_only_a_report_or_an_engine_needs() -> None:
    code = "import sys, pvpmu.cli; pvpmu.cli._parser([]); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert "pvpmu" in loaded
    assert not loaded & {"matplotlib", "numpy", "pandas", "distributed", "dask", "rich"}
