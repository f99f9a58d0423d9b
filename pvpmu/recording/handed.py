"""Rings for worker processes: a handoff names the ring, the worker maps it and traces to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pvpmu.recording.file import RecordingFile, RingFile
from pvpmu.recording.tracer import Tracer
from pvpmu.shared.handoff import Handoff


@contextlib.contextmanager
def handed(
    recording: RecordingFile | None, side: str, handoffs: Sequence[Handoff]
) -> Iterator[tuple[list[Handoff], list[int]]]:
    """The handoffs, with a ring each if there is a recording, and the files that workers inherit.

    The recording is open meanwhile.
    """
    if recording is None:
        yield list(handoffs), []
        return
    rings = [recording.stream(side, handoff.vcpu) for handoff in handoffs]
    with recording:
        yield (
            [
                replace(handoff, ring=ring.handle, ring_bytes=ring.size)
                for handoff, ring in zip(handoffs, rings, strict=True)
            ],
            recording.handles,
        )


def tracer_of(handoff: Handoff) -> Tracer | None:
    """In the worker: what its vCPU is traced by, if there is a ring."""
    if handoff.ring < 0:
        return None
    ring = RingFile(handoff.ring, handoff.ring_bytes).attach()
    return Tracer(ring.put, time.monotonic_ns)
