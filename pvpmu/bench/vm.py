"""A VM to measure: real processes over shared memory, or everything inline in this one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pvpmu.guest.machine import Job, Machine
from pvpmu.guest.session import OnProgress, Session, memory_needed, open_session
from pvpmu.guest.worker import page_address
from pvpmu.host.pmi import PmiCounts
from pvpmu.host.stats import HostStats
from pvpmu.host.vcpu import HostVcpu
from pvpmu.host.worker import stats_message
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.exits import SLOT_SIZE
from pvpmu.shared.hostload import NO_LOAD, HostLoad
from pvpmu.shared.hostprocess import WAIT_S, host_process

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

    ``load``: the host's own events.
    """

    design: Design
    cpuid: PmuCpuid
    vcpus: int = 1
    name: str = field(default_factory=lambda: f"vm-{os.getpid()}")
    pin: str = "same"
    load: HostLoad = NO_LOAD


class InlineVm:
    """Host and guest in this process: a VM-exit is a call, vCPUs run one after another."""

    def __init__(self, config: VmConfig) -> None:
        memory = memoryview(bytearray(memory_needed(config.vcpus))).cast("Q")
        self._hosts: list[HostVcpu] = []
        self._machines: list[Machine] = []
        for vcpu in range(config.vcpus):
            slot = memoryview(bytearray(SLOT_SIZE)).cast("Q")
            design = config.design
            host = HostVcpu(slot, memory, design, config.cpuid, design.profile, load=config.load)
            self._hosts.append(host)
            self._machines.append(Machine(slot, host.serve, memory, page_address(vcpu)))

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
    options += ["--host-mux", str(load.mux_cycles)]
    for event in load.events:
        options += ["--host-event", event.text]
    with (
        host_process(config.name, *options) as host,
        open_session(config.name, config.vcpus, wait_s=WAIT_S, host_lives=host.lives) as session,
    ):
        yield session


@contextlib.contextmanager
def open_vm(config: VmConfig, transport: str) -> Iterator[Vm]:
    """A VM of either transport."""
    if transport == "inline":
        yield InlineVm(config)
    else:
        with process_vm(config) as session:
            yield session
