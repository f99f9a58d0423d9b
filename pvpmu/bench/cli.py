"""``pvpmu bench``."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from pvpmu.bench.counted import Json
from pvpmu.bench.document import document
from pvpmu.bench.measure import BenchConfig, Progress, measure
from pvpmu.bench.output import Output
from pvpmu.bench.realvm_run import TRANSPORT as VM_TRANSPORT
from pvpmu.bench.realvm_run import add_real_options, bench_real, refuse_real_options
from pvpmu.bench.recorded import tell
from pvpmu.bench.reference import load_reference
from pvpmu.bench.vm import TRANSPORTS
from pvpmu.cost.model import CostModel
from pvpmu.cost.shelf import DEFAULT as DEFAULT_COST
from pvpmu.cost.shelf import model_named, models_named
from pvpmu.guest.scenario import Scenario, load_scenario, scenario_names
from pvpmu.host.perfs import PERFS, check_perf
from pvpmu.recording.options import add_record_options, record_to
from pvpmu.report.plan import Asked
from pvpmu.report.write import folder_for, needs_extra, write_report
from pvpmu.shared.design import ALL, DEFAULT_DESIGNS, DRIVERS, design_names, designs_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import PINS, at_least_one, integer, vcpu_count, writing

_NO_CHARGE = "none"
"""Hosts start one after the other, and there may be many."""


def add_commands(commands: Any) -> None:  # argparse names the type privately
    """Add ``bench`` to the subparsers of ``pvpmu``."""
    bench = commands.add_parser(
        "bench",
        help="run designs side by side on one scenario and print the table",
        description="Run designs side by side on one scenario, in one run, and print the table. "
        "Exit status 1 when a check of the result fails.",
    )
    bench.set_defaults(command=_bench)
    bench.add_argument(
        "--scenario",
        default="br_instr",
        metavar="NAME|FILE",
        help=f"one of {', '.join(scenario_names())}, or a TOML file (%(default)s)",
    )
    bench.add_argument(
        "--design",
        nargs="+",
        action="extend",
        metavar="NAME|FILE",
        help=f"of {', '.join(design_names())}, or TOML files, or {ALL} for every shipped one "
        f"(default: {' '.join(DEFAULT_DESIGNS)})",
    )
    bench.add_argument(
        "--transport",
        choices=(*TRANSPORTS, VM_TRANSPORT),
        default="process",
        help="host and guest as processes, or both inside this one, or a real VM (%(default)s)",
    )
    bench.add_argument(
        "--driver",
        choices=DRIVERS,
        default=None,
        help="generation of the guest's driver (default: each design's own)",
    )
    bench.add_argument(
        "--vcpus", type=vcpu_count, metavar="N", help="(what the scenario says, mostly 1)"
    )
    bench.add_argument("--runs", type=at_least_one, default=1, metavar="N", help="(%(default)s)")
    bench.add_argument(
        "--seed", type=integer, default=1, metavar="N", help="of the programs (%(default)s)"
    )
    bench.add_argument(
        "--pin",
        choices=PINS,
        default="same",
        help="host and guest worker of a vCPU on the same CPU, on two, or anywhere (%(default)s)",
    )
    bench.add_argument(
        "--cost",
        action="append",
        metavar="NAME|FILE",
        help=f"cost model of the modelled ns; may be repeated (default: {DEFAULT_COST})",
    )
    bench.add_argument(
        "--charge",
        metavar="NAME|FILE",
        help="charge exits, perf calls and handlers to the guest clock as this cost model says, or "
        f"{_NO_CHARGE} (default: what the scenario says, mostly {_NO_CHARGE})",
    )
    add_record_options(bench)
    bench.add_argument(
        "--perf",
        choices=PERFS,
        default=PERFS[0],
        help="host perf of the model, or of the kernel, which is timed (%(default)s)",
    )
    add_real_options(bench)
    bench.add_argument("--json", metavar="FILE|-", help="write the result there as JSON")
    bench.add_argument(
        "--live",
        action="store_true",
        help="show the live view (pvpmu top) of all designs side by side; the table comes after it",
    )
    bench.add_argument(
        "--report",
        metavar="DIR",
        help="write results.html, .md and .json there, with plots and CSV files; counts and "
        "measures more than the table needs (extra: report)",
    )


def _bench(args: argparse.Namespace) -> int:
    # rich takes longer to import than a worker takes to start; only this command needs it.
    from rich.console import Console  # noqa: PLC0415

    from pvpmu.bench.progress import live_progress, progress_on  # noqa: PLC0415
    from pvpmu.bench.table import ENDLESS, print_result  # noqa: PLC0415

    if args.transport == VM_TRANSPORT:
        return bench_real(args)
    refuse_real_options(args)
    scenario = load_scenario(args.scenario)
    scenario.configs(scenario.cpuid)
    designs = designs_named(args.design or DEFAULT_DESIGNS)
    models = models_named(args.cost or [DEFAULT_COST])
    output = Output(args.json)
    if args.report is not None:
        needs_extra()
        folder_for(Path(args.report))
    config = BenchConfig(
        scenario=scenario,
        designs=designs,
        transport=args.transport,
        vcpus=args.vcpus or scenario.vcpus,
        runs=args.runs,
        seed=args.seed,
        pin=args.pin,
        clock=time.perf_counter_ns,
        charge=_charge(args.charge, scenario),
        driver=args.driver,
        record_to=record_to(args, args.json),
        live=args.live,
        perf=args.perf,
    )
    check_perf(config.perf, designs, recorded=config.record_to is not None)
    reference = load_reference(scenario.reference)
    with (
        # The view has the terminal; where there is none it prints a line now and then.
        live_progress(config.vm_names)
        if args.live
        else progress_on(Console(stderr=True)) as progress
    ):
        measured = measure(config, progress)
        result = document(config, measured, models, reference)
        if args.report is not None:
            _report(args, config, result, progress)
    if config.record_to is not None:
        tell(config.record_to, list(measured.recordings.values()))
    return output.give(result, print_result, ENDLESS)


def _charge(asked: str | None, scenario: Scenario) -> CostModel | None:
    """The cost model to charge: what was asked for, else the scenario's."""
    if asked is not None:
        return model_named(asked) if asked != _NO_CHARGE else None
    if not scenario.charge:
        return None
    try:
        return model_named(scenario.charge)
    except UsageError as error:
        raise UsageError(f"scenario {scenario.name}: field charge: {error}") from None


def _report(
    args: argparse.Namespace, config: BenchConfig, result: Json, progress: Progress
) -> None:
    from pvpmu.report.collect import gather  # noqa: PLC0415

    path = Path(args.report)
    asked = Asked(
        name=args.scenario,
        scenario=config.scenario,
        designs=args.design or DEFAULT_DESIGNS,
        costs=args.cost or [DEFAULT_COST],
        seed=args.seed,
        driver=args.driver,
    )
    command = shlex.join(["pvpmu", *args.argv])
    evidence = gather(asked, config, result, command, folder_for(path), progress)
    with writing(path):
        files = write_report(path, evidence)
    for written in files:
        print(f"wrote {written}", file=sys.stderr)
