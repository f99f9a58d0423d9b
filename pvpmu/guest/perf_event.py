"""What the guest's perf keeps of one event, and its sample buffer.

Source: ``struct perf_event``, ``struct perf_event_attr``. Pure.

**Invariants**: the sample buffer never exceeds its capacity; the digest covers every sample.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from pvpmu.guest.pmu import HwEvent
from pvpmu.shared.events import Event
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER
from pvpmu.shared.units import Ns

_SAMPLE = struct.Struct("<QIQQQ")
_DIGESTED_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True)
class EventConfig:
    """One event to open: ``frequency`` in Hz, or ``period`` in counts, or neither (counting).

    With a frequency, ``initial_period`` is where the adjustment starts (counts). ``modes``: what
    exclude_user and exclude_kernel leave. ``pinned``: always on a counter or in error.
    ``per_cpu``: of the CPU, not of the task.
    """

    event: Event
    frequency: int = 0
    period: int = 0
    initial_period: int = 1
    modes: int = MODE_USER | MODE_KERNEL
    pinned: bool = False
    per_cpu: bool = False


@dataclass(slots=True, eq=False)
class PerfEvent:
    """struct perf_event in the guest. Times are ns of guest clock.

    ``failed``: pinned, and found no counter: state ERROR, not tried again.
    """

    number: int
    config: EventConfig
    hw: HwEvent
    interrupts: int = 0
    interrupts_seq: int = -1
    freq_time: Ns = 0
    freq_count: int = 0
    enabled_ns: Ns = 0
    running_ns: Ns = 0
    since: Ns = 0
    samples: int = 0
    failed: bool = False

    @property
    def sampling(self) -> bool:
        """Whether overflows are samples."""
        return bool(self.config.frequency or self.config.period)

    @property
    def on(self) -> bool:
        """Whether it has a counter (state ACTIVE)."""
        return self.hw.counter is not None

    def account(self, now: Ns) -> None:
        """Add the time since the last look, in which it was enabled, and running if it is on."""
        elapsed = now - self.since
        self.enabled_ns += elapsed
        if self.on:
            self.running_ns += elapsed
        self.since = now


def opened(number: int, config: EventConfig, longest: int) -> PerfEvent:
    """perf_event_open; ``longest``: the longest period that the driver can program, counts."""
    counting = not (config.frequency or config.period)
    # A counting event still needs a period: as in Linux, the longest there is.
    period = longest if counting else config.period or config.initial_period
    return PerfEvent(number, config, HwEvent(config.event, period, left=period, modes=config.modes))


class Sample(NamedTuple):
    """One sample: guest clock (ns), event number, virtual ip, period (counts), event count."""

    time: Ns
    event: int
    ip: int
    period: int
    event_count: int


@dataclass(slots=True)
class SampleLog:
    """Counts and digests all samples, keeps the last ``capacity`` of them."""

    capacity: int
    total: int = 0
    kept: deque[Sample] = field(init=False)
    _digest: hashlib._Hash = field(init=False)
    _packed: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self.kept = deque(maxlen=self.capacity)
        self._digest = hashlib.sha256()
        self._packed = bytearray()

    def add(self, sample: Sample) -> None:
        """Record one sample."""
        self.total += 1
        self.kept.append(sample)
        packed = self._packed
        packed += _SAMPLE.pack(*sample)
        # Digested many at once, which costs a handler little.
        if len(packed) > _DIGESTED_AT_ONCE:
            self._digest.update(packed)
            packed.clear()

    @property
    def digest(self) -> str:
        """SHA-256 over all samples in order, hex."""
        self._digest.update(self._packed)
        self._packed.clear()
        return self._digest.hexdigest()
