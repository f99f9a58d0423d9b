"""``pvpmu sweep``: real processes, killed and interrupted, an engine, and a user's mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pvpmu.cli
from pvpmu.shared.errors import UsageError
from pvpmu.sweep import engine

from .conftest import grid_of, written

TIMEOUT_S = 300
GRID = ["--design", "trap", "page", "--vary", "seed=1..24", "--vary", "cost.exit_ns=1300,3110",
        "--set", "scenario.duration_us=20000"]  # fmt: skip
ROWS = 96
SMALL = ["--design", "trap", "page", "--vary", "events=1,4", "--set", "scenario.duration_us=2000"]


def sweep(path: Path, *args: str) -> int:
    return pvpmu.cli.main(["sweep", "--output", str(path), *args])


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The finished file's lines after its header, made without any process."""
    grid = grid_of("seed=1..24", "cost.exit_ns=1300,3110", settings=("scenario.duration_us=20000",))
    content = written(grid, tmp_path_factory.mktemp("expected") / "out.csv")
    lines = content.splitlines(keepends=True)[2:]
    assert len(lines) == 1 + ROWS
    return lines


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start the sweep of GRID in a session of its own and wait until its file has rows."""
    processes: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pvpmu.cli", "sweep", "--output", str(tmp_path / "o.csv")]
        process = subprocess.Popen(
            [*command, "--jobs", "2", *GRID],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if " of 96 points" in line and not line.startswith("pvpmu: 0 of"):
                break
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.process
def test_a_sweep_killed_in_the_middle_resumes_without_losing_or_repeating_a_point(
    tmp_path: Path, started: Callable[[], subprocess.Popen[str]], expected: list[bytes], capsys: Any
) -> None:
    path = tmp_path / "o.csv"
    process = started()
    process.kill()
    # Its workers hold the pipe: the end of it is the end of them.
    process.communicate(timeout=TIMEOUT_S)
    first = path.read_bytes()
    assert 4 <= first.count(b"\n") < 3 + ROWS
    path.write_bytes(first[:-7])
    assert sweep(path, *GRID) == 0
    assert path.read_bytes().splitlines(keepends=True)[2:] == expected
    kept = first[:-7].count(b"\n") - 3
    assert f"96 points, {ROWS - kept} of them new" in capsys.readouterr().out
    assert sweep(path, *GRID) == 0
    assert "96 points, 0 of them new" in capsys.readouterr().out


@pytest.mark.process
def test_an_interrupted_sweep_says_how_far_it_came_and_can_go_on(
    tmp_path: Path, started: Callable[[], subprocess.Popen[str]], expected: list[bytes]
) -> None:
    process = started()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGINT
    lines = (tmp_path / "o.csv").read_bytes().splitlines(keepends=True)[2:]
    assert 1 < len(lines) < len(expected)
    assert lines == expected[: len(lines)]
    assert f"holds {len(lines) - 1} of 96 points; the same command continues" in errors
    assert errors.endswith("pvpmu: interrupted\n")
    assert "Traceback" not in errors


@pytest.mark.process
def test_a_worker_that_dies_is_one_line(
    tmp_path: Path, started: Callable[[], subprocess.Popen[str]]
) -> None:
    process = started()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    workers = [pid for pid, command in commands.items() if b"spawn_main" in command]
    assert len(workers) == 2
    os.kill(int(workers[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "pvpmu: error: a worker ended in the middle" in errors
    assert "Traceback" not in errors


def test_dask_writes_the_same_file_as_local_processes(tmp_path: Path, capsys: Any) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    assert sweep(tmp_path / "local.csv", *SMALL, "--jobs", "1") == 0
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:
        options = ("--engine", "dask", "--scheduler", cluster.scheduler_address)
        assert sweep(tmp_path / "dask.csv", *SMALL, *options) == 0
    capsys.readouterr()
    local, dask = (
        (tmp_path / name).read_bytes().splitlines()[2:] for name in ("local.csv", "dask.csv")
    )
    assert dask == local
    assert len(local) == 1 + 4


def refused(capsys: Any, *args: str) -> str:
    status = pvpmu.cli.main(["sweep", *args])
    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert errors.startswith("pvpmu: error: ")
    assert errors.count("\n") == 1
    return str(errors)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "--output"),
        (("--vary", "hz=1"), "unknown parameter 'hz'; known: scenario, design"),
        (("--set", "scenario.hzz=1"), "scenario.hz"),
        (("--design", "nope"), "trap-5.14"),
        (("--scenario", "nope"), "br_instr-trace"),
        (("--cost", "nope"), "icx-2021-2p"),
        (("--grid", "/nonexistent"), "cannot be read"),
        (("--jobs", "0"), "0 is below 1"),
        (("--engine", "spark"), "dask"),
        (("--engine", "dask"), "needs --scheduler"),
        (("--scheduler", "tcp://127.0.0.1:1"), "needs an engine"),
        (("--scenario", "br_instr-trace", "--vary", "events=1,2"), "is a script"),
        (("--vary", "scenario.hz=1,1"), "given twice"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_no_file(
    tmp_path: Path, args: tuple[str, ...], says: str, capsys: Any
) -> None:
    path = tmp_path / "out.csv"
    output = ("--output", str(path)) if args else ()
    assert says in refused(capsys, *output, *args)
    assert not path.exists()


def test_a_file_of_another_grid_is_refused_with_what_made_it(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "out.csv"
    path.write_text("# pvpmu-sweep/1 grid 0123456789abcdef\n# pvpmu sweep --vary seed=1..9\n")
    line = refused(capsys, "--output", str(path), *SMALL)
    assert "holds the grid 0123456789abcdef" in line
    assert "made by pvpmu sweep --vary seed=1..9" in line


def test_dask_without_its_extra_names_the_extra(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    opened = engine.open_engine("dask", jobs=1, scheduler="tcp://127.0.0.1:1")
    with pytest.raises(UsageError, match=r"pip install 'pvpmu\[dask\]'"), opened:
        pass


def test_a_malformed_scheduler_is_refused(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    options = ("--engine", "dask", "--scheduler", "nonsense")
    assert "missing port" in refused(capsys, "--output", str(tmp_path / "o.csv"), *options)
