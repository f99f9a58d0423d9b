"""``pvpmu conform``: run, list, explain, schema."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pvpmu.conformance import checks, output
from pvpmu.conformance.catalogue import load_catalogue
from pvpmu.conformance.checks import DESIGN_HELP
from pvpmu.conformance.guests import cli as guests
from pvpmu.conformance.limit import DEFAULT_S
from pvpmu.conformance.ops import AnyOp, inside, text_of
from pvpmu.conformance.vector import PROFILES, Vector, load_vectors, schema
from pvpmu.shared.design import Design, design_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import seconds

if TYPE_CHECKING:
    from pvpmu.conformance.target import Target

_PATHS = ("trap", "page", "both")
_EXTRA: dict[str, Any] = {
    "action": "append",
    "default": [],
    "metavar": "DIR",
    "help": "more vectors, *.json of that folder; may be repeated",
}


def add_commands(commands: Any) -> None:  # argparse names the type privately
    """Add ``conform`` to the subparsers of ``pvpmu``."""
    conform = commands.add_parser(
        "conform",
        help="run the conformance vectors against a target",
        description="The conformance kit. Exit status: 0 as expected, 1 a case fails (with "
        "--expect: deviates from the baseline), 2 the command line, a vector file or the target "
        "cannot be used.",
    )
    actions = conform.add_subparsers(metavar="ACTION", required=True)
    _add_run(actions)
    listing = actions.add_parser("list", help="list cases, or what is out of scope and why")
    listing.set_defaults(command=_list)
    _add_selection(listing)
    listing.add_argument(
        "--out-of-scope",
        action="store_true",
        help="cases of the public catalogue that are no vectors, with the reason",
    )
    explain = actions.add_parser("explain", help="print a case: requirement, clause, operations")
    explain.set_defaults(command=_explain)
    explain.add_argument("id", nargs="+", metavar="ID", help="id, or glob of ids")
    explain.add_argument("--extra", **_EXTRA)
    guests.add_commands(actions)
    checks.add_commands(actions)
    published = actions.add_parser("schema", help="print the JSON Schema of vector files")
    published.add_argument(
        "--adapter", action="store_true", help="that of an adapter's lines instead"
    )
    published.set_defaults(command=_schema)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="*", metavar="ID", help="ids, areas or globs of them (all)")
    parser.add_argument("--extra", **_EXTRA)


def _add_run(actions: Any) -> None:
    run = actions.add_parser("run", help="run cases and report")
    run.set_defaults(command=_run)
    _add_selection(run)
    instead = run.add_mutually_exclusive_group()
    for option, function, what in (
        ("--list", _print_list, "print what would run, as conform list does"),
        ("--explain", _print_cases, "print what it does, as conform explain does"),
    ):
        instead.add_argument(
            option, action="store_const", const=function, dest="instead", help=what
        )
    run.add_argument(
        "--target",
        default="inline",
        metavar="TARGET",
        help="inline, process, vm (a real one), or adapter:COMMAND (%(default)s)",
    )
    run.add_argument("--design", metavar="NAME|FILE", help=DESIGN_HELP)
    run.add_argument(
        "--timeout",
        type=seconds,
        default=DEFAULT_S,
        metavar="S",
        help="time limit of a case on one path (%(default)g s)",
    )
    run.add_argument(
        "--path",
        choices=_PATHS,
        default="both",
        help="without a page, with one, or both in comparison (%(default)s)",
    )
    run.add_argument(
        "--profile",
        choices=PROFILES,
        default="",
        help="run in this profile only (default: the target's first that a case holds in)",
    )
    output.add_options(run)


def _run(args: argparse.Namespace) -> int:
    # Targets take longer to load than list and explain take to run.
    from pvpmu.conformance.runner import RunConfig, Runner  # noqa: PLC0415

    if not args.timeout:
        raise UsageError("--timeout: 0 s leaves no time for a case")
    vectors = _selected(args)
    if args.instead is not None:
        status: int = args.instead(vectors)
        return status
    wanted = output.Output(args, path=args.path)
    design = design_named(args.design) if args.design else None
    config = RunConfig(
        path=args.path,
        profile=args.profile,
        strict=args.strict,
        target=args.target,
        design=args.design or "",
        gives_up=design.gives_up if design is not None else {},
        extra=tuple(args.extra),
        limit_s=args.timeout,
    )
    runner = Runner(_opener(args.target, args.timeout, design), config)
    try:
        result = runner.run(vectors)
    finally:
        runner.close()
    return wanted.give(result)


def _opener(name: str, limit_s: float, design: Design | None) -> Callable[[], Target]:
    """How to open a target that the command line names."""
    if name == "inline":
        from pvpmu.conformance.inline import InlineTarget  # noqa: PLC0415

        return lambda: InlineTarget(design)
    if name == "process":
        from pvpmu.conformance.process import ProcessTarget  # noqa: PLC0415

        return lambda: ProcessTarget(limit_s, design)
    kind, _, command = name.partition(":")
    if kind == "adapter" and design is not None:
        raise UsageError(f"--design {design.name}: an adapter has a design of its own")
    if kind == "adapter":
        from pvpmu.conformance.adapter import AdapterTarget  # noqa: PLC0415

        return lambda: AdapterTarget(command, limit_s)
    if name == "vm":
        from pvpmu.conformance.realvm import RealTarget  # noqa: PLC0415

        return lambda: RealTarget(limit_s, design)
    raise UsageError(f"unknown target {name!r}; known: inline, process, vm, adapter:COMMAND")


def _selected(args: argparse.Namespace) -> list[Vector]:
    from pvpmu.conformance.runner import select  # noqa: PLC0415

    return select(load_vectors(Path(folder) for folder in args.extra), args.id)


def _list(args: argparse.Namespace) -> int:
    if args.out_of_scope:
        catalogue = load_catalogue()
        for case in catalogue.out_of_scope:
            print(f"{case.id:<8} out of scope: {case.reason}")
        for each in catalogue.properties:
            print(f"{each.id:<8} property in {each.test}: {each.why}")
        return 0
    return _print_list(_selected(args))


def _print_list(vectors: list[Vector]) -> int:
    for vector in vectors:
        print(f"{vector.id:<10} {vector.level:<6} {vector.title}")
    return 0


def _explain(args: argparse.Namespace) -> int:
    return _print_cases(_selected(args))


def _print_cases(vectors: list[Vector]) -> int:
    for vector in vectors:
        print(f"{vector.id}: {vector.title}")
        print(f"  clause    {vector.source} ({vector.level})")
        print(f"  profiles  {', '.join(vector.profiles)}")
        print(f"  paths     {', '.join(vector.runs_on())}")
        needs = frozenset[str]().union(*(vector.needs(path) for path in vector.runs_on()))
        print(f"  needs     {', '.join(sorted(needs)) or 'nothing special'}")
        config = json.dumps(msgspec.to_builtins(vector.config))
        print(f"  config    {config}")
        if vector.note:
            print(f"  note      {vector.note}")
        _print_ops(vector.ops, "  ")
    return 0


def _schema(args: argparse.Namespace) -> int:
    from pvpmu.conformance.lines import lines_schema  # noqa: PLC0415

    sys.stdout.write((lines_schema() if args.adapter else schema()).decode())
    return 0


def _print_ops(operations: tuple[AnyOp, ...], indent: str) -> None:
    for number, op in enumerate(operations):
        print(f"{indent}{number:>3} {text_of(op)}")
        _print_ops(inside(op), indent + "    ")
