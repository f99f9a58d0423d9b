"""The tables of a scenario file, each with its checks."""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.guest.perf_event import EventConfig
from pvpmu.shared.cpuid import MAX_FIXED, MAX_GP
from pvpmu.shared.events import BY_NAME, EVENTS, Event
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER
from pvpmu.shared.hostload import HostEvent, HostLoad
from pvpmu.shared.units import NS_PER_S, Cycles, Ns
from pvpmu.shared.vmx import EXIT_REASONS

MAX_US = 1_000_000_000
"""The longest time in a scenario: nobody waits for more."""
_MAX_WINDOW = 1_000_000_000
_MAX_PHASES = 100_000
_MAX_PHASE_MS = 1_000_000
_MAX_RATE = 1_000_000_000_000

_BITMAPS = {"both": MODE_USER | MODE_KERNEL, "user": MODE_USER, "kernel": MODE_KERNEL}
MODIFIERS = {"both": "", "user": ":u", "kernel": ":k"}
"""The modes as perf writes them behind an event's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioEvent:
    """An event to open: ``frequency`` Hz or ``period`` counts, neither for counting.

    ``modes``: at which privilege it counts. ``pinned``: on a counter before the others, and never
    taken off in turn. ``per_cpu``: the CPU's (perf record -a), which a switch of tasks leaves on.
    """

    name: str
    frequency: int = 0
    period: int = 0
    initial_period: int = 1
    modes: str = "both"
    pinned: bool = False
    per_cpu: bool = False

    def __post_init__(self) -> None:
        if self.name not in BY_NAME:
            raise ValueError(f"unknown event {self.name!r}; known: {', '.join(BY_NAME)}")
        if self.modes not in _BITMAPS:
            raise ValueError(f"modes {self.modes!r} is none of {', '.join(_BITMAPS)}")
        if self.frequency and self.period:
            raise ValueError(f"event {self.name!r} has both a frequency and a period")
        if min(self.frequency, self.period, self.initial_period - 1) < 0:
            raise ValueError(f"event {self.name!r}: frequency, period and initial_period "
                             "must not be negative, initial_period at least 1")  # fmt: skip

    def config(self, event: Event) -> EventConfig:
        """What to open; ``event`` is the one of that name."""
        return EventConfig(
            event,
            self.frequency,
            self.period,
            self.initial_period,
            _BITMAPS[self.modes],
            pinned=self.pinned,
            per_cpu=self.per_cpu,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The program: counts per second of guest clock by event, varied from phase to phase."""

    per_second: dict[str, int]
    phase_ms_min: int
    phase_ms_max: int
    spread_permille: int
    phases: int

    def __post_init__(self) -> None:
        for name, rate in self.per_second.items():
            if name not in BY_NAME or name == EVENTS[0].name:
                known = ", ".join(event.name for event in EVENTS[1:])
                raise ValueError(f"unknown event {name!r} in per_second; known: {known}")
            if not 0 <= rate <= _MAX_RATE:
                raise ValueError(f"rate of {name!r}: {rate} is outside 0..{_MAX_RATE} per second")
        if not 0 < self.phase_ms_min <= self.phase_ms_max <= _MAX_PHASE_MS:
            raise ValueError(
                f"phase_ms_min {self.phase_ms_min} must be above 0 and at most phase_ms_max "
                f"{self.phase_ms_max}, which must be at most {_MAX_PHASE_MS}"
            )
        if not 0 <= self.spread_permille < 1000:
            raise ValueError(f"spread_permille {self.spread_permille} is outside 0..999")
        if not 1 <= self.phases <= _MAX_PHASES:
            raise ValueError(f"phases {self.phases} is outside 1..{_MAX_PHASES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Races:
    """Widths, in cycles, of the windows in which counters may move."""

    pmi_skid: Cycles = 0
    injection_latency: Cycles = 0
    handler_tail: Cycles = 0

    def __post_init__(self) -> None:
        for name in ("pmi_skid", "injection_latency", "handler_tail"):
            if not 0 <= getattr(self, name) <= _MAX_WINDOW:
                raise ValueError(f"{name} {getattr(self, name)} is outside 0..{_MAX_WINDOW} cycles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A task that mostly sleeps: it runs for ``run_us``, then sleeps for ``sleep_us``, and so on.

    ``ticks``: the timer ticks on while nothing runs, as without NO_HZ_IDLE.
    """

    run_us: int
    sleep_us: int
    ticks: bool = False

    def __post_init__(self) -> None:
        for name in ("run_us", "sleep_us"):
            if not 1 <= getattr(self, name) <= MAX_US:
                raise ValueError(f"{name} {getattr(self, name)} is outside 1..{MAX_US}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The host's own perf events, which compete with the guest's for ``gp`` and ``fixed`` counters.

    ``mux_us``: its flexible events take turns this often when they do not all fit.
    """

    gp: int = MAX_GP
    fixed: int = MAX_FIXED
    mux_us: int = 1000
    events: tuple[HostEvent, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.mux_us <= MAX_US:
            raise ValueError(f"mux_us {self.mux_us} is outside 1..{MAX_US}")
        # For its checks.
        self.load(1_000_000_000)

    def load(self, cpu_hz: int) -> HostLoad:
        """What a host is started with; it has no clock but the cycles that retire."""
        cycles = max(self.mux_us * cpu_hz // 1_000_000, 1)
        return HostLoad(gp=self.gp, fixed=self.fixed, mux_cycles=cycles, events=self.events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """VM-exits of another cause than the PMU: given as a number, not made.

    ``reason``: the VMX name. ``count``: in one run on one vCPU, or ``per_second`` of guest clock.
    ``what``: which of that reason, or where the number is from. ``fastpath``: KVM handles it
    without leaving the inner loop of ``vcpu_enter_guest``.
    """

    reason: str
    count: int = 0
    per_second: int = 0
    what: str = ""
    fastpath: bool = False

    def __post_init__(self) -> None:
        if self.reason not in EXIT_REASONS:
            raise ValueError(f"reason {self.reason!r} is no exit; known: {', '.join(EXIT_REASONS)}")
        for name in ("count", "per_second"):
            if not 0 <= getattr(self, name) <= _MAX_RATE:
                raise ValueError(f"{name} {getattr(self, name)} is outside 0..{_MAX_RATE} exits")
        if bool(self.count) == bool(self.per_second):
            raise ValueError("exactly one of count and per_second is needed, above 0")
        if not (self.what.isprintable()):
            raise ValueError("what must be printable text")

    def exits(self, duration: Ns) -> int:
        """In one run of so many ns of guest clock."""
        return self.count or self.per_second * duration // NS_PER_S
