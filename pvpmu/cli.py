"""``pvpmu``: bench, conform, cost, design, sweep, whatif, replay, registers, abi and cleanup."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pvpmu import __version__
from pvpmu.abi.c import c_header
from pvpmu.bench.counted import Json
from pvpmu.bench.document import document
from pvpmu.bench.measure import BenchConfig, Progress, measure
from pvpmu.bench.reference import load_reference
from pvpmu.bench.vm import TRANSPORTS
from pvpmu.conformance.cli import add_commands
from pvpmu.cost.cli import add_commands as add_cost_commands
from pvpmu.cost.model import CostModel
from pvpmu.cost.shelf import DEFAULT as DEFAULT_COST
from pvpmu.cost.shelf import model_named, models_named
from pvpmu.designcli import add_commands as add_design_commands
from pvpmu.guest.scenario import Scenario, load_scenario, scenario_names
from pvpmu.report.plan import Asked
from pvpmu.report.write import folder_for, needs_extra, write_report
from pvpmu.shared import memory
from pvpmu.shared.design import ALL, DRIVERS, design_names, designs_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.layout import WORD_BYTES
from pvpmu.shared.page import WORD_OF
from pvpmu.shared.process import (
    PINS,
    CommandParser,
    at_least_one,
    integer,
    run_command,
    vcpu_count,
    writable,
)
from pvpmu.shared.registers import REGISTERS, register_named
from pvpmu.sweep.cli import add_command as add_sweep
from pvpmu.trace.cli import add_commands as add_trace_commands

_DEFAULT_DESIGNS = ("trap-5.14", "trap", "page")
_NO_CHARGE = "none"
_LANGUAGES = {"c": c_header}


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command("pvpmu", run, argv)


def run(argv: list[str]) -> int:
    """Run the command's body; raises its errors."""
    args = _parser().parse_args(argv, argparse.Namespace(argv=argv))
    command: Callable[[argparse.Namespace], int] = args.command
    return command(args)


def _parser() -> CommandParser:
    parser = CommandParser(prog="pvpmu", description="Design, measure and prove a paravirtual PMU.")
    parser.add_argument("--version", action="version", version=f"pvpmu {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
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
        f"(default: {' '.join(_DEFAULT_DESIGNS)})",
    )
    bench.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="process",
        help="host and guest as processes, or both inside this one (%(default)s)",
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
    bench.add_argument("--json", metavar="FILE|-", help="write the result there as JSON")
    bench.add_argument(
        "--report",
        metavar="DIR",
        help="write results.html, .md and .json there, with plots and CSV files; counts and "
        "measures more than the table needs (extra: report)",
    )
    add_commands(commands)
    add_cost_commands(commands)
    add_sweep(commands, _DEFAULT_DESIGNS)
    add_trace_commands(commands)
    add_design_commands(commands)
    registers = commands.add_parser(
        "registers",
        help="print the register table: names, addresses, rules, place in the page",
        description="Print the MSRs of the PMU: names, access, #GP and width rules, page word.",
    )
    registers.set_defaults(command=_registers)
    registers.add_argument(
        "name", nargs="*", metavar="NAME", help="Linux, trace or SDM name, or address (all)"
    )
    abi = commands.add_parser(
        "abi",
        help="print the page, slot and codes for a program in another language",
        description="Print the declarations of the protocol for a program in another language.",
    )
    abi.set_defaults(command=_abi)
    abi.add_argument("--lang", choices=_LANGUAGES, required=True, help="the language")
    abi.add_argument(
        "--output", default="-", metavar="FILE|-", help="write there (%(default)s: standard output)"
    )
    cleanup = commands.add_parser(
        "cleanup", help="remove shared memory and semaphores whose owners are dead"
    )
    cleanup.set_defaults(command=_cleanup)
    return parser


def _bench(args: argparse.Namespace) -> int:
    # rich takes longer to import than a worker takes to start; only this command needs it.
    from rich.console import Console  # noqa: PLC0415

    from pvpmu.bench.progress import progress_on  # noqa: PLC0415
    from pvpmu.bench.table import ENDLESS, print_result  # noqa: PLC0415

    scenario = load_scenario(args.scenario)
    scenario.configs(scenario.cpuid)
    designs = designs_named(args.design or _DEFAULT_DESIGNS)
    models = models_named(args.cost or [DEFAULT_COST])
    target = None if args.json is None or args.json == "-" else writable(Path(args.json))
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
    )
    reference = load_reference(scenario.reference)
    with progress_on(Console(stderr=True)) as progress:
        measured = measure(config, progress)
        result = document(config, measured, models, reference)
        if args.report is not None:
            _report(args, config, result, progress)
    text = json.dumps(result, indent=2) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
    else:
        if target is not None:
            target.write_text(text, "utf-8")
        screen = Console()
        fit = screen.width if screen.is_terminal else None
        print_result(result, Console(width=ENDLESS), fit)
    return 0 if all(check["ok"] for check in result["checks"]) else 1


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
        designs=args.design or _DEFAULT_DESIGNS,
        costs=args.cost or [DEFAULT_COST],
        seed=args.seed,
        driver=args.driver,
    )
    command = shlex.join(["pvpmu", *args.argv])
    evidence = gather(asked, config, result, command, folder_for(path), progress)
    for written in write_report(path, evidence):
        print(f"wrote {written}", file=sys.stderr)


def _registers(args: argparse.Namespace) -> int:
    for register in [register_named(name) for name in args.name] or REGISTERS:
        print(f"{register.address:#x} {register.name} ({register.access.value})")
        print(f"    trace {register.trace_name}; SDM {register.sdm}")
        print(f"    #GP: {register.gp_rule}")
        print(f"    width: {register.width_rule}")
        word = WORD_OF.get(register.address)
        if word is not None:
            print(f"    page: byte {word * WORD_BYTES:#x}")
    return 0


def _abi(args: argparse.Namespace) -> int:
    text = _LANGUAGES[args.lang]()
    if args.output == "-":
        sys.stdout.write(text)
    else:
        writable(Path(args.output)).write_text(text, "utf-8")
    return 0


def _cleanup(_: argparse.Namespace) -> int:
    removed, kept = memory.cleanup()
    for name in removed:
        print(f"removed {name}")
    print(f"{len(removed)} removed, {len(kept)} in use by live owners")
    return 0


if __name__ == "__main__":
    sys.exit(main())
