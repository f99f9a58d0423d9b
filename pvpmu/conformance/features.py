"""What a target may be able to do, and what operations and configurations ask of it.

A vector that needs a feature which the target does not advertise is skipped, with the reason.
One that needs only advertised features and is still not served is a failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvpmu.conformance import ops

if TYPE_CHECKING:
    from pvpmu.conformance.vector import Config

FEATURES = {
    "page": "a per-vCPU page to register",
    "freeze": "the FREEZE feature of the page",
    "lvtpc-auto": "the LVTPC_AUTO feature of the page",
    "negotiation": "required and optional feature bits, page versions, status codes",
    "generation": "a new generation at restore and at host restart, 0 when the host detaches",
    "cpuid": "numbers and widths of counters and the event vector as configured",
    "versions": "PMU versions other than 2",
    "event-vector": "a length of CPUID 0xA's event vector (EBX) other than 7",
    "capabilities": "PERF_CAPABILITIES without full-width writes, and its absence",
    "pmu-disable": "a VM without PMU",
    "profiles": "behaviour by profile where sources disagree",
    "lvtpc-era": "delivery that masks LVTPC or not, as configured",
    "is-paused": "KVM before pmc->is_paused",
    "privilege": "CPL, CR4.PCE and CR0.PE checked at RDPMC",
    "forced-emulation": "RDPMC through the emulator",
    "emulated-retirement": "instructions and branches retired by the emulator",
    "interrupt-flag": "PMIs by fixed vector, RFLAGS.IF",
    "nmi": "NMIs that are no PMI",
    "nmi-at": "an NMI before a given load or store of the seam",
    "race": "a store by another CPU of the guest right after an access of the host to a page",
    "hlt": "HLT",
    "idle-time": "time that passes while the guest halts",
    "smp": "several vCPUs",
    "reset": "vCPU RESET",
    "init": "INIT",
    "host-msrs": "host-initiated MSR reads, writes and the save list",
    "set-cpuid": "KVM_SET_CPUID2 before and after the first run",
    "filter": "the event filter",
    "save": "save and restore",
    "dirty-log": "the log of host stores to guest memory",
    "host-load": "the host's own events on the same counters",
    "preempt": "scheduling the vCPU's thread out and in (lazy release)",
    "move": "moving the vCPU's thread to another CPU",
    "kill": "killing the host process",
    "exits": "counts of VM-exits by reason",
    "calls": "counts of host perf calls by kind",
    "host-events": "attributes and periods of host events",
    "host-event-flags": "pinned, exclude_host and exclude_idle of host events",
}
"""Feature to what it means."""

_OF_OP: dict[type, str] = {
    ops.Nmi: "nmi",
    ops.NmiAt: "nmi-at",
    ops.Race: "race",
    ops.Hlt: "hlt",
    ops.Iflag: "interrupt-flag",
    ops.HostGet: "host-msrs",
    ops.HostSet: "host-msrs",
    ops.MsrList: "host-msrs",
    ops.SetCpuid: "set-cpuid",
    ops.Filter: "filter",
    ops.HostLoad: "host-load",
    ops.Preempt: "preempt",
    ops.Move: "move",
    ops.Kill: "kill",
    ops.Save: "save",
    ops.Restore: "save",
    ops.Register: "page",
    ops.Unregister: "page",
    ops.PageRead: "page",
    ops.PageWrite: "page",
    ops.State: "page",
    ops.Dirty: "dirty-log",
    ops.Exits: "exits",
    ops.Calls: "calls",
    ops.VcpuOp: "smp",
}


def of_op(op: ops.AnyOp) -> set[str]:
    """Features that one operation needs (not those of operations inside it)."""
    needed = {_OF_OP[type(op)]} if type(op) in _OF_OP else set()
    match op:
        case ops.Rdpmc(emulated=True):
            needed.add("forced-emulation")
        case ops.Run(emulated=True):
            needed.add("emulated-retirement")
        case ops.Reset(kind=kind):
            needed.add(kind)
        case ops.Hlt(cycles=cycles) if cycles != 0:
            needed.add("idle-time")
        case ops.Event(of="pinned" | "exclude_host" | "exclude_idle"):
            needed.add("host-event-flags")
        case ops.Event():
            needed.add("host-events")
        case _:
            pass
    if isinstance(op, ops.Rdpmc) and (op.cpl or not op.pce or not op.protected):
        needed.add("privilege")
    return needed


def of_config(config: Config) -> set[str]:
    """Features that a configuration needs."""
    counters = (config.gp, config.fixed, config.gp_width, config.fixed_width, config.unavailable)
    asked = {
        "cpuid": counters != (4, 3, 48, 48, 0),
        "versions": config.version != 2,
        "event-vector": config.length != 7,
        "capabilities": not (config.full_width and config.pdcm),
        "pmu-disable": not config.pmu,
        "smp": config.vcpus > 1,
        "lvtpc-era": config.lvtpc_masked is not None,
        "lvtpc-auto": config.lvtpc_auto,
        "is-paused": not config.is_paused,
    }
    return {name for name, needed in asked.items() if needed}
