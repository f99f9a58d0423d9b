"""The guest's worker of one vCPU: do jobs on it, crossing to the host through two semaphores."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from pvpmu.guest.machine import Job, Machine
from pvpmu.shared.layout import WORD_BYTES
from pvpmu.shared.memory import Segment, attach_semaphore
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.process import pin_to


@dataclass(frozen=True, slots=True)
class GuestBoot:
    """What a worker needs: names, sizes in bytes, its vCPU's number and CPU (-1: any)."""

    vcpu: int
    cpu: int
    segment: str
    segment_bytes: int
    slot_bytes: int
    memory: str
    memory_bytes: int
    exit_semaphore: str
    entry_semaphore: str


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The share of the current job that is done, 0 to 1."""

    share: float


@dataclass(frozen=True, slots=True)
class JobResult:
    """What the job returned."""

    value: Any


def page_address(vcpu: int) -> int:
    """Guest-physical address of a vCPU's page, in bytes."""
    return vcpu * PAGE_SIZE


def run_vcpu(pipe: Connection[Any, Any], boot: GuestBoot) -> None:
    """Do jobs until ended. Sends True when ready, JobProgress now and then, a JobResult each."""
    segment = Segment.attach(boot.segment, boot.segment_bytes)
    memory = Segment.attach(boot.memory, boot.memory_bytes)
    exit_semaphore = attach_semaphore(boot.exit_semaphore)
    entry_semaphore = attach_semaphore(boot.entry_semaphore)
    pin_to(boot.cpu)
    slot_words = boot.slot_bytes // WORD_BYTES
    release, acquire = exit_semaphore.release, entry_semaphore.acquire

    def cross() -> None:
        release()
        acquire()

    machine = Machine(
        segment.words[boot.vcpu * slot_words : (boot.vcpu + 1) * slot_words],
        cross,
        memory.words,
        page_address(boot.vcpu),
        release,
        acquire,
    )
    pipe.send(True)
    while True:
        job: Job[object] = pipe.recv()
        result = job.do(machine, lambda share: pipe.send(JobProgress(share)))
        pipe.send(JobResult(result))
