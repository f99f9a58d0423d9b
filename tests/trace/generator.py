"""Make traces: what a tracer on the host would print of a run of the driver here, trapping.

As a command it writes a long one, for measuring the reader:

    python tests/trace/generator.py --lines 3000000 --style perf-script --seed 1 > long.txt
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.runner import GuestRun, RunHooks
from pvpmu.guest.scenario import Scenario, load_scenario, run_seed
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits
from pvpmu.shared.design import DriverName, GuestDesign, design_named
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.page import PAGE_SIZE

STYLES = (
    "perf-script", "perf-script-ns", "perf-script-pid-tid", "ftrace", "ftrace-tgid", "trace-cmd",
    "trace-cmd-flags", "trace-cmd-l", "trace-cmd-t", "trace-cmd-R", "perf-script-no-cpu",
    "perf-script-tid-time", "perf-script-period", "perf-script-ip-sym", "perf-script-dso",
    "perf-script-g",
)  # fmt: skip
_FIRST_TID = 4242
_MSR = (ExitReason.MSR_READ, ExitReason.MSR_WRITE)


@dataclass(frozen=True)
class Exit:
    """One VM-exit; ``value``: written or read."""

    reason: ExitReason
    address: int = 0
    value: int = 0


@dataclass(frozen=True)
class Event:
    """One trace event of one vCPU at a time in ns."""

    time: int
    vcpu: int
    name: str
    exit: Exit


def record(
    scenario: Scenario | str, *, seed: int = 1, vcpu: int = 0, driver: DriverName = "linux-5.14"
) -> list[Exit]:
    """Run a scenario with every access trapping; returns the exits of its measured window."""
    if isinstance(scenario, str):
        scenario = load_scenario(scenario)
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    memory = memoryview(bytearray(PAGE_SIZE)).cast("Q")
    host = HostVcpu(slot, memory, design_named("trap"), scenario.cpuid)
    found: list[Exit] = []
    measuring = False

    def cross() -> None:
        nonlocal measuring
        reason, address = slot[exits.REQUEST] & exits.REASON_MASK, slot[exits.ADDRESS]
        value = slot[exits.VALUE]
        host.serve()
        if reason == ExitReason.CONTROL:
            measuring = value == Control.START
        elif measuring:
            read = reason == ExitReason.MSR_READ
            found.append(Exit(ExitReason(reason), address, slot[exits.RESULT] if read else value))

    races = scenario.races
    guest = Vcpu(
        slot, cross, skid=races.pmi_skid, latency=races.injection_latency, tail=races.handler_tail
    )
    run = GuestRun(
        guest,
        memory,
        0,
        scenario,
        seed=run_seed(seed, 0, vcpu),
        hooks=RunHooks(),
        guest=GuestDesign(driver=driver),
    )
    run.run()
    return found


def events(vcpus: Sequence[Sequence[Exit]], *, seed: int = 1, turns: int = 1) -> Iterator[Event]:
    """The tracer's events of several vCPUs, in time order; ``turns``: each run so often."""
    chance = random.Random(seed)
    clocks = [951_000_000_000 + chance.randrange(1000) for _ in vcpus]
    places = [0] * len(vcpus)
    ends = [turns * len(run) for run in vcpus]
    while True:
        waiting = [v for v in range(len(vcpus)) if places[v] < ends[v]]
        if not waiting:
            return
        v = min(waiting, key=clocks.__getitem__)
        one = vcpus[v][places[v] % len(vcpus[v])]
        places[v] += 1
        yield Event(clocks[v], v, "kvm_exit", one)
        clocks[v] += 1000 + chance.randrange(1000)
        if one.reason in _MSR:
            yield Event(clocks[v] - 900, v, "kvm_msr", one)
        yield Event(clocks[v] - 100, v, "kvm_entry", one)


def lines(some: Iterator[Event], style: str) -> Iterator[str]:
    """Those events as a tool prints them, headings included."""
    if style.startswith("ftrace"):
        yield from ("# tracer: nop", "#", "#           TASK-PID     CPU#  |||||  TIMESTAMP")
    elif style.startswith("trace-cmd"):
        yield "cpus=4"
    for event in some:
        yield _line(event, style)


def _line(event: Event, style: str) -> str:
    return _perf_line(event, style) if style.startswith("perf") else _tracer_line(event, style)


def _perf_line(event: Event, style: str) -> str:
    """What ``perf script`` prints, with its options and choices of fields."""
    tid = f"{_FIRST_TID + event.vcpu:5d}"
    comm, cpu = f"{f'CPU {event.vcpu}/KVM':>16} ", f" [{event.vcpu % 4:03d}]"
    seconds, ns = divmod(event.time, 1_000_000_000)
    stamp = f"{seconds:5d}.{ns:09d}" if style.endswith("-ns") else f"{seconds:5d}.{ns // 1000:06d}"
    if style == "perf-script-pid-tid":
        tid = f"{_FIRST_TID - 1}/{tid.strip()} "
    if style == "perf-script-tid-time":
        comm = ""
    if style in ("perf-script-tid-time", "perf-script-no-cpu"):
        cpu = ""
    period = f"{1:10d} " if style == "perf-script-period" else ""
    address = f"ffffffffc0a1b2c{event.vcpu} vmx_handle_exit+0x2{event.vcpu}"
    behind = {
        "perf-script-ip-sym": f" {address}",
        "perf-script-dso": f" {address} ([kvm_intel])",
        "perf-script-g": f"\n\t{address} ([kvm_intel])\n"
        "\t      7f2c1c8a3b x: y (/usr/bin/qemu-system-x86_64 (deleted))\n"
        "\t               0 [unknown] ([unknown])\n",
    }.get(style, "")
    name, body = f"kvm:{event.name}", _body(event, plugin=False)
    return f"{comm}{tid}{cpu} {stamp}: {period}{name:>16}: {body}{behind}"


def _tracer_line(event: Event, style: str) -> str:
    """What ftrace and ``trace-cmd report`` print."""
    body = _raw(event) if style == "trace-cmd-R" else _body(event, plugin="trace-cmd" in style)
    comm, tid, cpu = f"CPU {event.vcpu}/KVM", _FIRST_TID + event.vcpu, event.vcpu % 4
    seconds, ns = divmod(event.time, 1_000_000_000)
    micro, nano = f"{seconds:5d}.{ns // 1000:06d}", f"{seconds:5d}.{ns:09d}"
    padded = f"{event.name + ':':<21}"
    match style:
        case "ftrace":
            return f"{comm:>16}-{tid:<7d} [{cpu:03d}] d.... {micro}: {event.name}: {body}"
        case "ftrace-tgid":
            return (
                f"{comm:>16}-{tid:<7d} (  {_FIRST_TID - 1}) [{cpu:03d}] d..1. {micro}: "
                f"{event.name}: {body}"
            )
        case "trace-cmd" | "trace-cmd-R":
            return f"{comm:>16}-{tid:<5d} [{cpu:03d}] {micro}: {padded} {body}"
        case "trace-cmd-flags":
            return f"{comm:>16}-{tid:<5d} [{cpu:03d}] d..2. {micro}: {padded} {body}"
        case "trace-cmd-t":
            return f"{comm:>16}-{tid:<5d} [{cpu:03d}] {nano}: {padded} {body}"
        case "trace-cmd-l":
            return f"{comm:>8}-{tid:<5d}  {cpu:2d}..... {micro}: {padded} {body}"
    raise ValueError(style)


def _body(event: Event, *, plugin: bool) -> str:
    one = event.exit
    rip = "rip 0xffffffff8106f3a4"
    if event.name == "kvm_msr":
        op = "write" if one.reason is ExitReason.MSR_WRITE else "read"
        return f"msr_{op} {one.address:x} = {one.value:#x}"
    if event.name == "kvm_entry":
        return f"vcpu {event.vcpu}, {rip} intr_info 0x00000000 error_code 0x00000000"
    if plugin:
        return f"reason {one.reason.name} {rip} info 0 0"
    return (
        f"vcpu {event.vcpu} reason {one.reason.name} {rip} info1 0x0000000000000000 info2 "
        "0x0000000000000000 intr_info 0x00000000 error_code 0x00000000 requests 0x0000000000000000"
    )


def _raw(event: Event) -> str:
    one = event.exit
    if event.name == "kvm_msr":
        write = int(one.reason is ExitReason.MSR_WRITE)
        return f" write={write} ecx={one.address:x} data={one.value:#x} exception=0"
    if event.name == "kvm_entry":
        return f" vcpu_id={event.vcpu} rip=0xffffffff8106f3a4 immediate_exit=0"
    return (
        f" exit_reason={int(one.reason)} guest_rip=0xffffffff8106f3a4 isa=1 info1=0x0 info2=0x0 "
        f"intr_info=0 error_code=0 vcpu_id={event.vcpu}"
    )


def main() -> None:
    """Write a trace of at least so many lines to standard output."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--style", choices=STYLES, default="perf-script")
    parser.add_argument("--scenario", default="br_instr-trace")
    parser.add_argument("--vcpus", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    runs = [record(args.scenario, seed=args.seed, vcpu=v) for v in range(args.vcpus)]
    turns = args.lines // (2 * sum(map(len, runs))) + 1
    for number, line in enumerate(lines(events(runs, seed=args.seed, turns=turns), args.style)):
        if number >= args.lines:
            break
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
