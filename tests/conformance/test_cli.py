"""``pvpmu conform``: what it prints, and with which exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvpmu.cli import main

WRONG = {
    "area": "OWN",
    "title": "mine",
    "vectors": [
        {
            "id": "OWN-01",
            "title": "status is 5",
            "clause": "mine",
            "ops": [{"op": "rd", "msr": "STATUS", "expect": 5}],
        }
    ],
}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own.json").write_text(json.dumps(WRONG))
    return folder


def _run(*args: Any) -> int:
    return main(["conform", *map(str, args)])


def test_a_run_that_passes_is_0(capsys: Any) -> None:
    assert _run("run", "RUN") == 0
    assert "33 pass" in capsys.readouterr().out


@pytest.mark.parametrize(("path", "count"), [("trap", 11), ("page", 22), ("both", 33)])
def test_a_path_is_chosen(capsys: Any, path: str, count: int) -> None:
    assert _run("run", "RUN", "--path", path) == 0
    assert f"{count} pass" in capsys.readouterr().out


def test_a_failure_is_1_and_tells_everything(mine: Path, capsys: Any) -> None:
    assert _run("run", "OWN", "--extra", mine) == 1
    out = capsys.readouterr().out
    assert "fail OWN-01 on trap: status is 5" in out
    assert "clause   mine" in out
    assert "op       0: rd expect=5 msr=STATUS" in out
    assert "expected 0x5" in out
    assert "actual   0x0" in out
    replay = (
        f"pvpmu conform run OWN-01 --target inline --path trap --profile kvm-5.14 --extra {mine}"
    )
    assert replay in out


def test_a_baseline_makes_only_deviations_fail(mine: Path, tmp_path: Path, capsys: Any) -> None:
    baseline = tmp_path / "base.json"
    assert _run("run", "OWN", "RUN-0*", "--extra", mine, "--json", baseline) == 1
    assert _run("run", "OWN", "RUN-0*", "--extra", mine, "--expect", baseline) == 0
    assert _run("run", "OWN", "--extra", mine, "--expect", baseline) == 0
    capsys.readouterr()
    assert _run("run", "RUN", "--expect", baseline) == 1
    assert "RUN-11 on trap: expected no such case, actual pass" in capsys.readouterr().err
    assert _run("run", "OWN", "--extra", mine, "--expect", baseline, "--path", "trap") == 2


def test_reports_are_written(tmp_path: Path) -> None:
    names = {"--json": "r.json", "--junit": "r.xml", "--tap": "r.tap", "--html": "r.html"}
    args = [word for flag, name in names.items() for word in (flag, tmp_path / name)]
    assert _run("run", "RUN-01", *args) == 0
    assert all((tmp_path / name).read_text() for name in names.values())


def test_a_report_can_go_to_standard_output_alone(capsys: Any) -> None:
    assert _run("run", "RUN-01", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["tally"]["pass"] == 3
    assert _run("run", "RUN-01", "--json", "-", "--tap", "-") == 2


@pytest.mark.parametrize(
    "args",
    [
        ["run", "NOPE"],
        ["run", "--target", "moon"],
        ["run", "--target", "adapter:"],
        ["run", "--target", "adapter:/nowhere/at-all"],
        ["run", "--timeout", "0"],
        ["run", "--timeout", "soon"],
        ["run", "--path", "air"],
        ["run", "--profile", "amd"],
        ["run", "--expect", "/gone.json"],
        ["run", "--json", "/gone/r.json"],
        ["run", "--html", "/"],
        ["run", "--extra", "/gone"],
        ["explain"],
        ["explain", "NOPE"],
        [],
    ],
)
def test_a_mistake_is_one_line_and_2(args: list[str], capsys: Any) -> None:
    assert _run(*args) == 2
    err = capsys.readouterr().err
    assert err.startswith("pvpmu: error: ")
    assert err.count("\n") == 1


def test_a_bad_vector_file_is_2(mine: Path, capsys: Any) -> None:
    (mine / "own.json").write_text("{")
    assert _run("run", "--extra", mine) == 2
    assert "own.json: field -: " in capsys.readouterr().err


def test_list_names_cases_and_what_is_out_of_scope(capsys: Any) -> None:
    assert _run("list", "OVF-08") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "OVF-08/a",
        "OVF-08/b",
    ]
    assert _run("run", "--list", "OVF-09") == 0
    assert capsys.readouterr().out.startswith("OVF-09 ")
    assert _run("list", "--out-of-scope") == 0
    out = capsys.readouterr().out
    assert "OPT-01   out of scope: PEBS is not modelled" in out
    assert "PVP-34   property in tests/conformance/test_random.py" in out


def test_explain_shows_the_case(capsys: Any) -> None:
    assert _run("explain", "OVF-08/a") == 0
    out = capsys.readouterr().out
    assert out.startswith("OVF-08/a: five overflows are five PMIs")
    assert "paths     trap, page, page+freeze" in out
    assert "        0 wr msr=GLOBAL_CTRL value=0" in out


def test_the_schemas_are_printed(capsys: Any) -> None:
    assert _run("schema") == 0
    assert json.loads(capsys.readouterr().out)["$defs"]["Vector"]
    assert _run("schema", "--adapter") == 0
    assert json.loads(capsys.readouterr().out)["$defs"]["Answer"]


def test_a_case_that_takes_longer_than_the_timeout_is_an_error(mine: Path, capsys: Any) -> None:
    ops = [{"op": "repeat", "times": 100_000, "do": [{"op": "rd", "msr": "STATUS"}]}]
    file = json.loads((mine / "own.json").read_text())
    file["vectors"][0]["ops"] = ops
    (mine / "own.json").write_text(json.dumps(file))
    assert _run("run", "OWN", "--extra", mine, "--timeout", "0.01", "--path", "trap") == 1
    assert "not done after 0.01 s" in capsys.readouterr().out


def test_run_can_list_or_explain_instead(capsys: Any) -> None:
    assert _run("run", "OVF-08/a", "--list") == 0
    assert capsys.readouterr().out.startswith("OVF-08/a   MUST")
    assert _run("run", "OVF-08/a", "--explain") == 0
    explained = capsys.readouterr().out
    assert _run("explain", "OVF-08/a") == 0
    assert capsys.readouterr().out == explained
