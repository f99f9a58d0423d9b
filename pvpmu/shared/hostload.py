"""The host's own perf events and the counters they compete for, as data."""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.shared.cpuid import MAX_FIXED, MAX_GP
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import BY_NAME
from pvpmu.shared.units import Cycles

MAX_PERIOD = (1 << 47) - 1
"""Half of a 48-bit counter: what Linux programs at most."""
_FLAGS = ("pinned", "host-only")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEvent:
    """One perf event of the CPU that the vCPU runs on (perf -a on the host).

    ``period``: counts between samples, 0 for counting. ``pinned``: before KVM's events, which are
    a task's; else after them, in turn. ``guest``: it counts while the guest runs, else it only
    keeps its counter (exclude_guest).
    """

    name: str
    period: int = 0
    pinned: bool = False
    guest: bool = True

    def __post_init__(self) -> None:
        if self.name not in BY_NAME:
            raise ValueError(f"name {self.name!r} is no event; known: {', '.join(BY_NAME)}")
        if not 0 <= self.period <= MAX_PERIOD:
            raise ValueError(f"period {self.period} is outside 0..{MAX_PERIOD} counts")

    @property
    def text(self) -> str:
        """As a command line has it: ``cpu-cycles:period=1000,pinned,host-only``."""
        parts = [f"period={self.period}"] if self.period else []
        parts += ["pinned"] * self.pinned + ["host-only"] * (not self.guest)
        return ":".join(filter(None, (self.name, ",".join(parts))))

    @classmethod
    def parse(cls, text: str) -> HostEvent:
        """Read :attr:`text` back; raises :class:`UsageError` with what is allowed."""
        name, _, options = text.partition(":")
        period, flags = 0, set()
        for option in filter(None, options.split(",")):
            key, _, value = option.partition("=")
            if key == "period" and value.isascii() and value.isdigit():
                period = int(value)
            elif option in _FLAGS:
                flags.add(option)
            else:
                raise UsageError(
                    f"host event {text!r}: unknown option {option!r}; known: period=COUNTS, "
                    + ", ".join(_FLAGS)
                )
        try:
            return cls(
                name=name, period=period, pinned="pinned" in flags, guest="host-only" not in flags
            )
        except ValueError as error:
            raise UsageError(f"host event {text!r}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """The physical PMU's ``gp`` and ``fixed`` counters, and the host's own ``events`` on them.

    ``mux_cycles``: flexible events that do not all fit take turns after so many retired cycles; the
    model's host has no other clock.
    """

    gp: int = MAX_GP
    fixed: int = MAX_FIXED
    mux_cycles: Cycles = 2_500_000
    events: tuple[HostEvent, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (("gp", 1, MAX_GP), ("fixed", 0, MAX_FIXED)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)} is outside {low}..{high}")
        if self.mux_cycles < 1:
            raise ValueError(f"mux_cycles {self.mux_cycles} is below 1")

    def check(self, gp: int, fixed: int) -> None:
        """A guest's counters are at most the physical ones (KVM clamps); raises UsageError."""
        for name, guest, physical in (("gp", gp, self.gp), ("fixed", fixed, self.fixed)):
            if guest > physical:
                raise UsageError(
                    f"{name} counters: the guest's {guest} are more than the physical PMU's "
                    f"{physical}"
                )


NO_LOAD = HostLoad()
"""No events of the host, on as many counters as a guest can have."""


@dataclass(frozen=True, slots=True)
class HostEventStats:
    """One host event between START and STOP.

    ``count``: what it counted. ``running`` of ``cycles`` retired cycles it had a counter.
    ``refused``: the host could not open it.
    """

    samples: int
    count: int
    running: Cycles
    cycles: Cycles
    refused: bool = False


@dataclass(frozen=True, slots=True)
class HostLoadStats:
    """What competition did between START and STOP.

    ``refused``: how often an event of the guest's was enabled and found no counter. ``missed``: by
    event kind, what was retired while an enabled guest counter had no running host event.
    """

    events: list[HostEventStats]
    refused: int
    missed: list[int]
