"""The host's worker of one vCPU: wait for a VM-exit, serve it, let the guest enter again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from pvpmu.host.liveview import HostLive, publishing
from pvpmu.host.stats import HostStats
from pvpmu.host.testport import TestPort
from pvpmu.host.traced import TracedVcpu
from pvpmu.host.vcpu import HostVcpu
from pvpmu.recording.handed import tracer_of
from pvpmu.shared import exits, liveview
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.errors import PeerError
from pvpmu.shared.events import MODELLED
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.handoff import Handoff
from pvpmu.shared.hostload import HostLoad
from pvpmu.shared.memory import Segment
from pvpmu.shared.port import area_of
from pvpmu.shared.profile import Profile

_FLOOR = int(ExitReason.FLOOR)
_MAX_ROUND_TRIPS = 1 << 16


@dataclass(frozen=True, slots=True)
class HostBoot:
    """What a worker needs to serve its vCPU."""

    handoff: Handoff
    design: Design
    cpuid: PmuCpuid
    profile: Profile
    load: HostLoad
    test_port: bool
    perf: str = "model"
    missing_events: str = MODELLED


def stats_message(stats: HostStats) -> VcpuStats:
    """Statistics in the form that crosses to the guest."""
    counts = stats.pmi
    return VcpuStats(
        exits=dict(stats.exits),
        accesses=[
            (reason, address, count) for (reason, address), count in sorted(stats.accesses.items())
        ],
        tallies=[list(tally) for tally in stats.tallies],
        exits_by=stats.exits_by,
        pmi={name: getattr(counts, name) for name in counts.__slots__},
        undelivered=stats.undelivered,
        load=stats.load,
        times=stats.times,
    )


def serve_vcpu(pipe: Connection[Any, Any], boot: HostBoot) -> None:
    """Serve one vCPU until ended. Sends True when ready, then statistics at each STOP."""
    attached = boot.handoff.attach()
    slot = attached.slot
    vcpu = _vcpu(boot, slot, attached.memory.words)
    area = area_of(slot)
    if boot.test_port and area is not None:
        TestPort(vcpu, area)
    acquire, release = attached.exit_semaphore.acquire, attached.entry_semaphore.release
    serve = vcpu.serve
    if boot.handoff.live:
        number = boot.handoff.vcpu
        live = Segment.attach(boot.handoff.live, liveview.host_bytes(number + 1))
        serve = publishing(vcpu, slot, HostLive(live.words[liveview.host_area(number)]))
    pipe.send(True)
    try:
        _serve_exits(pipe, vcpu, serve, slot, acquire, release)
    except OSError as error:
        # A guest can post until a semaphore is full.
        raise PeerError(f"semaphores of vCPU {boot.handoff.vcpu}: {error.strerror}") from None


def _vcpu(boot: HostBoot, slot: memoryview[int], memory: memoryview[int]) -> HostVcpu:
    """The vCPU, recorded if there is a ring to record to."""
    shape = boot.design, boot.cpuid, boot.profile, boot.load
    if boot.perf == "linux":
        from pvpmu.host.linuxvcpu import MirroringVcpu  # noqa: PLC0415 (what the model needs not)

        return MirroringVcpu(slot, memory, *shape, missing=boot.missing_events)
    tracer = tracer_of(boot.handoff)
    if tracer is None:
        return HostVcpu(slot, memory, *shape)
    return TracedVcpu(slot, memory, *shape, tracer=tracer)


def _serve_exits(
    pipe: Connection[Any, Any],
    vcpu: HostVcpu,
    serve: Callable[[], int],
    slot: memoryview[int],
    acquire: Callable[[], None],
    release: Callable[[], None],
) -> NoReturn:
    while True:
        acquire()
        reason = serve()
        if reason >= _FLOOR:
            if vcpu.result is not None:
                # Before the guest runs on, so that it is there when the guest asks for it.
                pipe.send(stats_message(vcpu.result))
                vcpu.result = None
            elif reason == _FLOOR:
                # A wrong number only hurts the guest that gave it: it waits for itself.
                for _ in range(min(slot[exits.VALUE], _MAX_ROUND_TRIPS)):
                    release()
                    acquire()
        release()
