"""What a sweep simulates, and that it resumes."""

from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pvpmu.bench.document import document
from pvpmu.bench.measure import BenchConfig, measure
from pvpmu.cost.shelf import models_named
from pvpmu.guest.scenario import load_scenario
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import PeerError, UsageError
from pvpmu.sweep.engine import Engine
from pvpmu.sweep.grid import Grid
from pvpmu.sweep.point import Task, simulate
from pvpmu.sweep.read import read_rows
from pvpmu.sweep.request import command_axes, make_grid
from pvpmu.sweep.run import run_sweep
from pvpmu.sweep.store import open_file

from .conftest import SETTINGS, Inline, grid_of, header_columns, written


def rows(content: bytes) -> list[dict[str, str]]:
    lines = [line for line in content.decode().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def test_every_point_is_there_once_and_in_order(grid: Grid, whole: bytes) -> None:
    found = rows(whole)
    assert [int(row["point"]) for row in found] == list(range(8))
    combinations = {(row["design"], row["events"], row["cost.exit_ns"]) for row in found}
    assert len(combinations) == 8


def test_points_that_differ_in_costs_share_a_simulation(grid: Grid, tmp_path: Path) -> None:
    executor = Inline()
    written(grid, tmp_path / "out.csv", executor)
    assert executor.submitted == 4


def test_a_sweep_stopped_after_any_row_gives_the_same_file(
    grid: Grid, whole: bytes, tmp_path: Path
) -> None:
    lines = whole.splitlines(keepends=True)
    for kept in range(3, len(lines) + 1):
        path = tmp_path / f"{kept}.csv"
        path.write_bytes(b"".join(lines[:kept]))
        executor = Inline()
        assert written(grid, path, executor) == whole
        missing = len(lines) - kept
        assert executor.submitted == (missing + 1) // 2


def test_a_point_counts_what_bench_counts() -> None:
    scenario = replace(load_scenario("br_instr"), duration_us=20_000)
    config = BenchConfig(
        scenario=scenario,
        designs=[design_named("trap"), design_named("page")],
        transport="inline",
        vcpus=2,
        runs=1,
        seed=4,
        pin="same",
        clock=time.perf_counter_ns,
    )
    models = models_named(["icx-2021-2p"])
    benched = document(config, measure(config, lambda _share, _label: None), models, None)
    settings = ("scenario.duration_us=20000", "seed=4", "scenario.vcpus=2")
    grid = grid_of(settings=settings)
    swept = {}
    for block in grid.blocks():
        (resolved,) = block.resolved
        task = Task(resolved.scenario, resolved.design, resolved.seed)
        swept[resolved.design.name] = simulate(task)
    for entry in benched["designs"]:
        totals = swept[entry["name"]]
        assert totals.samples_digest == entry["samples_digest"]
        assert totals.access_digest == entry["access_digest"]
        assert sum(totals.exits_host.values()) == entry["pmu_exits"]


def test_columns_say_what_the_document_says(whole: bytes) -> None:
    row = rows(whole)[-1]
    assert row["design"] == "page"
    assert row["events"] == "4"
    assert int(row["handlers"]) > 0
    assert float(row["exits_per_pmi"]) == 1
    assert row["exits_per_rotation"] == ""
    assert row["count_error"] == row["pmi_lost"] == "0"
    by_reason = sum(int(row[reason]) for reason in ("MSR_READ", "MSR_WRITE", "RDPMC"))
    assert by_reason == int(row["pmu_exits"])


def test_a_cost_changes_modelled_time_by_exits_alone(whole: bytes) -> None:
    cheap, dear = rows(whole)[:2]
    assert (cheap["cost.exit_ns"], dear["cost.exit_ns"]) == ("1300.0", "3110.0")
    assert cheap["samples_digest"] == dear["samples_digest"]
    more = float(dear["total_ns"]) - float(cheap["total_ns"])
    per_pmi = float(cheap["exits_per_pmi"]) + 1
    assert more == pytest.approx((3110 - 1300) * per_pmi, abs=0.5)


def test_all_work_counts_in_the_share_of_time(whole: bytes) -> None:
    for row in rows(whole):
        per_pmi = float(row["total_ns"]) * int(row["handlers"])
        assert float(row["work_ns_per_s"]) * 0.002 > per_pmi


def test_a_worker_of_another_version_is_refused() -> None:
    (block, *_) = grid_of().blocks()
    first = block.resolved[0]
    task = Task(first.scenario, first.design, first.seed, version="0")
    with pytest.raises(PeerError, match="expected 0"):
        simulate(task)


class Dying(Inline):
    """Loses its third simulation."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future = super().submit(fn, *args, **kwargs)
        if self.submitted == 3:
            future = type(future)()
            future.set_exception(ChildProcessError())
        return future


def test_a_lost_simulation_ends_the_sweep_and_keeps_what_came_before(
    grid: Grid, whole: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "out.csv"
    engine = Engine(Dying(), 1, (ChildProcessError,))
    names = header_columns(grid)
    opened = open_file(path, digest=grid.digest, command="a test", columns=names, size=8)
    with opened as file, pytest.raises(PeerError, match="a worker ended in the middle"):
        run_sweep(grid, file, engine, lambda _: None)
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[: 3 + 4])
    assert written(grid, path) == whole


def test_a_file_read_back_has_numbers_texts_and_nothing(grid: Grid, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    written(grid, path)
    rows = read_rows(path)
    assert [row["point"] for row in rows] == list(range(8))
    assert rows[0]["design"] == "trap"
    assert rows[0]["cost.exit_ns"] == 1300.0
    assert rows[0]["exits_per_rotation"] is None
    assert isinstance(rows[0]["samples_digest"], str)
    assert isinstance(rows[0]["total_ns"], float)


def test_costs_that_are_charged_are_simulated_each_for_itself(tmp_path: Path) -> None:
    executor = Inline()
    grid = grid_of("cost.exit_ns=0,200000", settings=(*SETTINGS, "charge=true"), designs=("trap",))
    written(grid, tmp_path / "out.csv", executor)
    free, dear = read_rows(tmp_path / "out.csv")
    assert executor.submitted == 2
    assert free["charged_ns"] < dear["charged_ns"]  # type: ignore[operator]
    assert free["samples"] > dear["samples"]  # type: ignore[operator]


def test_a_script_cannot_be_charged() -> None:
    with pytest.raises(UsageError, match="is a script"):
        make_grid(command_axes({"scenario": ["br_instr-trace"]}, ["charge=true"], []), ("trap",))


@pytest.mark.parametrize(("settings", "charged"), [((), True), (("charge=false",), False)])
def test_a_scenario_charges_what_it_says_unless_asked_otherwise(
    tmp_path: Path, settings: tuple[str, ...], charged: bool
) -> None:
    given = command_axes(
        {"scenario": ["throttled"], "design": ["page"]}, (*SETTINGS[:1], *settings), []
    )
    written(make_grid(given, ()), tmp_path / "out.csv")
    (row,) = read_rows(tmp_path / "out.csv")
    assert (row["charged_ns"] != 0) == charged
