"""``pvpmu-host``: serve one VM."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable

from pvpmu.host.perfs import PERFS, check_perf
from pvpmu.host.server import HostConfig, serve
from pvpmu.recording.file import Outcome, RecordingFile
from pvpmu.recording.options import add_record_options, record_to, warn
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named, design_names
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import MISSING_EVENTS, MODELLED
from pvpmu.shared.hostload import HostEvent, HostLoad
from pvpmu.shared.memory import checked_vm_name
from pvpmu.shared.process import (
    PINS,
    CommandParser,
    at_least_one,
    integer,
    run_command,
    seconds,
    vcpu_count,
)
from pvpmu.shared.profile import PROFILES, profile_named
from pvpmu.shared.viewprocess import live_view

_DEFAULT_WAIT_S = 60.0


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command("pvpmu-host", run, argv)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="pvpmu-host",
        description="Serve one VM's virtual PMU: wait for its guest, serve its VM-exits until it "
        "is done, then exit.",
    )
    parser.add_argument(
        "--name", default="vm0", help="VM name, as given to pvpmu-guest (%(default)s)"
    )
    parser.add_argument(
        "--design",
        default="page",
        metavar="NAME|FILE",
        help=f"one of {', '.join(design_names())}, or a TOML file (%(default)s)",
    )
    parser.add_argument("--vcpus", type=vcpu_count, default=1, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--pin",
        choices=PINS,
        default="same",
        help="host and guest worker of a vCPU on the same CPU, on two, or anywhere (%(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=_DEFAULT_WAIT_S,
        metavar="S",
        help="how long to wait for the guest (%(default)g s)",
    )
    shape = PmuCpuid()
    parser.add_argument(
        "--gp", type=integer, default=shape.gp, metavar="N", help="GP counters (%(default)s)"
    )
    parser.add_argument(
        "--fixed", type=integer, default=shape.fixed, metavar="N", help="fixed ones (%(default)s)"
    )
    parser.add_argument(
        "--width",
        type=integer,
        default=shape.gp_width,
        metavar="BITS",
        help="(%(default)s)",
    )
    parser.add_argument(
        "--pmu-version", type=integer, default=shape.version, metavar="N", help="0-2 (%(default)s)"
    )
    parser.add_argument(
        "--profile",
        default="",
        metavar="NAME",
        help=f"where sources disagree: one of {', '.join(PROFILES)} (default: the design's host)",
    )
    own = HostLoad()
    parser.add_argument(
        "--physical-gp",
        type=integer,
        default=own.gp,
        metavar="N",
        help="GP counters of the physical PMU (%(default)s)",
    )
    parser.add_argument(
        "--physical-fixed",
        type=integer,
        default=own.fixed,
        metavar="N",
        help="its fixed ones (%(default)s)",
    )
    parser.add_argument(
        "--host-event",
        action="append",
        default=[],
        metavar="NAME[:OPTION,...]",
        help="an event of the host's own that competes: period=COUNTS, pinned, host-only; may be "
        "given several times",
    )
    parser.add_argument(
        "--host-mux",
        type=integer,
        default=own.mux_cycles,
        metavar="CYCLES",
        help="flexible events of the host take turns after so many (%(default)s)",
    )
    parser.add_argument(
        "--test-port",
        action="store_true",
        help="let the guest make the VMM's calls (for a conformance kit only)",
    )
    add_record_options(parser)
    view = parser.add_mutually_exclusive_group()
    view.add_argument(
        "--live",
        action="store_true",
        help="show the live view (pvpmu top), and have the guest record latencies for it",
    )
    view.add_argument(
        "--no-publish",
        action="store_true",
        help="publish nothing for the live view: each exit is some 0.3 us shorter",
    )
    parser.add_argument(
        "--perf",
        choices=PERFS,
        default=PERFS[0],
        help="count calls of the model, or make each on an event of the kernel's as well, and time "
        "it (%(default)s)",
    )
    parser.add_argument(
        "--missing-events",
        choices=MISSING_EVENTS,
        help="with --perf linux: what becomes of events that this machine has none for: the model "
        f"counts them, or perf_event_open refuses them ({MODELLED})",
    )
    parser.add_argument(
        "--vm",
        action="store_true",
        help="launch a real VM (KVM) and serve it until interrupted: no guest is waited for",
    )
    parser.add_argument(
        "--pmis", type=at_least_one, metavar="N", help="with --vm: end after so many on each vCPU"
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    return parser


def run(argv: list[str]) -> int:
    """Run the command's body; raises its errors."""
    args = _parser().parse_args(argv)
    design = design_named(args.design)
    config = HostConfig(
        name=checked_vm_name(args.name),
        design=design,
        vcpus=args.vcpus,
        cpuid=PmuCpuid(
            gp=args.gp,
            fixed=args.fixed,
            gp_width=args.width,
            fixed_width=args.width,
            version=args.pmu_version,
        ),
        profile=profile_named(args.profile) if args.profile else design.profile,
        load=_load(args),
        test_port=args.test_port,
        pin=args.pin,
        wait_s=args.wait,
        record=record_to(args),
        live=args.live,
        publish=not args.no_publish,
        perf=args.perf,
        missing_events=args.missing_events or MODELLED,
    )
    if args.missing_events is not None and args.perf == PERFS[0]:
        raise UsageError("--missing-events: only with --perf linux; the model has every event")
    check_perf(config.perf, [design], recorded=config.record is not None)

    def say(line: str) -> None:
        # The view says what happens as long as it has the terminal.
        if not (args.quiet or shown()):
            _say(line)

    if args.pmis is not None and not args.vm:
        raise UsageError("--pmis: only with --vm; without it the guest says how much it runs")
    serve_it = _vm_server(config, args) if args.vm else serve
    outcomes: list[Outcome] = []
    view = live_view([config.name], config.wait_s) if args.live else contextlib.nullcontext(_never)
    try:
        with view as shown:
            serve_it(config, say, outcomes.append)
    finally:
        for outcome in outcomes:
            say(f"{config.name}: {outcome.written:,} records in {outcome.path}")
            warn("pvpmu-host", outcome)
    return 0


def _vm_server(config: HostConfig, args: argparse.Namespace) -> Callable[..., None]:
    """Serves a VM that is launched here."""
    from pvpmu.vm.serve import serve_vm  # noqa: PLC0415
    from pvpmu.vm.session import VmConfig  # noqa: PLC0415

    if config.test_port:
        raise UsageError("--test-port: not with --vm, whose guest has no kit in it")

    def make(user: bool, recording: RecordingFile | None) -> VmConfig:
        return VmConfig(
            design=config.design,
            cpuid=config.cpuid,
            profile=config.profile,
            user=user,
            vcpus=config.vcpus,
            name=config.name,
            pin=config.pin,
            load=config.load,
            perf=args.perf,
            missing_events=config.missing_events,
            recording=recording,
            publish=config.publish,
        )

    def serve_real(
        config: HostConfig, say: Callable[[str], None], recorded: Callable[[Outcome], None]
    ) -> None:
        serve_vm(make, args.pmis, say, config.record, recorded)

    return serve_real


def _load(args: argparse.Namespace) -> HostLoad:
    try:
        load = HostLoad(
            gp=args.physical_gp,
            fixed=args.physical_fixed,
            mux_cycles=args.host_mux,
            events=tuple(HostEvent.parse(text) for text in args.host_event),
        )
    except ValueError as error:
        raise UsageError(f"physical PMU: {error}") from None
    load.check(args.gp, args.fixed)
    return load


def _say(line: str) -> None:
    print(f"pvpmu-host: {line}", flush=True)


def _never() -> bool:
    return False


if __name__ == "__main__":
    sys.exit(main())
