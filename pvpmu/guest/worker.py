"""The guest's worker of one vCPU: do jobs on it, crossing to the host through two semaphores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from pvpmu.guest.liveview import GuestLive, calibrated
from pvpmu.guest.machine import Job, Machine
from pvpmu.recording.handed import tracer_of
from pvpmu.shared import liveview
from pvpmu.shared.errors import GeneralProtectionError, PeerError
from pvpmu.shared.handoff import Handoff
from pvpmu.shared.memory import Segment
from pvpmu.shared.page import PAGE_SIZE


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


def _live_segment(handoff: Handoff) -> Segment | None:
    """Where the vCPU's latencies go, if they are recorded."""
    if not handoff.live:
        return None
    return Segment.attach(handoff.live, liveview.guest_bytes(handoff.vcpu + 1))


def _live(segment: Segment | None, vcpu: int) -> GuestLive | None:
    if segment is None:
        return None
    return calibrated(segment.words[liveview.guest_area(vcpu)], time.perf_counter_ns)


def run_vcpu(pipe: Connection[Any, Any], handoff: Handoff) -> None:
    """Do jobs until ended. Sends True when ready, JobProgress now and then, a JobResult each."""
    attached = handoff.attach()
    # Held here: a segment that is let go is unmapped, windows or not.
    published = _live_segment(handoff)
    release, acquire = attached.exit_semaphore.release, attached.entry_semaphore.acquire

    def cross() -> None:
        release()
        acquire()

    machine = Machine(
        attached.slot,
        cross,
        attached.memory.words,
        page_address(handoff.vcpu),
        release,
        acquire,
        live=_live(published, handoff.vcpu),
        tracer=tracer_of(handoff),
    )
    pipe.send(True)
    while True:
        job: Job[object] = pipe.recv()
        try:
            result = job.do(machine, lambda share: pipe.send(JobProgress(share)))
        except GeneralProtectionError as error:
            # The driver makes legal accesses only; in a kernel this would be an oops.
            raise PeerError(f"the host refuses a legal access: {error}") from None
        pipe.send(JobResult(result))
