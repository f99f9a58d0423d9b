"""A VM: its memory and its vCPUs, one process each, from the main process's side."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from pvpmu.host.liveview import VmLive
from pvpmu.host.perfs import refuse_for_linux
from pvpmu.recording.file import RecordingFile
from pvpmu.shared import liveview, memory
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.errors import ResourceError, UsageError
from pvpmu.shared.events import MODELLED
from pvpmu.shared.hostload import NO_LOAD, HostLoad
from pvpmu.shared.memory import Segment
from pvpmu.shared.process import place
from pvpmu.shared.profile import Profile
from pvpmu.shared.workers import Worker, workers
from pvpmu.vm import build, kvm
from pvpmu.vm.jobs import Job
from pvpmu.vm.layout import MemoryMap
from pvpmu.vm.worker import VmBoot

LIMIT_S = 60.0
Perf = Literal["model", "linux"]
_T = TypeVar("_T")
_NOT_IN_C = {
    "routes": "routes of its own",
    "natural_exit_us": "exits that happen anyway",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VmConfig:
    """A real VM. ``name``: its name in ``/dev/shm``; ``pin``: see PINS.

    ``user``: its program runs at CPL 3. ``limit_s``: how long the guest may take for one command.
    ``profile``: where sources disagree, else the design's. ``perf``: whose events the host's are;
    ``missing_events``: what becomes of those that real perf lacks.
    ``recording``: what the host's half is recorded to, with the model's events only; it is closed
    with the VM. ``publish``: let the live view see it.
    """

    design: Design
    cpuid: PmuCpuid
    user: bool
    vcpus: int = 1
    name: str = field(default_factory=lambda: f"vm-{os.getpid()}")
    pin: str = "same"
    load: HostLoad = NO_LOAD
    limit_s: float = LIMIT_S
    perf: Perf = "model"
    missing_events: str = MODELLED
    profile: Profile | None = None
    recording: RecordingFile | None = None
    publish: bool = True


class VmSession:
    """A VM that runs."""

    def __init__(self, started: list[Worker]) -> None:
        self._workers = started

    def run(self, jobs: Sequence[Job[_T]], *, first: int = 0) -> list[_T]:
        """Do one job on each vCPU from ``first`` on, all at once; returns their results in order.

        Raises what a job raises, or :class:`PeerError` when a vCPU's process ends.
        """
        active = self._workers[first : first + len(jobs)]
        for worker, job in zip(active, jobs, strict=True):
            worker.send(job)
        return [worker.receive() for worker in active]


def why_not(design: Design) -> str | None:
    """Why this design cannot be had from user space on a real VM, None if it can."""
    if design.vpmu == "mediated":
        return "it passes the hardware's PMU through, which only the kernel can"
    for name, what in _NOT_IN_C.items():
        if getattr(design, name):
            return f"it needs {what}, which the guest in C does not have"
    if design.commit != "write":
        return "its COMMIT is not the guest's write, and the guest in C knows no other"
    if design.driver != "linux-5.14":
        return f"its driver is {design.driver}, and the guest in C has linux-5.14"
    return None


def refuse_impossible(design: Design) -> None:
    """Raise :class:`UsageError` for a design that :func:`why_not` names a reason for."""
    reason = why_not(design)
    if reason is not None:
        raise UsageError(f"design {design.name} cannot run on a real VM: {reason}")


@contextlib.contextmanager
def _published(config: VmConfig) -> Iterator[VmLive]:
    """What the live view sees of the VM: as much as of a host of processes."""
    if not config.publish:
        yield VmLive.unpublished()
        return
    name = memory.segment_name(config.name, liveview.HOST_SIDE)
    with Segment.create(name, liveview.host_bytes(config.vcpus)) as segment:
        liveview.begin_host(
            segment.words, vcpus=config.vcpus, design=config.design.name, wants=False
        )
        yield VmLive(segment.name, segment.words)


@contextlib.contextmanager
def open_session(config: VmConfig) -> Iterator[VmSession]:
    """Make a VM; everything of it is gone on leaving.

    Raises :class:`ResourceError`: no KVM, no compiler, a name in use, no memory.
    """
    refuse_impossible(config.design)
    if config.perf == "linux":
        refuse_for_linux(config.design)
    reason = kvm.unusable()
    if reason is not None:
        raise ResourceError(reason)
    recording = config.recording
    # Before the workers, which then all find it.
    where = MemoryMap(config.vcpus, len(build.program()))
    names = [memory.segment_name(config.name, side) for side in ("host", "guest")]
    memory.cleanup(config.name)
    with (
        Segment.create(names[0], where.slots_bytes) as slots,
        Segment.create(names[1], where.memory_bytes) as guest,
        _published(config) as live,
        live.serving(os.getpid(), config.vcpus),
    ):
        boots = [
            VmBoot(
                number=number,
                vcpus=config.vcpus,
                cpu=cpus[0],
                memory=guest.name,
                memory_bytes=where.memory_bytes,
                slots=slots.name,
                slots_bytes=where.slots_bytes,
                design=config.design,
                cpuid=config.cpuid,
                profile=config.profile or config.design.profile,
                load=config.load,
                user=config.user,
                limit_s=config.limit_s,
                perf=config.perf,
                missing_events=config.missing_events,
                ring=recording.stream("host", number) if recording is not None else None,
                live=live.name,
            )
            for number, cpus in enumerate(place(config.pin, config.vcpus))
        ]
        with recording or contextlib.nullcontext():
            inherited = recording.handles if recording is not None else ()
            with workers("vm", "pvpmu.vm.worker:run_vcpu", boots, inherited) as started:
                yield VmSession(started)
