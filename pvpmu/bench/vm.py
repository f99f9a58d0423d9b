"""A VM to measure: real processes over shared memory, or everything inline in this one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pvpmu.guest.machine import Job, Machine
from pvpmu.guest.session import OnProgress, Session, memory_needed, open_session
from pvpmu.guest.worker import page_address
from pvpmu.host.linuxvcpu import MirroringVcpu
from pvpmu.host.pmi import PmiCounts
from pvpmu.host.stats import HostStats
from pvpmu.host.traced import TracedVcpu
from pvpmu.host.vcpu import HostVcpu
from pvpmu.host.worker import stats_message
from pvpmu.recording.file import RecordingFile
from pvpmu.recording.options import RecordTo
from pvpmu.recording.tracer import Tracer
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.events import MODELLED
from pvpmu.shared.exits import SLOT_SIZE, SlotWords
from pvpmu.shared.hostload import NO_LOAD, HostLoad
from pvpmu.shared.hostprocess import WAIT_S, host_process
from pvpmu.shared.layout import WORD_BYTES

TRANSPORTS = ("process", "inline")
_T = TypeVar("_T")


class Vm(Protocol):
    """Does jobs on its vCPUs and reports the host's statistics."""

    def run(
        self, jobs: Sequence[Job[_T]], on_progress: OnProgress | None = None, *, first: int = 0
    ) -> list[_T]: ...

    def stats(self) -> list[VcpuStats]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VmConfig:
    """``name`` is the VM's in ``/dev/shm``; ``pin``: see PINS. Inline needs neither.

    ``load``: the host's own events. ``recording``: what the vCPUs are recorded to; it is closed
    with the VM. Inline it has both sides, else the guest's, and ``host_record`` is where the host
    records itself to. ``live``: record latencies for the live view; the host publishes nothing
    without, since that takes part of each exit. ``perf``: of PERFS. ``missing_events``: with real
    perf, what becomes of those that the machine lacks.
    """

    design: Design
    cpuid: PmuCpuid
    vcpus: int = 1
    name: str = field(default_factory=lambda: f"vm-{os.getpid()}")
    pin: str = "same"
    load: HostLoad = NO_LOAD
    recording: RecordingFile | None = None
    host_record: RecordTo | None = None
    live: bool = False
    perf: str = "model"
    missing_events: str = MODELLED


class InlineVm:
    """Host and guest in this process: a VM-exit is a call, vCPUs run one after another.

    It makes the streams of ``config.recording``, which somebody else enters.
    """

    def __init__(self, config: VmConfig) -> None:
        memory = memoryview(bytearray(memory_needed(config.vcpus))).cast("Q")
        self._hosts: list[HostVcpu] = []
        self._machines: list[Machine] = []
        for vcpu in range(config.vcpus):
            slot: SlotWords = [0] * (SLOT_SIZE // WORD_BYTES)
            host = self._host(config, slot, memory, _tracer(config.recording, "host", vcpu))
            self._hosts.append(host)
            tracer = _tracer(config.recording, "guest", vcpu)
            self._machines.append(
                Machine(slot, host.serve, memory, page_address(vcpu), tracer=tracer)
            )

    @staticmethod
    def _host(
        config: VmConfig, slot: SlotWords, memory: memoryview[int], tracer: Tracer | None
    ) -> HostVcpu:
        design = config.design
        shape = design, config.cpuid, design.profile, config.load
        if config.perf == "linux":
            return MirroringVcpu(slot, memory, *shape, missing=config.missing_events)
        if tracer is None:
            return HostVcpu(slot, memory, *shape)
        return TracedVcpu(slot, memory, *shape, tracer=tracer)

    def run(
        self, jobs: Sequence[Job[_T]], on_progress: OnProgress | None = None, *, first: int = 0
    ) -> list[_T]:
        """Do one job on each vCPU from ``first`` on; returns their results in order."""
        results: list[_T] = []
        for done, (machine, job) in enumerate(zip(self._machines[first:], jobs, strict=False)):

            def progress(share: float, done: int = done) -> None:
                if on_progress is not None:
                    on_progress((done + share) / len(jobs))

            results.append(job.do(machine, progress))
        return results

    def stats(self) -> list[VcpuStats]:
        """Statistics of the last measured window, by vCPU."""
        return [stats_message(host.result or HostStats(PmiCounts())) for host in self._hosts]


def _tracer(recording: RecordingFile | None, side: str, vcpu: int) -> Tracer | None:
    if recording is None:
        return None
    return Tracer(recording.stream(side, vcpu).attach().put, time.monotonic_ns)


@contextlib.contextmanager
def process_vm(config: VmConfig) -> Iterator[Session]:
    """Start ``pvpmu-host`` and join it as its guest; both are gone on leaving.

    Raises ``PeerError`` with the host's own words when it ends early.
    """
    shape = config.cpuid
    design = config.design.origin or config.design.name
    options = ["--design", design, "--pin", config.pin, "--vcpus", str(config.vcpus)]
    options += ["--gp", str(shape.gp), "--fixed", str(shape.fixed), "--width", str(shape.gp_width)]
    load = config.load
    options += ["--physical-gp", str(load.gp), "--physical-fixed", str(load.fixed)]
    options += ["--host-mux", str(load.mux_cycles), "--perf", config.perf]
    if config.perf == "linux":
        options += ["--missing-events", config.missing_events]
    for event in load.events:
        options += ["--host-event", event.text]
    if config.host_record is not None:
        options += config.host_record.options
    if not config.live:
        options.append("--no-publish")
    with (
        host_process(config.name, *options) as host,
        open_session(
            config.name,
            config.vcpus,
            wait_s=WAIT_S,
            host_lives=host.lives,
            recording=config.recording,
            live=config.live,
        ) as session,
    ):
        yield session


@contextlib.contextmanager
def open_vm(config: VmConfig, transport: str) -> Iterator[Vm]:
    """A VM of either transport."""
    if transport == "inline":
        vm = InlineVm(config)
        with config.recording or contextlib.nullcontext():
            yield vm
    else:
        with process_vm(config) as session:
            yield session
