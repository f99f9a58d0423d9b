"""``pvpmu design``: what a user sees of a design."""

from __future__ import annotations

from pathlib import Path

import pytest  # noqa: TC002 (as the other tests have it)

from pvpmu.cli import main, run
from pvpmu.shared.design import design_names


def test_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["design", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == design_names()


def test_show_prints_every_setting_defaults_included(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["design", "show", "page-lean"]) == 0
    out = capsys.readouterr().out
    for line in ("host_freeze            entry-mask", "context_lock           per-call"):
        assert f"  {line}\n" in out


def test_diff_prints_what_differs_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["design", "diff", "page", "page-direct"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["pmi_path", "callback", "direct"]
    assert {line.split()[0].split(".")[0] for line in lines[2:]} <= {"sources", "leaves_out"}
    assert run(["design", "diff", "page", "page"]) == 0
    assert capsys.readouterr().out == ""


def test_check_says_file_line_and_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nsummary = "s"\nis_paused = true\npage = 3\n')
    assert main(["design", "check", str(path)]) == 2
    assert capsys.readouterr().err.endswith(
        f"{path}: line 4: field page: Expected `bool`, got `int`\n"
    )
    path.write_text('name = "mine"\nsummary = "s"\nis_paused = true\npage = false\n')
    assert main(["design", "check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: ok, design mine\n"
