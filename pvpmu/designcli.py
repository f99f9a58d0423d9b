"""``pvpmu design``: list, show, check and diff designs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pvpmu.shared.design import Design, design_named, design_names

_TEXTS = ("name", "summary", "origin")


def add_commands(commands: Any) -> None:  # argparse names the type privately
    """Add ``design`` to the subparsers of ``pvpmu``."""
    design = commands.add_parser(
        "design",
        help="list, show, check and compare designs",
        description="Designs say how host and guest meet; docs/designs.md.",
    )
    actions = design.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the shipped designs")
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", help="every setting of a design, defaults included")
    show.set_defaults(command=_show)
    show.add_argument("name", nargs="+", metavar="NAME|FILE")
    check = actions.add_parser("check", help="read design files; say what is wrong with one")
    check.set_defaults(command=_check)
    check.add_argument("name", nargs="+", metavar="NAME|FILE")
    diff = actions.add_parser(
        "diff", help="settings in which two designs differ", description="Exit status 1 if any."
    )
    diff.set_defaults(command=_diff)
    diff.add_argument("one", metavar="NAME|FILE")
    diff.add_argument("other", metavar="NAME|FILE")


def _list(_: argparse.Namespace) -> int:
    for design in map(design_named, design_names()):
        print(f"{design.name:<13} {design.summary}")
    return 0


def _show(args: argparse.Namespace) -> int:
    for design in map(design_named, args.name):
        print(f"{design.name}: {design.summary}")
        for key, value in settings(design):
            print(f"  {key:<22} {value}")
    return 0


def _check(args: argparse.Namespace) -> int:
    for name in args.name:
        print(f"{name}: ok, design {design_named(name).name}")
    return 0


def _diff(args: argparse.Namespace) -> int:
    one, other = design_named(args.one), design_named(args.other)
    ours, theirs = dict(settings(one)), dict(settings(other))
    differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if differing:
        print(f"  {'':<22} {one.name:<20} {other.name}")
    for key in differing:
        print(f"  {key:<22} {ours.get(key, '-'):<20} {theirs.get(key, '-')}")
    return 1 if differing else 0


def settings(design: Design) -> Iterator[tuple[str, str]]:
    """Every setting with its value as text; a table's, a line each, lists, a line an entry."""
    yield from _flat("", asdict(design))


def _flat(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if prefix or key not in _TEXTS:
            yield from _one(f"{prefix}{key}", value)


def _one(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        yield from _flat(f"{key}.", value)
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value, 1):
            yield f"{key}.{number}", str(each)
    elif isinstance(value, bool):
        yield key, "true" if value else "false"
    elif value is not None:
        yield key, str(value)
