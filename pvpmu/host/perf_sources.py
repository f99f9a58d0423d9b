"""What counts the architectural events where host perf is the kernel's: hardware, a clock, or none.

Where there is none, an event is refused, as perf_event_open(2) refuses it, or modelled beside a
dummy event of the kernel's, which exists, costs what an event costs, and never counts.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pvpmu.host import perf_open
from pvpmu.host.perf import Attr
from pvpmu.shared.errors import ResourceError
from pvpmu.shared.events import (
    BRANCH_MISSES,
    BRANCHES,
    CACHE_MISSES,
    CACHE_REFERENCES,
    CYCLES,
    EVENTS,
    INSTRUCTIONS,
    MODELLED,
    REF_CYCLES,
    REFUSED,
)
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER

_SW_DUMMY = 9
_HARDWARE = {
    CYCLES: 0, INSTRUCTIONS: 1, CACHE_REFERENCES: 2, CACHE_MISSES: 3, BRANCHES: 4,
    BRANCH_MISSES: 5, REF_CYCLES: 9,
}  # fmt: skip
_CLOCKS = {CYCLES: perf_open.SW_CPU_CLOCK, REF_CYCLES: perf_open.SW_TASK_CLOCK}
_CLOCK_NAMES = {perf_open.SW_CPU_CLOCK: "cpu-clock", perf_open.SW_TASK_CLOCK: "task-clock"}
HARDWARE = "hardware"
INCLUDES_HOST = "includes host time"
_FAR = 1 << 62


@dataclass(frozen=True, slots=True)
class Sources:
    """What stands for the architectural events here.

    ``of``: (type, config) by kind. ``clocks``: the counts are ns of software clocks, which include
    the host's time on the thread. ``missing``: of MISSING_EVENTS, what becomes of a kind that is
    not in ``of``.
    """

    of: dict[int, tuple[int, int]]
    clocks: bool
    missing: str = MODELLED

    def source_of(self, attr: Attr) -> tuple[int, int] | None:
        """Type and config of what an event is counted by; None if nothing here counts it."""
        if attr.kind is not None:
            return self.of.get(attr.kind)
        if attr.raw is None or self.clocks:
            return None
        return perf_open.TYPE_RAW, attr.raw

    def counted_by(self, kind: int) -> str:
        """What counts an architectural event: "hardware", a clock, "modelled" or "refused"."""
        source = self.of.get(kind)
        if source is None:
            return self.missing
        type_, config = source
        return _CLOCK_NAMES[config] if type_ == perf_open.TYPE_SOFTWARE else HARDWARE

    def models(self, kinds: Iterable[int]) -> bool:
        """Whether any of these kinds is modelled here."""
        return any(self.counted_by(kind) == MODELLED for kind in kinds)

    @property
    def described(self) -> str:
        """In a line, for every report."""
        missing = ", ".join(event.name for event in EVENTS if event.kind not in self.of)
        become = f"; {missing} are {self._fate}" if missing else ""
        if not self.clocks:
            return f"perf_event_open: hardware and raw events, pinned, exclude_host{become}"
        return (
            "perf_event_open without a PMU: cpu-clock stands for cpu-cycles and task-clock for "
            f"ref-cycles, in ns, and {INCLUDES_HOST}{become}"
        )

    @property
    def _fate(self) -> str:
        if self.missing == REFUSED:
            return "refused (ENOENT)"
        return "modelled, and each call made on a dummy event, which never counts, for its time"


def sources_here(missing: str = MODELLED) -> Sources:
    """Those of this machine, with what is to become of the others."""
    return replace(_found_here(), missing=missing)


def why_not() -> str | None:
    """Why no event can be made on this thread, None if one can."""
    try:
        handle = perf_open.opened(attr_of(sources_here(), Attr(CYCLES, MODE_USER), _FAR), "cycles")
    except ResourceError as error:
        return str(error)
    os.close(handle)
    return None


def attr_of(sources: Sources, attr: Attr, period: int) -> perf_open.Attr:
    """perf_event_attr as KVM asks for it, of what this machine has.

    One that it lacks is a dummy where it is modelled, else what it would be where it is had: that
    the kernel refuses it is the kernel's own doing.
    """
    source = sources.source_of(attr)
    if source is None and sources.missing == REFUSED:
        source = _wanted(attr)
    kind, config = source or (perf_open.TYPE_SOFTWARE, _SW_DUMMY)
    flags = 0
    if kind in (perf_open.TYPE_HARDWARE, perf_open.TYPE_RAW):
        flags = perf_open.PINNED | perf_open.EXCLUDE_HOST | perf_open.EXCLUDE_IDLE
        flags |= 0 if attr.modes & MODE_USER else perf_open.EXCLUDE_USER
        flags |= 0 if attr.modes & MODE_KERNEL else perf_open.EXCLUDE_KERNEL
    return perf_open.Attr(type=kind, config=config, sample_period=period, flags=flags)


def _wanted(attr: Attr) -> tuple[int, int]:
    if attr.kind is not None:
        return perf_open.TYPE_HARDWARE, _HARDWARE[attr.kind]
    return perf_open.TYPE_RAW, attr.raw or 0


@functools.cache
def _found_here() -> Sources:
    if not perf_open.has_pmu():
        clocks = {kind: (perf_open.TYPE_SOFTWARE, config) for kind, config in _CLOCKS.items()}
        return Sources(clocks, clocks=True)
    hardware = {kind: (perf_open.TYPE_HARDWARE, config) for kind, config in _HARDWARE.items()}
    every = Sources(hardware, clocks=False)
    # Not every PMU has every event: the kernel says so, and so few that it is asked for each.
    found = {kind: source for kind, source in hardware.items() if _exists(every, kind)}
    return replace(every, of=found)


def _exists(sources: Sources, kind: int) -> bool:
    """Whether the kernel has that event; True also where it gives another reason against it."""
    try:
        handle = perf_open.opened(attr_of(sources, Attr(kind, MODE_USER), _FAR), "a trial")
    except perf_open.MissingEventError:
        return False
    except ResourceError:
        return True
    os.close(handle)
    return True
