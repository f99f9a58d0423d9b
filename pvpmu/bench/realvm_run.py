"""``pvpmu bench --transport vm``: its options and its run."""

from __future__ import annotations

import argparse
import sys

from pvpmu.bench.output import Output
from pvpmu.bench.realvm import DEFAULT_DESIGNS, LINUX_DESIGNS, RealConfig, measure_real
from pvpmu.bench.realvm_document import real_document
from pvpmu.bench.recorded import tell
from pvpmu.cost.shelf import DEFAULT as DEFAULT_COST
from pvpmu.cost.shelf import models_named
from pvpmu.guest.scenario import load_scenario
from pvpmu.host.perfs import check_perf
from pvpmu.recording.options import record_to
from pvpmu.shared.design import ALL, Design, designs_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import at_least_one
from pvpmu.vm.serve import PERIODS
from pvpmu.vm.session import refuse_impossible, why_not

TRANSPORT = "vm"
_TURNS = 5
_PMIS = 1000
_MEANINGLESS = {
    "scenario": "br_instr",
    "driver": None,
    "vcpus": None,
    "charge": None,
    "report": None,
    "seed": 1,
}
"""Options of the other transports with their defaults: the VM runs one program of its own."""


def add_real_options(bench: argparse.ArgumentParser) -> None:
    """What only a real VM is asked."""
    group = bench.add_argument_group(f"with --transport {TRANSPORT}")
    group.add_argument(
        "--pmis",
        type=at_least_one,
        metavar="N",
        help=f"of each design and run, in {_TURNS} turns ({_PMIS:,})",
    )
    group.add_argument(
        "--period",
        type=at_least_one,
        metavar="N",
        help=f"branches from one PMI to the next ({PERIODS['model']}); with --perf linux cycles, "
        f"which are ns where there is no PMU ({PERIODS['linux']:,})",
    )
    group.add_argument(
        "--cpl",
        choices=("auto", "0", "3"),
        help="where driver and program run: 3 where this machine emulates CPL 0 (auto)",
    )


def refuse_real_options(args: argparse.Namespace) -> None:
    """With another transport: raises :class:`UsageError` for what only a real VM is asked."""
    for name in ("pmis", "period", "cpl"):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name}: only with --transport {TRANSPORT}")


def bench_real(args: argparse.Namespace) -> int:
    """Run it; returns the exit status."""
    # rich takes longer to import than a worker takes to start; only this command needs it.
    from rich.console import Console  # noqa: PLC0415

    from pvpmu.bench.progress import live_progress, progress_on  # noqa: PLC0415
    from pvpmu.bench.realvm_table import print_real  # noqa: PLC0415
    from pvpmu.bench.table import ENDLESS  # noqa: PLC0415

    _refuse_meaningless(args)
    designs = _designs(args.design, args.perf)
    check_perf(args.perf, designs, recorded=args.record is not None)
    models = models_named(args.cost or [DEFAULT_COST])
    output = Output(args.json)
    config = RealConfig(
        designs=designs,
        pmis=(args.pmis or _PMIS) * args.runs,
        period=args.period or PERIODS[args.perf],
        perf=args.perf,
        missing_events=load_scenario(args.scenario).missing_events,
        turns=_TURNS * args.runs,
        cpl=args.cpl or "auto",
        pin=args.pin,
        record_to=record_to(args, args.json),
        live=args.live,
    )
    with (
        # The view has the terminal; where there is none it prints a line now and then.
        live_progress(config.vm_names)
        if args.live
        else progress_on(Console(stderr=True)) as progress
    ):
        measured = measure_real(config, progress)
    result = real_document(config, measured, models)
    if config.record_to is not None and measured.recording is not None:
        tell(config.record_to, list(measured.recording.outcomes.values()))
    return output.give(result, print_real, ENDLESS)


def _refuse_meaningless(args: argparse.Namespace) -> None:
    for name, default in _MEANINGLESS.items():
        if name == "scenario" and args.perf == "linux":
            # It says what becomes of events that the machine lacks.
            continue
        if getattr(args, name) != default:
            also = "; with --perf linux its missing_events is heeded" if name == "scenario" else ""
            raise UsageError(
                f"--{name} means nothing with --transport {TRANSPORT}: the VM's guest runs one "
                f"program of its own (docs/vm.md){also}"
            )


def _designs(asked: list[str] | None, perf: str) -> list[Design]:
    """Those that were asked for; of "all" those that a real VM can have, naming the others."""
    designs = designs_named(asked or (LINUX_DESIGNS if perf == "linux" else DEFAULT_DESIGNS))
    if asked != [ALL]:
        for design in designs:
            refuse_impossible(design)
        return designs
    for design in designs:
        reason = why_not(design)
        if reason is not None:
            print(f"pvpmu bench: without {design.name}: {reason}", file=sys.stderr)
    return [design for design in designs if why_not(design) is None]
