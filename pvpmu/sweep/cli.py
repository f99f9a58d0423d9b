"""``pvpmu sweep``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvpmu.cost.shelf import DEFAULT as DEFAULT_COST
from pvpmu.shared.design import ALL, DEFAULT_DESIGNS
from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import at_least_one, writable

if TYPE_CHECKING:
    from pvpmu.sweep.grid import Grid
    from pvpmu.sweep.store import SweepFile

_ENGINES = ("local", "dask")
_LINES = 20
"""Progress elsewhere than on a terminal: a line for each so many of the whole."""


def add_commands(commands: Any) -> None:  # argparse names the type privately
    """Add ``sweep`` to the subparsers of ``pvpmu``."""
    sweep = commands.add_parser(
        "sweep",
        help="count a grid of designs, scenarios and costs into a CSV file",
        description="Count every point of a grid, inline and untimed, a CSV row per point. "
        "The same command continues a file that is not finished. Parameters are described in "
        "docs/sweep.md; an unknown one is answered with those that exist.",
    )
    sweep.set_defaults(command=_sweep)
    sweep.add_argument("--output", required=True, metavar="FILE", help="the CSV file")
    sweep.add_argument("--grid", metavar="FILE", help="a grid as a TOML file; options replace it")
    for name, what in (
        ("scenario", "scenarios, names or TOML files (br_instr)"),
        ("design", f"designs, names, TOML files, or {ALL} ({' '.join(DEFAULT_DESIGNS)})"),
        ("cost", f"cost models, names, families or files (the first one of {DEFAULT_COST})"),
    ):
        sweep.add_argument(
            f"--{name}", nargs="+", action="extend", default=[], metavar="NAME", help=what
        )
    sweep.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one value for a parameter, such as scenario.duration_us=100000",
    )
    sweep.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="an axis: values and ranges, such as events=1..4,8 or cost.exit_ns=1300,3110",
    )
    sweep.add_argument(
        "--engine",
        choices=_ENGINES,
        default="local",
        help="processes here, or those of a running engine (%(default)s)",
    )
    sweep.add_argument(
        "--scheduler", default="", metavar="ADDRESS", help="of the engine, such as tcp://host:8786"
    )
    sweep.add_argument(
        "--jobs",
        type=at_least_one,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="local processes (%(default)s)",
    )


def _sweep(args: argparse.Namespace) -> int:
    # What simulates and what prints takes longer to import than any other command to run.
    from pvpmu.sweep.request import axes_of, command_axes, load_request, make_grid  # noqa: PLC0415
    from pvpmu.sweep.row import columns  # noqa: PLC0415
    from pvpmu.sweep.store import open_file  # noqa: PLC0415

    if (args.engine == "local") == bool(args.scheduler):
        raise UsageError(
            "--scheduler needs an engine that has one, --engine dask"
            if args.scheduler
            else f"--engine {args.engine} needs --scheduler ADDRESS"
        )
    files = {name: getattr(args, name) for name in ("scenario", "design", "cost")}
    axes = command_axes(files, args.set, args.vary)
    if args.grid is not None:
        axes = {**axes_of(load_request(Path(args.grid))), **axes}
    grid = make_grid(axes, DEFAULT_DESIGNS)
    path = writable(Path(args.output))
    names = (*grid.axes, *columns(next(grid.blocks()).resolved[0]))
    command = shlex.join(["pvpmu", *args.argv])
    with open_file(
        path, digest=grid.digest, command=command, columns=names, size=grid.size
    ) as file:
        before = file.rows
        if file.rows < grid.size:
            _run(args, grid, file, path)
    print(f"{path}: {grid.size:,} points, {grid.size - before:,} of them new")
    return 0


def _run(args: argparse.Namespace, grid: Grid, file: SweepFile, path: Path) -> None:
    from rich.console import Console  # noqa: PLC0415

    from pvpmu.bench.progress import progress_on  # noqa: PLC0415
    from pvpmu.sweep.engine import open_engine  # noqa: PLC0415
    from pvpmu.sweep.run import run_sweep  # noqa: PLC0415

    console = Console(stderr=True)
    with progress_on(console) as progress:

        def done(points: int) -> None:
            share = points / grid.size
            shown = points if console.is_terminal else int(share * _LINES) * grid.size // _LINES
            progress(share, f"{shown:,} of {grid.size:,} points")

        try:
            with open_engine(args.engine, jobs=args.jobs, scheduler=args.scheduler) as engine:
                done(file.rows)
                run_sweep(grid, file, engine, done)
        except BaseException:
            kept = file.kept()
            if 0 < kept < grid.size:
                line = f"pvpmu: {path} holds {kept:,} of {grid.size:,} points; "
                print(f"{line}the same command continues", file=sys.stderr)
            raise
