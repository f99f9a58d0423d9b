"""What a worker needs to take part in one vCPU's VM-exits: names first, then the mapped things.

Both sides' workers attach alike; neither owns what it attaches to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvpmu.shared.layout import WORD_BYTES
from pvpmu.shared.memory import Segment, attach_semaphore
from pvpmu.shared.process import pin_to

if TYPE_CHECKING:
    import posix_ipc


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """Where a vCPU's slot, memory and semaphores are.

    ``segment_bytes`` and ``memory_bytes`` are sizes without headers; slots lie ``slot_bytes``
    apart. ``cpu``: where this side's worker runs, -1 for anywhere. ``live``: the segment in which
    this side publishes (:mod:`pvpmu.shared.liveview`), empty for none. ``ring`` and ``ring_bytes``:
    the inherited memory file of the ring that it records to, -1 for none.
    """

    vcpu: int
    cpu: int
    segment: str
    segment_bytes: int
    slot_bytes: int
    memory: str
    memory_bytes: int
    exit_semaphore: str
    entry_semaphore: str
    live: str = ""
    ring: int = -1
    ring_bytes: int = 0

    def attach(self) -> Attached:
        """Map everything and go to the CPU.

        Raises :class:`PeerError` for what is missing or too small, :class:`ResourceError` when the
        CPU is refused.
        """
        segment = Segment.attach(self.segment, self.segment_bytes)
        memory = Segment.attach(self.memory, self.memory_bytes)
        words = self.slot_bytes // WORD_BYTES
        attached = Attached(
            segment,
            memory,
            segment.words[self.vcpu * words : (self.vcpu + 1) * words],
            attach_semaphore(self.exit_semaphore),
            attach_semaphore(self.entry_semaphore),
        )
        pin_to(self.cpu)
        return attached


@dataclass(frozen=True, slots=True)
class Attached:
    """The mapped segments, the vCPU's slot in the first, and its two semaphores."""

    segment: Segment
    memory: Segment
    slot: memoryview[int]
    exit_semaphore: posix_ipc.Semaphore
    entry_semaphore: posix_ipc.Semaphore
