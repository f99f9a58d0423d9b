"""``pvpmu conform``: run, list, explain, schema."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pvpmu.conformance import checks
from pvpmu.conformance.catalogue import load_catalogue
from pvpmu.conformance.checks import DESIGN_HELP
from pvpmu.conformance.ops import AnyOp, inside, text_of
from pvpmu.conformance.vector import PROFILES, Vector, load_vectors, schema
from pvpmu.shared.design import Design, design_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import seconds, writable

if TYPE_CHECKING:
    from pvpmu.conformance.target import Target
    from pvpmu.conformance.verdict import RunResult

_TIMEOUT_S = 10.0
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
        help="inline, process, or adapter:COMMAND (%(default)s)",
    )
    run.add_argument("--design", metavar="NAME|FILE", help=DESIGN_HELP)
    run.add_argument(
        "--timeout",
        type=seconds,
        default=_TIMEOUT_S,
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
    run.add_argument("--strict", action="store_true", help="a SHOULD or MAY that fails is a fail")
    run.add_argument("--skips", action="store_true", help="print every skipped case")
    run.add_argument("--expect", metavar="FILE", help="a JSON result: only deviations from it fail")
    run.add_argument("--json", metavar="FILE|-", help="write the result as JSON")
    run.add_argument("--junit", metavar="FILE|-", help="write it as JUnit XML")
    run.add_argument("--tap", metavar="FILE|-", help="write it as TAP 14")
    run.add_argument("--html", metavar="FILE|-", help="write it as one HTML page")


def _run(args: argparse.Namespace) -> int:
    # Targets and rich take longer to load than list and explain take to run.
    from pvpmu.conformance import matrix, reports  # noqa: PLC0415
    from pvpmu.conformance.runner import RunConfig, Runner  # noqa: PLC0415
    from pvpmu.conformance.verdict import load_result  # noqa: PLC0415

    if not args.timeout:
        raise UsageError("--timeout: 0 s leaves no time for a case")
    vectors = _selected(args)
    if args.instead is not None:
        status: int = args.instead(vectors)
        return status
    baseline = load_result(Path(args.expect)) if args.expect else None
    if baseline is not None and baseline.path != args.path:
        raise UsageError(f"{args.expect}: was run with --path {baseline.path}, not {args.path}")
    makers: dict[str, Callable[[RunResult], str]] = {
        "json": reports.as_json,
        "junit": reports.as_junit,
        "tap": reports.as_tap,
        "html": matrix.as_html,
    }
    asked = {name: getattr(args, name) for name in makers if getattr(args, name)}
    if list(asked.values()).count("-") > 1:
        raise UsageError("only one report can go to standard output")
    for name in asked.values():
        if name != "-":
            writable(Path(name))
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
    for kind, name in asked.items():
        text = makers[kind](result)
        if name == "-":
            sys.stdout.write(text)
        else:
            Path(name).write_text(text, "utf-8")
    if "-" not in asked.values():
        _print(result, skips=args.skips)
    return _status(result, baseline, whole=not args.id)


def _status(result: RunResult, baseline: RunResult | None, *, whole: bool) -> int:
    """``whole``: every case was asked for, so that a case of the baseline may not be missing."""
    from pvpmu.conformance.verdict import deviations  # noqa: PLC0415

    if baseline is None:
        return 1 if result.failed else 0
    ran = {case.id for case in result.results}
    expected = [case for case in baseline.results if whole or case.id in ran]
    found = deviations(expected, result.results)
    for line in found:
        print(f"deviates: {line}", file=sys.stderr)
    return 1 if found else 0


def _print(result: RunResult, *, skips: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from pvpmu.conformance.console import print_run  # noqa: PLC0415

    print_run(result, Console(), skips=skips)


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
    raise UsageError(f"unknown target {name!r}; known: inline, process, adapter:COMMAND")


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
