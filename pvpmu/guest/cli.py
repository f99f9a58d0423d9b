"""``pvpmu-guest``: run a scenario as the guest of a running ``pvpmu-host``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pvpmu.guest.machine import RunJob, RunReport
from pvpmu.guest.scenario import Scenario, load_scenario, run_seed, scenario_names
from pvpmu.guest.session import Session, open_session
from pvpmu.guest.traced import described
from pvpmu.recording.file import RecordingFile
from pvpmu.recording.options import add_record_options, record_to, warn
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.design import DRIVERS, GuestDesign, design_named, design_names
from pvpmu.shared.errors import PeerError, UsageError
from pvpmu.shared.exits import reason_name
from pvpmu.shared.memory import checked_vm_name
from pvpmu.shared.process import (
    CommandParser,
    at_least_one,
    integer,
    run_command,
    seconds,
    vcpu_count,
)
from pvpmu.shared.viewprocess import live_view

_DEFAULT_WAIT_S = 60.0
_NO_CHARGE = "none"
SCHEMA = "pvpmu-guest/1"


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command("pvpmu-guest", run, argv)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="pvpmu-guest",
        description="Run a scenario on a VM served by pvpmu-host; either may be started first.",
    )
    parser.add_argument(
        "--name", default="vm0", help="VM name, as given to pvpmu-host (%(default)s)"
    )
    parser.add_argument(
        "--scenario",
        default="br_instr",
        metavar="NAME|FILE",
        help=f"one of {', '.join(scenario_names())}, or a TOML file (%(default)s)",
    )
    parser.add_argument(
        "--vcpus", type=vcpu_count, metavar="N", help="(what the scenario says, mostly 1)"
    )
    parser.add_argument("--runs", type=at_least_one, default=1, metavar="N", help="(%(default)s)")
    parser.add_argument("--seed", type=integer, default=1, metavar="N", help="of the program")
    parser.add_argument(
        "--memory",
        type=at_least_one,
        default=None,
        metavar="BYTES",
        help="size of the guest's memory (default: one page per vCPU)",
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=_DEFAULT_WAIT_S,
        metavar="S",
        help="how long to wait for the host (%(default)g s)",
    )
    parser.add_argument(
        "--design",
        default=None,
        metavar="NAME|FILE",
        help="whose guest side to use (default: the host's design, if it is a shipped one)",
    )
    parser.add_argument(
        "--driver",
        choices=DRIVERS,
        default=None,
        help="generation of the PMU driver (default: the design's own)",
    )
    parser.add_argument(
        "--charge",
        choices=(_NO_CHARGE,),
        default=None,
        help="charge nothing where the scenario asks for a cost model, which only pvpmu bench has",
    )
    add_record_options(parser)
    parser.add_argument(
        "--live",
        action="store_true",
        help="record latencies and show the live view (pvpmu top); the results come after it",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--check",
        action="store_true",
        help="fail unless every count is what was retired while its counter was live",
    )
    return parser


def run(argv: list[str]) -> int:
    """Run the command's body; raises its errors."""
    args = _parser().parse_args(argv)
    scenario = load_scenario(args.scenario)
    if scenario.charge and args.charge != _NO_CHARGE:
        raise UsageError(
            f"scenario {scenario.name}: field charge: pvpmu-guest knows no cost model, so cannot "
            f"charge {scenario.charge!r}: use pvpmu bench, or charge nothing: --charge {_NO_CHARGE}"
        )
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "scenario": scenario.name,
        "seed": args.seed,
        "runs": [],
    }
    name, record = checked_vm_name(args.name), record_to(args)
    recording = None
    if record is not None:
        meta = {"vm": name, "runs": args.runs, **described(scenario, args.seed)}
        recording = record.open(meta)
    with (
        _warned(recording),
        live_view([name], args.wait) if args.live else contextlib.nullcontext(),
        open_session(
            name,
            args.vcpus or scenario.vcpus,
            wait_s=args.wait,
            memory_bytes=args.memory,
            recording=recording,
            live=args.live,
        ) as session,
    ):
        result["design"] = session.design
        guest = _guest_side(args, session.design)
        result["driver"] = guest.driver
        for run in range(args.runs):
            for vcpu, entry in enumerate(_one_run(session, scenario, guest, args.seed, run)):
                result["runs"].append({"run": run, "vcpu": vcpu, **entry})
                if not (args.json or args.live):
                    _print_run(result["runs"][-1])
    if args.json:
        print(json.dumps(result, indent=2))
    elif args.live:
        for entry in result["runs"]:
            _print_run(entry)
    if args.check:
        _check(result["runs"])
    return 0


@contextlib.contextmanager
def _warned(recording: RecordingFile | None) -> Iterator[None]:
    """Say what a recording lacks, however the session that it is closed with ends."""
    try:
        yield
    finally:
        if recording is not None:
            warn("pvpmu-guest", recording.outcome)


def _check(runs: list[dict[str, Any]]) -> None:
    """Raise :class:`PeerError` at the first count that is wrong."""
    for run in runs:
        for event in run["events"]:
            if event["count_error"]:
                actual, error = event["count"], event["count_error"]
                raise PeerError(
                    f"run {run['run'] + 1}, vCPU {run['vcpu']}: {event['name']}: expected "
                    f"{actual - error:,}, actual {actual:,}"
                )


def _guest_side(args: argparse.Namespace, host_design: str) -> GuestDesign:
    """The guest's side of the design that was asked for, or that the host serves."""
    if args.design is not None:
        guest = design_named(args.design).guest
    elif host_design in design_names():
        guest = design_named(host_design).guest
    else:
        raise UsageError(
            f"the host serves design {host_design!r}, which is no shipped one: "
            "give the same file with --design"
        )
    return guest if args.driver is None else replace(guest, driver=args.driver)


def _one_run(
    session: Session, scenario: Scenario, guest: GuestDesign, seed: int, run: int
) -> list[dict[str, Any]]:
    jobs = [
        RunJob(scenario, run_seed(seed, run, vcpu), clock=time.perf_counter_ns, guest=guest)
        for vcpu in range(session.vcpus)
    ]
    reports = session.run(jobs)
    stats = session.stats()
    return [_entry(scenario, *pair) for pair in zip(reports, stats, strict=True)]


def _entry(scenario: Scenario, report: RunReport, stats: VcpuStats) -> dict[str, Any]:
    counts = report.counts
    exits = Counter({reason_name(reason): count for reason, count in stats.exits.items()})
    return {
        "page_registered": report.page_registered,
        "samples": counts.samples,
        "samples_digest": counts.samples_digest,
        "handlers": counts.handlers,
        "spurious": counts.spurious,
        "ticks": counts.ticks,
        "events": [
            {
                "name": label,
                "count": counts.count[number],
                "count_error": counts.count_error[number],
                "enabled_ns": counts.enabled_ns[number],
                "running_ns": counts.running_ns[number],
            }
            for number, label in enumerate(scenario.labels)
        ],
        "exits": dict(exits),
        "perf_calls": stats.perf_calls,
        "handler_ns": report.handler_ns.summary(),
    }


def _print_run(entry: dict[str, Any]) -> None:
    exits = ", ".join(f"{count:,} {reason}" for reason, count in entry["exits"].items())
    page = "page registered" if entry["page_registered"] else "no page: every access exits"
    print(f"run {entry['run'] + 1}, vCPU {entry['vcpu']} ({page})")
    print(f"  {entry['samples']:,} samples in {entry['handlers']:,} PMIs, {entry['ticks']:,} ticks")
    print(f"  exits: {exits}")
    print(f"  host perf calls: {entry['perf_calls']:,}")
    print(f"  NMI handler: p50 {entry['handler_ns']['p50'] / 1000:.1f} us of wall time")
    for event in entry["events"]:
        print(f"  {event['count']:>15,}  {event['name']} ({_quality(event)})")


def _quality(event: dict[str, Any]) -> str:
    error = f"error {event['count_error']:,}"
    if event["running_ns"] == event["enabled_ns"]:
        return error
    if not event["running_ns"]:
        return f"{error}, never on a counter"
    estimate = event["count"] * event["enabled_ns"] // event["running_ns"]
    share = event["running_ns"] / event["enabled_ns"]
    return f"{error}, counted {share:.1%} of the time, estimate {estimate:,}"


if __name__ == "__main__":
    sys.exit(main())
