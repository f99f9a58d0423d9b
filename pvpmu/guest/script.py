"""A scripted program: the script owns the clock and says when each counter overflows.

It stands for a trace whose operations are known in number (handler entries, ticks, context
switches, overflows by event): the driver's real entry points are called, in that order and number,
and counts retire so that each overflow falls where the script wants it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pvpmu.shared.events import KINDS
from pvpmu.shared.units import Cycles, Ns

_MAX_STEPS = 1_000_000


class Kind(enum.IntEnum):
    """What happens at an instant, in the order in which instants' ties are resolved."""

    OVERFLOW = 0
    TICK = 1
    SCHED_OUT = 2
    SCHED_IN = 3


@dataclass(slots=True)
class Step:
    """One instant of the script: ``overflows`` are event numbers; ``stray``: delivered twice."""

    time: Ns
    kind: Kind
    overflows: list[int] = field(default_factory=list)
    stray: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptCounts:
    """What a script must contain.

    ``overflows``: by event, in opening order. ``coincident``: overflows moved onto another
    event's instant, so that one PMI has two status bits. ``stray``: how many of those PMIs the
    host delivers twice, so that the second handler reads status 0.
    """

    ticks: int
    sched_in: int
    sched_out: int
    overflows: tuple[int, ...]
    coincident: int
    stray: int

    @property
    def handlers(self) -> int:
        """Handler entries that the script makes: one for each instant, and one for each stray."""
        return sum(self.overflows) - self.coincident + self.stray

    def __post_init__(self) -> None:
        if not self.overflows:
            raise ValueError("overflows is empty: one number for each event is needed")
        single = (self.ticks, self.sched_in, self.sched_out, self.coincident, self.stray)
        if min(*single, *self.overflows) < 0:
            raise ValueError("the numbers of a script must not be negative")
        if max(*single, sum(self.overflows)) > _MAX_STEPS:
            raise ValueError(f"a script has at most {_MAX_STEPS} overflows, ticks or switches")
        if self.coincident and len(self.overflows) < 2:
            raise ValueError(f"coincident {self.coincident} needs at least two events")
        if self.stray > self.coincident:
            raise ValueError(f"stray {self.stray} exceeds coincident {self.coincident}")
        if not 0 <= self.sched_in - self.sched_out <= 1:
            raise ValueError(
                f"sched_in {self.sched_in} must be sched_out {self.sched_out} or one more"
            )
        if self.coincident > min(self.overflows):
            raise ValueError(
                f"coincident {self.coincident} exceeds the rarest event's {min(self.overflows)}"
            )


def make_steps(counts: ScriptCounts, duration: Ns) -> list[Step]:
    """Lay the script out: each event's overflows evenly spaced, no accidental coincidence."""
    rarest = counts.overflows.index(min(counts.overflows))
    times: dict[Ns, list[int]] = {}
    for number, many in enumerate(counts.overflows):
        if number != rarest:
            for time in _spaced(many, duration):
                times[_free(times, time)] = [number]
    hosts = sorted(times)
    for position, time in enumerate(_spaced(counts.overflows[rarest], duration)):
        if position < counts.coincident:
            # Evenly spaced hosts, so that no event is crowded.
            host = hosts[(2 * position + 1) * len(hosts) // (2 * counts.coincident)]
            times[host].append(rarest)
        else:
            times[_free(times, time)] = [rarest]
    steps = [Step(time, Kind.OVERFLOW, numbers) for time, numbers in times.items()]
    double = sorted((s for s in steps if len(s.overflows) > 1), key=lambda step: step.time)
    for step in double[: counts.stray]:
        step.stray = True
    tick = duration // counts.ticks if counts.ticks else 0
    steps += [Step((n + 1) * tick, Kind.TICK) for n in range(counts.ticks)]
    switch = duration // max(counts.sched_in, 1)
    steps += [Step(n * switch, Kind.SCHED_IN) for n in range(counts.sched_in)]
    steps += [Step((n + 1) * switch, Kind.SCHED_OUT) for n in range(counts.sched_out)]
    return sorted(steps, key=lambda step: (step.time, step.kind))


def _free(times: dict[Ns, list[int]], time: Ns) -> Ns:
    """The first instant from ``time`` on at which nothing happens yet."""
    while time in times:
        time += 1
    return time


def _spaced(many: int, duration: Ns) -> Iterator[Ns]:
    return ((2 * n + 1) * duration // (2 * many) for n in range(many))


_TICK = Kind.TICK
"""Looked up once: an Enum's member is slow to find."""


class Scripted:
    """The program behind a script: its clock is set, and counts approach the next overflow.

    ``kinds``: the event kind of each event, by event number.
    """

    def __init__(self, steps: Sequence[Step], kinds: Sequence[int]) -> None:
        self.cycles: Cycles = 0
        self.now: Ns = 0
        self._counted = [False] * len(kinds)
        following: list[list[Ns]] = [[] for _ in kinds]
        for step in reversed(steps):
            for number in step.overflows:
                following[number].append(step.time)
        self._events = tuple(zip(range(len(kinds)), kinds, following, strict=True))

    @property
    def ip(self) -> int:
        """A script has no code: 0."""
        return 0

    def advance(self, step: Step, distances: Sequence[int]) -> list[int]:
        """Set the clock to the next instant: counts by event kind retired on the way there.

        ``distances``: by event kind, counts until its counter overflows, 0 where none counts.
        An event that overflows at the step retires just that; the others go linearly in time
        towards their next scripted overflow, short of it. A tick reloads only what has counted
        since the last one, so that up to a tick everything retires at least one, if it can.
        """
        since, self.now = self.now, step.time
        elapsed, overflows, counted = step.time - since, step.overflows, self._counted
        is_tick = step.kind is _TICK
        retired = [0] * KINDS
        for number, kind, following in self._events:
            distance = distances[kind]
            if not distance:
                continue
            if number in overflows:
                count = distance
                following.pop()
            else:
                count = 1 if is_tick and not counted[number] else 0
                if following and (ahead := following[-1] - since) > 0:
                    count = distance * elapsed // ahead or count
                if count >= distance:
                    count = distance - 1
            if count:
                retired[kind] = count
                counted[number] = True
        if is_tick:
            self._counted = [False] * len(counted)
        return retired
