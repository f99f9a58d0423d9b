"""Small grids, an engine without processes, and a file to write to."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from pvpmu.shared.errors import PvpmuError
from pvpmu.sweep.engine import Engine
from pvpmu.sweep.grid import Axes, Grid
from pvpmu.sweep.request import command_axes, make_grid
from pvpmu.sweep.row import columns
from pvpmu.sweep.run import run_sweep
from pvpmu.sweep.store import open_file

VARIED = ("events=1,4", "cost.exit_ns=1300,3110")
SETTINGS = ("scenario.duration_us=2000", "scenario.switch_us=0")


class Inline(Executor):
    """Runs what is submitted at once; ``submitted`` counts."""

    def __init__(self) -> None:
        self.submitted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except PvpmuError as error:
            future.set_exception(error)
        return future


def axes(
    *varied: str, settings: tuple[str, ...] = SETTINGS, designs: tuple[str, ...] = ("trap", "page")
) -> Axes:
    return command_axes({"scenario": (), "design": designs, "cost": ()}, settings, varied)


def grid_of(*varied: str, **more: Any) -> Grid:
    return make_grid(axes(*varied, **more), ("trap",))


def header_columns(grid: Grid) -> tuple[str, ...]:
    return (*grid.axes, *columns(next(grid.blocks()).resolved[0]))


def written(grid: Grid, path: Path, executor: Executor | None = None) -> bytes:
    """Run what ``path`` lacks of ``grid``, inline; returns the file's bytes."""
    engine = Engine(executor or Inline(), 1, ())
    names = header_columns(grid)
    with open_file(
        path, digest=grid.digest, command="a test", columns=names, size=grid.size
    ) as file:
        run_sweep(grid, file, engine, lambda _: None)
    return path.read_bytes()


@pytest.fixture(scope="session")
def grid() -> Grid:
    """Two designs, two numbers of events, two exit costs: eight points, four simulations."""
    return grid_of(*VARIED)


@pytest.fixture(scope="session")
def whole(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The finished file of :func:`grid`."""
    return written(grid, tmp_path_factory.mktemp("sweep") / "whole.csv")
