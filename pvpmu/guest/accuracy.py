"""How good samples are: their periods against the ideal, and where they point against the truth.

Pure; collected in recorded passes, of workloads only: a script has no rates and no code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pvpmu.guest.perf_event import PerfEvent
from pvpmu.guest.workload import Workload
from pvpmu.shared.histogram import Histogram
from pvpmu.shared.units import Cycles

PPM = 1_000_000
_REMEMBERED = 64
"""Overflows of one kind that wait for their sample: beyond it the oldest had none."""


@dataclass(slots=True)
class SampleErrors:
    """What one run's samples were like.

    ``period``: by event number, how far periods were from the ideal, in millionths of it; of events
    with a frequency. ``skid``: instructions from the overflow to the interrupted one, of all
    samples whose overflow is known. ``exact``: how many of these have skid 0, that is the right
    virtual instruction pointer.
    """

    period: list[Histogram] = field(default_factory=list)
    skid: Histogram = field(default_factory=Histogram)
    exact: int = 0


class Accuracy:
    """Follows one run: told of what is about to retire, of injections, and of samples.

    The ideal period is what the event's rate in the program's present phase gives at the asked
    frequency, at least 1. Rates are counts per second of the program, whatever a clock is charged.
    """

    def __init__(self, program: Workload, events: int) -> None:
        self._program = program
        self._interrupted = 0
        self._overflows: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self.errors = SampleErrors([Histogram() for _ in range(events)])

    def before(self, live: Sequence[Sequence[int]], cycles: Cycles, mode: int) -> None:
        """So many cycles are about to retire: note where counters overflow.

        ``live``: kind, modes and distance to overflow of each counter.
        """
        program = self._program
        for kind, modes, distance in live:
            if not modes & mode or distance <= 0:
                continue
            ahead = program.cycles_until(kind, distance)
            if ahead is not None and ahead <= cycles:
                waiting = self._overflows[kind, modes]
                waiting.append(program.instructions_in(ahead))
                del waiting[:-_REMEMBERED]

    def interrupted(self) -> None:
        """An NMI is being injected: here is what the sample will point to."""
        self._interrupted = self._program.instructions

    def sampled(self, event: PerfEvent) -> None:
        """A sample of this event was taken in the handler."""
        config, errors = event.config, self.errors
        waiting = self._overflows[config.event.kind, config.modes]
        if waiting:
            skid = self._interrupted - waiting.pop()
            errors.skid.record(skid)
            errors.exact += not skid
        if config.frequency:
            ideal = max(self._program.per_second(config.event.kind) // config.frequency, 1)
            off = abs(event.hw.last_period - ideal)
            errors.period[event.number].record(off * PPM // ideal)
