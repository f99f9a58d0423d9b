"""``pvpmu whatif`` and ``pvpmu replay``: what they print, where, and with which status."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvpmu.cli import main
from pvpmu.trace import cli
from pvpmu.trace.cli import default_designs

DATA = Path(__file__).parent / "data"
MAIL = str(DATA / "mail_2021.txt")


@pytest.fixture
def trace(tmp_path: Path, short_runs: Any, render: Callable[..., bytes]) -> str:
    path = tmp_path / "trace.txt"
    path.write_bytes(render(short_runs))
    return str(path)


def refused(capsys: Any, *args: str) -> str:
    """The one error line of a command that must fail with status 2."""
    assert main(list(args)) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("pvpmu: error: ")
    assert errors.count("\n") == 1
    return str(errors)


def test_whatif_prints_the_table_and_nothing_on_standard_error(capsys: Any) -> None:
    assert main(["whatif", MAIL]) == 0
    output, errors = capsys.readouterr()
    assert "71,541" in output
    assert "8,503" in output
    assert errors == ""


def test_whatif_reads_standard_input(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO(gzip.compress(Path(MAIL).read_bytes()))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(packed))
    assert main(["whatif", "-"]) == 0
    assert capsys.readouterr().out.startswith("standard input: list, gzip, 29 lines")


def test_json_is_alone_on_standard_output_or_in_a_file(capsys: Any, tmp_path: Path) -> None:
    assert main(["whatif", MAIL, "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    path = tmp_path / "answer.json"
    assert main(["whatif", MAIL, "--json", str(path)]) == 0
    assert json.loads(path.read_text("utf-8")) == document
    assert "all exits" in capsys.readouterr().out


def test_designs_baseline_and_costs_can_be_chosen(capsys: Any) -> None:
    options = [
        "--design",
        "page",
        "--baseline",
        "trap-5.14",
        "--cost",
        "icx-2021-2p",
        "--json",
        "-",
    ]
    assert main(["whatif", MAIL, *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [design["name"] for design in document["designs"]] == ["page"]
    assert document["baseline"] == "trap-5.14"
    (model,) = document["designs"][0]["modelled"].values()
    # Against a host before is_paused there is more to save: 34.5 us more in 7,308 handlers.
    assert model["saved_ns"]["value"] > 200_000_000


def test_the_usual_columns_are_those_that_are_shipped() -> None:
    assert {"trap", "page"} <= set(default_designs()) <= set(cli._WANTED)


def test_a_figure_is_drawn_beside_the_table(capsys: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    path = tmp_path / "figure.png"
    assert main(["whatif", MAIL, "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_check_that_fails_is_status_1(
    capsys: Any, trace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvpmu.trace.document._checks", lambda _: [{"name": "x", "ok": False}])
    assert main(["whatif", trace]) == 1
    assert "check: x: FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("whatif", "nothing.txt"), "nothing.txt: cannot be read"),
        (("whatif", str(DATA)), "is a folder"),
        (("whatif", MAIL, "--design", "nope"), "unknown design 'nope'"),
        (("whatif", MAIL, "--baseline", "nope"), "unknown design 'nope'"),
        (("whatif", MAIL, "--cost", "nope"), "unknown cost model 'nope'"),
        (("whatif", MAIL, "--format", "nope"), "invalid choice: 'nope'"),
        (("whatif", MAIL, "--format", "bpftrace"), "no line of format bpftrace"),
        (("whatif", MAIL, "--json", "/nowhere/x"), "/nowhere/x: cannot be written"),
        (("whatif", MAIL, "--plot", "x.txt"), "cannot draw .txt"),
        (("whatif", MAIL, "--plot", "/nowhere/x.png"), "/nowhere/x.png: cannot be written"),
        (("whatif",), "FILE|-"),
        (("replay", MAIL), "a list has no sequence of accesses; replay needs events"),
        (("replay", str(DATA / "perf_script_real.txt")), "nothing to replay"),
        (("replay", MAIL, "--vcpus", "0"), "0 is outside 1..1024"),
    ],
)
def test_mistakes_are_one_line_with_status_2(args: tuple[str, ...], says: str, capsys: Any) -> None:
    assert says in refused(capsys, *args)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (os.urandom(5000) + b"\0", "is binary data"),
        (b"PERFILE2" + bytes(100), "is a perf.data file"),
        (b"x" * 100_000, "line 1 is longer than 16,384 bytes"),
        (gzip.compress(Path(MAIL).read_bytes())[:-4] + b"\0\0\0\0", "gzip data is damaged"),
        (Path(MAIL).read_bytes() + (DATA / "kvmexit.txt").read_bytes(), "lines of two formats"),
        # What damaged data unpack to is not worth a word.
        (
            gzip.compress(Path(MAIL).read_bytes() + (DATA / "kvmexit.txt").read_bytes())[:-8]
            + bytes(8),
            "gzip data is damaged",
        ),
        (b" CPU 0/KVM-1 [000] 5.000001: kvm_msr: what?\n", "no line of format events in 1 lines"),
    ],
)
@pytest.mark.parametrize("command", ["whatif", "replay"])
def test_bad_input_is_one_line_with_status_2(
    command: str, data: bytes, says: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "bad"
    path.write_bytes(data)
    assert says in refused(capsys, command, str(path))


@pytest.mark.parametrize(
    ("command", "option"), [("whatif", "--json"), ("whatif", "--plot"), ("replay", "--json")]
)
def test_the_trace_is_not_written_over(
    command: str, option: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "trace.svg"
    path.write_bytes(Path(MAIL).read_bytes())
    assert "is the trace itself" in refused(capsys, command, str(path), option, str(path))
    assert path.read_bytes() == Path(MAIL).read_bytes()


def test_a_bar_is_drawn_on_a_terminal_only(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, trace: str
) -> None:
    assert main(["whatif", trace]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    # However long the name of the temporary folder is.
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["whatif", trace]) == 0
    assert "trace.txt" in capsys.readouterr().err


def test_replay_inline_prints_the_exits_of_each_design(capsys: Any, trace: str) -> None:
    assert main(["replay", trace, "--transport", "inline"]) == 0
    output = capsys.readouterr().out
    row = next(line for line in output.splitlines() if line.startswith("PMU exits"))
    assert row.split()[-2:] == ["806", "88"]
    assert "FAILED" not in output


@pytest.mark.process
def test_replay_through_processes_makes_the_same_exits(capsys: Any, trace: str) -> None:
    found = []
    for transport in ("inline", "process"):
        options = ["--transport", transport, "--vcpus", "1", "--json", "-"]
        assert main(["replay", trace, *options]) == 0
        found.append(json.loads(capsys.readouterr().out))
    inline, process = found
    assert process["transport"] == "process"
    for one, other in zip(inline["designs"], process["designs"], strict=True):
        same = ("name", "accesses", "exits", "registers", "perf_calls_by", "pmis", "status_equal")
        assert {key: one[key] for key in same} == {key: other[key] for key in same}


def test_replay_takes_as_many_vcpus_as_it_is_told(capsys: Any, trace: str) -> None:
    options = ["--transport", "inline", "--vcpus", "1", "--design", "page", "--json", "-"]
    assert main(["replay", trace, *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [thread["vcpu"] for thread in document["threads"]] == [0]
    assert document["designs"][0]["pmu_exits"] == 44


def test_replay_of_more_vcpus_than_processes_take_says_what_to_do(
    capsys: Any, trace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "MAX_VCPUS", 1)
    line = refused(capsys, "replay", trace)
    assert line == (
        f"pvpmu: error: {trace}: 2 vCPUs to replay, processes take at most 1: replay the first N "
        "with --vcpus N, or all with --transport inline\n"
    )
