"""``pvpmu cost`` and ``pvpmu calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pvpmu.cli
from pvpmu.cost.file import Range
from pvpmu.cost.shelf import model_in

from .test_file import PLAIN


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "pvpmu" / "costs"


def run(capsys: Any, *args: str) -> str:
    assert pvpmu.cli.main(list(args)) == 0
    return str(capsys.readouterr().out)


def refused(capsys: Any, *args: str) -> str:
    assert pvpmu.cli.main(list(args)) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    return str(errors)


def test_list_has_a_line_for_each_model(capsys: Any, own: Path) -> None:
    lines = run(capsys, "cost", "list").splitlines()
    assert lines[0].startswith("icx-2021-2p (icx-2021): two parameters")
    assert lines[-1] == "here: not there yet, `pvpmu calibrate` writes it"
    own.mkdir(parents=True)
    (own / "mine.toml").write_text(PLAIN)
    assert "mine: a server" in run(capsys, "cost", "list").splitlines()


def test_show_prints_costs_ranges_and_where_they_come_from(capsys: Any) -> None:
    text = run(capsys, "cost", "show", "icx-2021")
    rows = [line.split() for line in text.splitlines()]
    assert ["exit_ns", "3,110.8", "ns", "2,359.7..3,110.8", "fitted"] in rows
    assert ["guest_ns", "2,000.0", "ns", "0.0..4,000.0", "assumed"] in rows
    assert "gives back 32,929.3 ns per NMI handler with is_paused (trap)" in text


def test_check_says_ok_or_what_is_wrong(capsys: Any, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(PLAIN)
    bad.write_text(PLAIN.replace("exit_ns = 1200", "exit_ns = -1200"))
    assert run(capsys, "cost", "check", str(good)) == f"{good}: ok, cost model mine\n"
    line = refused(capsys, "cost", "check", str(bad))
    assert f"{bad}: line 6: field costs.exit_ns: exit_ns -1200 ns is outside 0.." in line
    assert "No such file" in refused(capsys, "cost", "check", str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["cost"], "ACTION"),
        (["cost", "show", "nope"], "icx-2021-2p"),
        (["bench", "--cost", "nope"], "icx-2021-2p"),
        (["calibrate", "--rounds", "9"], "9 is below 10"),
        (["calibrate", "--out", "/nonexistent/file"], "cannot be written"),
        (["calibrate", "--out", "/"], "is a folder"),
    ],
)
def test_a_users_mistake_is_one_line(args: list[str], says: str, capsys: Any) -> None:
    assert says in refused(capsys, *args)


@pytest.mark.process
def test_a_calibration_is_found_as_here(capsys: Any, own: Path) -> None:
    said = run(capsys, "calibrate", "--rounds", "10")
    assert f"written to {own / 'here.toml'}" in said
    model = model_in(own / "here.toml")
    exits = model.file.costs.exit_ns
    assert isinstance(exits, Range)
    # The hand-over is part of the exit.
    assert exits.high > float(model.file.environment["bare_round_trip_p10_ns"]) > 0
    assert "measured here: p50" in run(capsys, "cost", "show", "here")


@pytest.mark.process
def test_a_real_vm_is_calibrated_where_there_is_one(
    real_vm: None, capsys: Any, tmp_path: Path
) -> None:
    out = tmp_path / "here.toml"
    said = run(capsys, "calibrate", "--rounds", "10", "--transport", "vm", "--out", str(out))
    assert "exit_ns " in said
    file = model_in(out).file
    assert isinstance(file.costs.exit_ns, Range)
    assert file.costs.exit_ns.source.endswith("exits of a real VM")
    assert float(file.environment["empty_exit_p50_ns"]) > 0
    assert file.environment["kvm"]
