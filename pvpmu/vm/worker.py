"""The worker of one vCPU: makes it, then does jobs on it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from pvpmu.host.linuxvcpu import LinuxVcpu
from pvpmu.host.liveview import HostLive, publishing
from pvpmu.host.traced import TracedVcpu
from pvpmu.host.vcpu import HostVcpu
from pvpmu.recording.file import RingFile
from pvpmu.recording.tracer import Tracer
from pvpmu.shared import liveview
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.events import MODELLED
from pvpmu.shared.exits import SLOT_SIZE
from pvpmu.shared.hostload import HostLoad
from pvpmu.shared.memory import Segment
from pvpmu.shared.process import pin_to
from pvpmu.shared.profile import Profile
from pvpmu.vm.cpu import VmCpu
from pvpmu.vm.jobs import Job

_LOOK_S = 0.25
"""How often a vCPU is interrupted to see whether its time is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmBoot:
    """What a worker needs for its vCPU.

    ``memory``, ``slots``: names of the segments, with their sizes without header. ``cpu``: where it
    runs, -1 for anywhere. ``user``: the program runs at CPL 3. ``limit_s``: of one command.
    ``perf``: the host's events are the "model"'s, or the kernel's ("linux"), on this thread;
    ``missing_events``: what becomes of those that the kernel lacks.
    ``ring``: the inherited ring that the host's half is recorded to. ``live``: the segment in which
    it publishes, empty for none.
    """

    number: int
    vcpus: int
    cpu: int
    memory: str
    memory_bytes: int
    slots: str
    slots_bytes: int
    design: Design
    cpuid: PmuCpuid
    profile: Profile
    load: HostLoad
    user: bool
    limit_s: float
    perf: str = "model"
    missing_events: str = MODELLED
    ring: RingFile | None = None
    live: str = ""


def run_vcpu(pipe: Connection[Any, Any], boot: VmBoot) -> None:
    """Make the vCPU, send True, then answer each job with its result, until ended."""
    memory = Segment.attach(boot.memory, boot.memory_bytes)
    slots = Segment.attach(boot.slots, boot.slots_bytes)
    words = SLOT_SIZE // 8
    slot = slots.words[boot.number * words : (boot.number + 1) * words]
    pin_to(boot.cpu)
    host = _host(boot, slot, memory.words)
    serve: Callable[[], object] = host.serve
    if boot.live:
        published = Segment.attach(boot.live, liveview.host_bytes(boot.vcpus))
        area = published.words[liveview.host_area(boot.number)]
        serve = publishing(host, slot, HostLive(area))
    signal.signal(signal.SIGALRM, _tick)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
    cpu = VmCpu(
        memory.words,
        slots.words,
        host,
        slot,
        vcpus=boot.vcpus,
        number=boot.number,
        user=boot.user,
        limit_s=boot.limit_s,
        serve=serve,
        reloads=boot.design.reload,
    )
    pipe.send(True)
    while True:
        job: Job[object] = pipe.recv()
        pipe.send(job.do(cpu))


def _host(boot: VmBoot, slot: memoryview[int], memory: memoryview[int]) -> HostVcpu:
    shape = boot.design, boot.cpuid, boot.profile, boot.load
    if boot.ring is not None:
        tracer = Tracer(boot.ring.attach().put, time.monotonic_ns)
        return TracedVcpu(slot, memory, *shape, tracer=tracer)
    if boot.perf == "linux":
        return LinuxVcpu(slot, memory, *shape, missing=boot.missing_events)
    return HostVcpu(slot, memory, *shape)


def _tick(_number: int, _frame: object) -> None:
    """It has interrupted the VM-entry, which is all that it is for."""
