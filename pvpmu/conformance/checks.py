"""``pvpmu conform random`` and ``selftest``: the kit against itself."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shlex
import sys
from pathlib import Path
from typing import Any

from pvpmu.conformance.target import Target
from pvpmu.conformance.vector import PATHS, PROFILES, load_vectors
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import UsageError

DESIGN_HELP = "the target's host works as this design says (default: as KVM)"
_OPERATIONS = 100_000
_SEEDS = 1 << 32
_PATHS = {"both": PATHS, "trap": PATHS[:1], "page": PATHS[1:]}


def add_commands(actions: Any) -> None:  # argparse names the type privately
    """Add both actions to those of ``pvpmu conform``."""
    random = actions.add_parser(
        "random",
        help="random programs: trap against page against a PMU by the book",
        description="Plays random programs, legal and illegal, on the trap path, on the page "
        "without and with FREEZE, and on an oracle written from the SDM alone. The first "
        "difference is shrunk and printed as a vector. Exit status: 0 no difference, 1 one.",
    )
    random.set_defaults(command=_random)
    random.add_argument(
        "--ops", type=_count, default=_OPERATIONS, metavar="N", help="operations (%(default)s)"
    )
    random.add_argument("--seed", type=_count, metavar="N", help="of the first program (random)")
    random.add_argument("--path", choices=tuple(_PATHS), default="both", help="(%(default)s)")
    random.add_argument(
        "--profile", choices=PROFILES, default="", help="one profile (default: all in turn)"
    )
    random.add_argument("--design", metavar="NAME|FILE", help=DESIGN_HELP)
    random.add_argument("--out", metavar="FILE", help="write the vector there, not to the screen")
    selftest = actions.add_parser(
        "selftest",
        help="broken hosts and guests: does the kit catch each?",
        description="Runs the vectors on this project's host and guest with one deliberate "
        "mistake at a time, until one fails. A mistake that raises is broken, and neither caught "
        "nor survives. Exit status: 0 every mistake is caught and the machine without one passes "
        "the same vectors, 1 otherwise.",
    )
    selftest.set_defaults(command=_selftest)
    selftest.add_argument("name", nargs="*", metavar="NAME", help="mutants or globs of them (all)")
    selftest.add_argument("--list", action="store_true", help="print the mutants only")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return value


def _random(args: argparse.Namespace) -> int:
    from pvpmu.conformance import fuzz, replay  # noqa: PLC0415 (slower to load than to list)

    seed = secrets.randbelow(_SEEDS) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    out = Path(args.out) if args.out else None
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"{out.parent}: is no folder")
    outcome = fuzz.run(
        _inline(args.design),
        operations=args.ops,
        seed=seed,
        profile=args.profile,
        paths=_PATHS[args.path],
    )
    found = outcome.found
    machines = len(_PATHS[args.path]) + 1
    print(
        f"{outcome.operations} operations of {outcome.programs} programs on {machines} machines, "
        f"{0 if found is None else 1} differences"
    )
    if found is None:
        return 0
    text = replay.vector_file(found.program, found.difference)
    print(f"difference: {found.difference}", file=sys.stderr)
    words = ["pvpmu", "conform", "random", "--seed", str(found.seed), "--ops", "1"]
    words += ["--path", args.path, "--profile", found.profile]
    if args.design:
        words += ["--design", args.design]
    print(f"replay: {shlex.join(words)}", file=sys.stderr)
    if out is None:
        sys.stdout.write(text.decode())
    else:
        out.write_bytes(text)
        print(f"vector: {out}; pvpmu conform run RND --extra {out.parent}", file=sys.stderr)
    return 1


def _selftest(args: argparse.Namespace) -> int:
    from pvpmu.conformance.guests.runner import KitHost  # noqa: PLC0415
    from pvpmu.conformance.mutants import catch, chosen, failures  # noqa: PLC0415

    mutants = chosen(args.name)
    if args.list:
        for mutant in mutants:
            print(f"{mutant.name:<26} {mutant.role:<6} {mutant.mistake}")
        return 0
    vectors = load_vectors()
    results = []
    with contextlib.closing(KitHost()) as host:
        for mutant in mutants:
            result = catch(mutant, vectors, host)
            by = f"caught by {result.by} on {result.path}" if result.by else "SURVIVES"
            by = "BROKEN" if result.broken else by
            print(f"{mutant.name:<26} {mutant.role:<6} {by:<34} {mutant.mistake}", flush=True)
            results.append(result)
        bad = failures(results, host)
    survived = [result.mutant.name for result in results if not result.by and not result.broken]
    broken = [result for result in results if result.broken]
    for line in bad:
        print(f"fails without a mistake: {line}", file=sys.stderr)
    if survived:
        print(f"survive: {', '.join(survived)}", file=sys.stderr)
    for result in broken:
        print(f"{result.mutant.name} is no mistake but broken: {result.broken}", file=sys.stderr)
    caught = len(results) - len(survived) - len(broken)
    text = f"{len(results)} mutants, {caught} caught, {len(survived)} survive"
    print(f"{text}, {len(broken)} broken" if broken else text)
    return 1 if survived or broken or bad else 0


def _inline(design_name: str | None) -> Target:
    from pvpmu.conformance.inline import InlineTarget  # noqa: PLC0415

    return InlineTarget(design_named(design_name) if design_name else None)
