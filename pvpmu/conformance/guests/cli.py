"""``pvpmu conform guest``: the kit plays the host of a guest that a command starts."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from pvpmu.conformance import output
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import integer, seconds, vcpu_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvpmu.conformance.guests.cases import RuleCase, Session

_TIMEOUT_S = 10.0


def add_commands(actions: Any) -> None:  # argparse names the type privately
    """Add ``guest`` to the actions of ``pvpmu conform``."""
    guest = actions.add_parser(
        "guest",
        help="test a guest: the kit is its host, a friendly one and others",
        description="Starts the guest once for each session, plays its host, and judges what it "
        "does to the page, at its exits and at its end. Exit status: 0 as expected, 1 a case "
        "fails (with --expect: deviates from the baseline), 2 the command line or the guest's "
        "command cannot be used.",
    )
    guest.set_defaults(command=_guest)
    guest.add_argument("id", nargs="*", metavar="CASE", help="cases, rules or globs of them (all)")
    guest.add_argument(
        "--command",
        dest="guest",
        default="",
        metavar="COMMAND",
        help="the guest, with {name} where the VM's name goes (this project's pvpmu-guest)",
    )
    guest.add_argument("--list", action="store_true", help="print the cases only")
    guest.add_argument(
        "--explain", action="store_true", help="print what the cases do and want, run nothing"
    )
    guest.add_argument(
        "--timeout",
        type=seconds,
        default=_TIMEOUT_S,
        metavar="S",
        help="time limit of a session (%(default)g s)",
    )
    shape = PmuCpuid()
    add = guest.add_argument
    add("--vcpus", type=vcpu_count, default=1, metavar="N", help="that the host has (%(default)s)")
    add("--gp", type=integer, default=shape.gp, metavar="N", help="GP counters (%(default)s)")
    add("--fixed", type=integer, default=shape.fixed, metavar="N", help="fixed ones (%(default)s)")
    add("--width", type=integer, default=shape.gp_width, metavar="BITS", help="(%(default)s)")
    output.add_options(guest)


def _guest(args: argparse.Namespace) -> int:
    # The host and its model take longer to load than the other actions take to run.
    from pvpmu.conformance.guests import cases, runner  # noqa: PLC0415

    if not args.timeout:
        raise UsageError("--timeout: 0 s leaves no time for a session")
    chosen = cases.select(args.id)
    if args.list:
        for case in chosen:
            print(f"{case.id:<21} {case.level:<6} {case.title}")
        return 0
    if args.explain:
        _explain(chosen)
        return 0
    wanted = output.Output(args, path=runner.PATH)
    config = runner.GuestConfig(
        command=args.guest,
        vcpus=args.vcpus,
        shape=PmuCpuid(gp=args.gp, fixed=args.fixed, gp_width=args.width, fixed_width=args.width),
        limit_s=args.timeout,
        strict=args.strict,
    )
    with contextlib.closing(runner.KitHost()) as host:
        result = runner.GuestRunner(config, host).run(chosen, _progress)
    return wanted.give(result)


def _progress(session: Session) -> None:
    """Say on a terminal what is being done; a guest may need a second for each session."""
    if sys.stderr.isatty():
        print(f"\r\x1b[Ksession {session.id}\r", end="", file=sys.stderr, flush=True)


def _explain(chosen: Sequence[Session | RuleCase]) -> None:
    from pvpmu.conformance.guests.cases import Session  # noqa: PLC0415

    for case in chosen:
        print(f"{case.id}: {case.title}")
        print(f"  clause    {case.clause} ({case.level})")
        if isinstance(case, Session):
            if case.what:
                print(f"  host      {case.what}")
            print(f"  offer     {case.offer_text}")
            print(f"  profile   {case.profile.name}")
            print(f"  ending    {case.ending.value}")
            if case.fault.never:
                print(f"  skipped   if {case.fault.never}")
        else:
            print("  sessions  looked at in all of them")
            print(f"  needs     one of {', '.join(case.check.homes)}")
            print(f"  skipped   if {case.check.never}")
