"""``pvpmu cost``: list, show, check; ``pvpmu calibrate``."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import time
from pathlib import Path
from typing import Any

from pvpmu.bench.environment import environment
from pvpmu.bench.vm import VmConfig, open_vm
from pvpmu.cost.calibrate import LEAST_ROUNDS, RealCosts, here_file
from pvpmu.cost.file import load_cost_file
from pvpmu.cost.model import CostModel
from pvpmu.cost.shelf import (
    DEFAULT,
    HERE,
    model_in,
    models_named,
    own_folder,
    own_names,
    shipped_models,
)
from pvpmu.guest.latency import LatencyJob
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import at_least_one, writing

_ROUNDS = 100
_BOTH_CARRIED = "perf calls and the guest's work"
_BATCH = 40


def add_commands(commands: Any) -> None:  # argparse names the type privately
    """Add ``cost`` and ``calibrate`` to the subparsers of ``pvpmu``."""
    cost = commands.add_parser(
        "cost",
        help="list, show and check cost models",
        description="Cost models say what counted exits and perf calls take; docs/costs.md.",
    )
    actions = cost.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the shipped models and those of this user")
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", help="a model's costs, their ranges and where they come from")
    show.set_defaults(command=_show)
    show.add_argument("name", nargs="+", metavar="NAME|FILE", help="a model, a family, a file")
    check = actions.add_parser("check", help="read model files; say what is wrong with one")
    check.set_defaults(command=_check)
    check.add_argument("file", nargs="+", type=Path, metavar="FILE")
    calibrate = commands.add_parser(
        "calibrate",
        help="measure this machine and write its cost model",
        description="Measure an exit on this machine and write a cost model file for --cost here. "
        "Perf calls and the guest's work are carried over from a shipped model, as the file says.",
    )
    calibrate.set_defaults(command=_calibrate)
    calibrate.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"write there (default: {HERE}.toml in $XDG_DATA_HOME/pvpmu/costs)",
    )
    calibrate.add_argument(
        "--transport",
        choices=("process", "vm"),
        default="process",
        help="what an exit is: a hand-over between processes, or an MSR access of a real VM, with "
        "perf calls of the kernel's (%(default)s)",
    )
    calibrate.add_argument(
        "--rounds",
        type=at_least_one,
        default=_ROUNDS,
        metavar="N",
        help=f"batches of exits to time, at least {LEAST_ROUNDS} (%(default)s)",
    )


def _list(_: argparse.Namespace) -> int:
    models = [*shipped_models(), *models_named(own_names())]
    for model in models:
        family = f" ({model.file.family})" if model.file.family else ""
        print(f"{model.name}{family}: {model.file.summary}")
    if HERE not in {model.name for model in models}:
        print(f"{HERE}: not there yet, `pvpmu calibrate` writes it")
    return 0


def _show(args: argparse.Namespace) -> int:
    for model in models_named(args.name):
        print(f"{model.name}: {model.file.summary}")
        print(f"  source: {model.file.source}")
        for name, cost in model.described()["costs"].items():
            figure = f"{cost['value']:,.1f}"
            ends = f"{cost['low']:,.1f}..{cost['high']:,.1f}"
            print(f"  {name:<18}{figure:>10} ns  {ends:<19} {cost['from']}")
        for measured in model.file.measurements:
            print(f"  gives back {measured.handler_ns:,.1f} ns per NMI handler {measured.what}")
        for fact, value in model.file.environment.items():
            print(f"  {fact}: {value}")
    return 0


def _check(args: argparse.Namespace) -> int:
    for path in args.file:
        print(f"{path}: ok, cost model {model_in(path).name}")
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    if args.rounds < LEAST_ROUNDS:
        raise UsageError(f"--rounds: {args.rounds} is below {LEAST_ROUNDS}, which deciles need")
    target = args.out or own_folder() / f"{HERE}.toml"
    _prepare(target, make_folder=args.out is None)
    config = VmConfig(
        name=f"calibrate-{os.getpid()}", design=design_named("trap"), cpuid=PmuCpuid(), pin="same"
    )
    job = LatencyJob(time.perf_counter_ns, rounds=args.rounds, exit_batch=_BATCH)
    with open_vm(config, "process") as vm:
        (report,) = vm.run([job])
    date = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    carried = models_named([DEFAULT])
    real = _real() if args.transport == "vm" else None
    text = here_file(report, carried, environment(), date=date, batch=_BATCH, real=real)
    model = CostModel.of(load_cost_file(text, str(target)))
    with writing(target):
        target.write_text(text, "utf-8")
    exit_cost = model.described()["costs"]["exit_ns"]
    facts = model.file.environment
    print(
        f"exit {exit_cost['value']:,.0f} ns ({exit_cost['low']:,.0f}..{exit_cost['high']:,.0f}), "
        f"bare round trip {facts['bare_round_trip_p50_ns']:,.0f} ns"
    )
    if real is not None:
        for name in real.costs:
            found = model.described()["costs"][name]
            print(f"{name} {found['value']:,.0f} ({found['low']:,.0f}..{found['high']:,.0f})")
        for fact, value in real.facts.items():
            print(f"  {fact}: {value}")
    what = "the guest's work" if real is not None and real.calls else _BOTH_CARRIED
    print(f"carried over from {DEFAULT}, not measured: {what}")
    print(f"written to {target}")
    return 0


def _real() -> RealCosts:
    from pvpmu.cost.realvm import real_costs  # noqa: PLC0415

    return real_costs()


def _prepare(target: Path, *, make_folder: bool) -> None:
    """Find out before measuring that the file cannot be written."""
    if make_folder:
        target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise UsageError(f"{target}: is a folder, expected a file")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise UsageError(f"{target}: cannot be written")
