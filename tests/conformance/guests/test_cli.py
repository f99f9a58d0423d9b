"""``pvpmu conform guest``: what it prints, and with which exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvpmu.cli import main


def _guest(*args: Any) -> int:
    return main(["conform", "guest", *map(str, args)])


def test_the_cases_are_listed(capsys: Any) -> None:
    assert _guest("--list", "GEN-3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["GEN-3/exit", "GEN-3/handler", "GEN-3"]
    assert _guest("--list") == 0
    assert len(capsys.readouterr().out.splitlines()) > 60


def test_a_case_is_explained(capsys: Any) -> None:
    assert _guest("--explain", "DSC-6/version", "GEN-3/handler", "GEN-3", "BND-10/slot") == 0
    out = capsys.readouterr().out
    assert "offer     versions = 0x302\n" in out
    assert "host      Likewise at an overflow's exit" in out
    assert "needs     one of GEN-3/exit, GEN-3/handler\n" in out
    assert "host      Its Welcome has slots of 512 bytes.\n" in out


@pytest.mark.process
@pytest.mark.parametrize(
    ("command", "expected", "actual"),
    [
        ("false {name}", "a guest that joins", "status 1, 0 lines of standard error"),
        ("sh -c 'kill -SEGV $$' {name}", "a guest that joins", "ended by SIGSEGV"),
        ("sh -c 'sleep 9; :' {name}", "Bye and status 0", "still running after 0.3 s"),
    ],
)
def test_a_guest_that_does_not_come_fails(
    command: str, expected: str, actual: str, tmp_path: Path, capsys: Any
) -> None:
    report = tmp_path / "r.json"
    words = ["FEA-9/page", "--command", command, "--timeout", "0.3"]
    assert _guest(*words, "--json", report) == 1
    out = capsys.readouterr().out
    assert "fail FEA-9/page on guest: takes its PMIs through the page" in out
    assert "clause   docs/protocol.md FEA-9" in out
    assert "replay   pvpmu conform guest FEA-9/page --command " in out
    (result,) = json.loads(report.read_text())["results"]
    assert result["failure"]["expected"] == expected
    assert actual in result["failure"]["actual"]
    assert _guest(*words, "--expect", report) == 0


@pytest.mark.parametrize(
    "args",
    [
        ["--command", "true"],
        ["--command", "no-such-program {name}"],
        ["--command", "'{name}"],
        ["NOPE-1"],
        ["--timeout", "0"],
        ["--vcpus", "0"],
        ["--gp", "99"],
        ["--json", "/"],
    ],
)
def test_a_mistake_is_one_line_and_2(args: list[str], capsys: Any) -> None:
    assert _guest(*args) == 2
    err = capsys.readouterr().err
    assert err.startswith("pvpmu: error: ")
    assert err.count("\n") == 1
