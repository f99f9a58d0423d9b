"""``pvpmu whatif`` and ``pvpmu replay``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvpmu.bench.progress import progress_on
from pvpmu.bench.vm import TRANSPORTS
from pvpmu.cost.shelf import DEFAULT as DEFAULT_COST
from pvpmu.cost.shelf import models_named
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import ALL, design_named, design_names, designs_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import MAX_VCPUS, PINS, vcpu_count, writable, writing
from pvpmu.trace import plot
from pvpmu.trace.analysis import analyse
from pvpmu.trace.document import document
from pvpmu.trace.reading import FORMATS, read_trace
from pvpmu.trace.replay import ReplayConfig, Spools, replay
from pvpmu.trace.replay_document import replay_document
from pvpmu.trace.source import Source, open_source

if TYPE_CHECKING:
    from rich.console import Console

_BASELINE = "trap"
_WANTED = ("trap", "page", "page-lean", "xen-style", "mediated")
_REPLAYED = ("trap", "page")
_LABELS_WIDTH, _DESIGN_WIDTH = 58, 20


def default_designs() -> list[str]:
    """Those of the usual columns that are shipped."""
    return [name for name in _WANTED if name in design_names()]


def add_commands(commands: Any) -> None:  # argparse names the type privately
    """Add ``whatif`` and ``replay`` to the subparsers of ``pvpmu``."""
    whatif = commands.add_parser(
        "whatif",
        help="read a trace of another guest and say which of its exits a design would leave",
        description="Read a kernel's trace, a table or a list of exits, find what the guest's PMU "
        "driver was doing, and say per design which exits remain and what time that saves "
        "(docs/traces.md). Exit status 1 when a check of the answer fails.",
    )
    whatif.set_defaults(command=_whatif)
    _add_input(whatif)
    whatif.add_argument(
        "--design",
        nargs="+",
        action="extend",
        metavar="NAME|FILE",
        help=f"of {', '.join(design_names())}, {ALL}, or TOML files "
        f"(default: {' '.join(default_designs())})",
    )
    whatif.add_argument(
        "--baseline",
        default=_BASELINE,
        metavar="NAME|FILE",
        help="the design that time is saved against: that of the traced host (%(default)s)",
    )
    whatif.add_argument(
        "--cost",
        action="append",
        metavar="NAME|FILE",
        help=f"cost model of the modelled time; may be repeated (default: {DEFAULT_COST})",
    )
    whatif.add_argument("--json", metavar="FILE|-", help="write the answer there as JSON")
    whatif.add_argument(
        "--plot",
        metavar="FILE",
        help=f"draw the answer there ({', '.join(plot.FORMATS)}); needs the extra report",
    )

    replay = commands.add_parser(
        "replay",
        help="feed a trace's PMU accesses through host and guest and count the exits",
        description="Play the PMU accesses of an event trace on live hosts and guests, one vCPU "
        "for each of the trace's, once for each design (docs/traces.md). Exit status 1 when a "
        "check of the result fails.",
    )
    replay.set_defaults(command=_replay)
    _add_input(replay)
    replay.add_argument(
        "--design",
        nargs="+",
        action="extend",
        metavar="NAME|FILE",
        help=f"of {', '.join(design_names())}, {ALL}, or TOML files "
        f"(default: {' '.join(_REPLAYED)})",
    )
    replay.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="process",
        help="host and guest as processes, or both inside this one (%(default)s)",
    )
    replay.add_argument(
        "--pin",
        choices=PINS,
        default="same",
        help="host and guest worker of a vCPU on the same CPU, on two, or anywhere (%(default)s)",
    )
    replay.add_argument(
        "--vcpus",
        type=vcpu_count,
        metavar="N",
        help="replay the first N vCPUs of the trace only (all)",
    )
    replay.add_argument("--json", metavar="FILE|-", help="write the result there as JSON")


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE|-", help="the trace, also gzip or zstd; - for a pipe")
    parser.add_argument(
        "--format", choices=FORMATS, help="what the input is (default: found out from its lines)"
    )


def _whatif(args: argparse.Namespace) -> int:
    # rich takes longer to import than a small trace takes to read.
    from rich.console import Console  # noqa: PLC0415

    from pvpmu.trace.table import print_answer  # noqa: PLC0415

    designs = designs_named(args.design or default_designs())
    baseline = design_named(args.baseline)
    models = models_named(args.cost or [DEFAULT_COST])
    target = _target(args.json)
    picture = None if args.plot is None else Path(args.plot)
    if picture is not None:
        plot.check(picture)
        writable(picture)
    _keep(args.file, target, picture)
    with open_source(args.file) as source, _progress(Console(stderr=True), source) as progress:
        trace = read_trace(source, wanted=args.format, on_progress=progress)
    answer = document(source, analyse(trace, designs, baseline), models)
    if picture is not None:
        plot.draw(answer, picture)
    if not _write(args.json, target, answer):
        print_answer(answer, Console(width=_width(len(designs))))
    return 0 if all(check["ok"] for check in answer["checks"]) else 1


def _replay(args: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from pvpmu.trace.table import print_replay  # noqa: PLC0415

    designs = designs_named(args.design or _REPLAYED)
    target = _target(args.json)
    _keep(args.file, target)
    cpuid = PmuCpuid()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="pvpmu-replay-") as folder:
        spools = Spools(Path(folder))
        with open_source(args.file) as source, _progress(console, source) as progress:
            trace = read_trace(
                source, wanted=args.format, sink_of=spools.sink_of, on_progress=progress
            )
        if trace.events is None:
            raise UsageError(
                f"{source.name}: a {trace.format} has no sequence of accesses; replay needs events"
            )
        try:
            threads = spools.threads(trace.events, cpuid)[: args.vcpus]
        except UsageError as error:
            raise UsageError(f"{source.name}: {error}") from None
        if args.transport == "process" and len(threads) > MAX_VCPUS:
            raise UsageError(
                f"{source.name}: {len(threads):,} vCPUs to replay, processes take at most "
                f"{MAX_VCPUS:,}: replay the first N with --vcpus N, or all with --transport inline"
            )
        config = ReplayConfig(
            threads, designs, args.transport, args.pin, cpuid, time.perf_counter_ns
        )
        with progress_on(console) as on_replay:
            replayed = replay(config, on_replay)
        result = replay_document(source, trace, config, replayed)
    if not _write(args.json, target, result):
        print_replay(result, Console(width=_width(len(designs))))
    return 0 if all(check["ok"] for check in result["checks"]) else 1


def _width(designs: int) -> int:
    """Columns for the tables: a long line is better than a cut number."""
    from rich.console import Console  # noqa: PLC0415

    return max(Console().width, _LABELS_WIDTH + _DESIGN_WIDTH * designs)


def _target(given: str | None) -> Path | None:
    """The file that ``--json`` names; None for none, or for standard output."""
    return None if given is None or given == "-" else writable(Path(given))


def _keep(trace: str, *targets: Path | None) -> None:
    """Refuse to write over the trace."""
    for target in targets:
        there = target is not None and target.exists() and Path(trace).exists()
        if target is not None and there and target.samefile(trace):
            raise UsageError(f"{target}: is the trace itself, which it would overwrite")


def _write(given: str | None, target: Path | None, result: dict[str, Any]) -> bool:
    """Write what ``--json`` asks for; returns whether standard output holds it alone."""
    text = json.dumps(result, indent=2) + "\n"
    if target is not None:
        with writing(target):
            target.write_text(text, "utf-8")
    elif given == "-":
        sys.stdout.write(text)
    return given == "-"


@contextlib.contextmanager
def _progress(console: Console, source: Source) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not console.is_terminal:
        yield lambda _: None
        return
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
               TransferSpeedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(source.name, total=source.size)
        yield lambda position: bar.update(task, completed=position)
