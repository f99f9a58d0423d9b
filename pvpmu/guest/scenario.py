"""Scenarios as data: events, workload or script, tick rate, race windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from pvpmu.guest.perf import EventConfig
from pvpmu.guest.script import ScriptCounts
from pvpmu.guest.workload import RATE_ONE, Phase, make_phases
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.datafile import load_toml
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import BY_NAME, EVENTS, event_named
from pvpmu.shared.units import Cycles, Ns

_FOLDER = "scenarios"
_MAX_WINDOW = 1_000_000_000
_MAX_PHASES = 100_000
_MAX_PHASE_MS = 1_000_000
_MAX_RATE = 1_000_000_000_000
_BOUNDS = {
    "duration_us": (1, 1_000_000_000),
    "hz": (1, 1_000_000),
    # A millisecond of phase needs a cycle.
    "cpu_hz": (1000, 100_000_000_000),
    "max_sample_rate": (1, 1_000_000_000),
    "switch_us": (0, 1_000_000_000),
    "mux_us": (1, 1_000_000_000),
}
"""What a run can be asked for: beyond it nobody waits for the end, or words overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioEvent:
    """An event to open: ``frequency`` Hz or ``period`` counts, neither for counting."""

    name: str
    frequency: int = 0
    period: int = 0
    initial_period: int = 1

    def __post_init__(self) -> None:
        if self.name not in BY_NAME:
            raise ValueError(f"unknown event {self.name!r}; known: {', '.join(BY_NAME)}")
        if self.frequency and self.period:
            raise ValueError(f"event {self.name!r} has both a frequency and a period")
        if min(self.frequency, self.period, self.initial_period - 1) < 0:
            raise ValueError(f"event {self.name!r}: frequency, period and initial_period "
                             "must not be negative, initial_period at least 1")  # fmt: skip


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
class Scenario:
    """One scenario: exactly one of ``workload`` and ``script``.

    ``duration_us``: guest clock of one run. ``hz``: timer ticks per second. ``cpu_hz``: cycles per
    second. ``switch_us``: the task is switched out and in again after every so long (0: never).
    ``mux_us``: rotation interval when events outnumber counters. ``gp``, ``fixed``, ``width``:
    the guest's PMU. ``reference``: the published measurement to print beside ours. ``notes``:
    what a reader of the results must know.
    """

    name: str
    summary: str
    duration_us: int
    events: tuple[ScenarioEvent, ...]
    hz: int = 1000
    cpu_hz: int = 2_500_000_000
    max_sample_rate: int = 10_000
    switch_us: int = 0
    mux_us: int = 1000
    gp: int = 8
    fixed: int = 3
    width: int = 48
    workload: Rates | None = None
    script: ScriptCounts | None = None
    races: Races = field(default_factory=Races)
    reference: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.workload is None) == (self.script is None):
            raise ValueError("exactly one of [workload] and [script] is needed")
        if not (self.name.isprintable() and self.name and self.summary.isprintable()):
            raise ValueError("name and summary must be printable text, name not empty")
        for name, (least, most) in _BOUNDS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)} is outside {least}..{most}")
        try:
            _ = self.cpuid
        except UsageError as error:
            raise ValueError(str(error)) from None
        self._check_events()

    def _check_events(self) -> None:
        if not self.events:
            raise ValueError("events is empty: at least one event is needed")
        if self.script is not None and len(self.script.overflows) != len(self.events):
            raise ValueError(
                f"script.overflows has {len(self.script.overflows)} entries for "
                f"{len(self.events)} events"
            )
        if self.script is not None and self.duration < 4 * sum(self.script.overflows):
            raise ValueError(
                f"duration_us {self.duration_us} is too short for "
                f"{sum(self.script.overflows)} overflows, 4 ns apart"
            )
        for event in self.events:
            # As perf_event_open, which refuses it with EINVAL.
            if event.frequency > self.max_sample_rate:
                raise ValueError(
                    f"event {event.name!r}: frequency {event.frequency} Hz is above "
                    f"max_sample_rate {self.max_sample_rate} Hz"
                )

    @property
    def duration(self) -> Ns:
        """Guest clock of one run in ns."""
        return self.duration_us * 1000

    @property
    def cpuid(self) -> PmuCpuid:
        """The guest's PMU; raises :class:`UsageError` when a number is out of range."""
        return PmuCpuid(gp=self.gp, fixed=self.fixed, gp_width=self.width, fixed_width=self.width)

    def configs(self, cpuid: PmuCpuid) -> list[EventConfig]:
        """The events to open; raises :class:`UsageError` when no counter supports one."""
        return [
            EventConfig(
                event_named(event.name, cpuid),
                event.frequency,
                event.period,
                event.initial_period,
            )
            for event in self.events
        ]

    def phases(self, seed: int) -> list[Phase]:
        """The program's phases for one seed."""
        assert self.workload is not None
        rates = self.workload.per_second
        base = [rates.get(event.name, 0) * RATE_ONE // self.cpu_hz for event in EVENTS]
        cycles_per_ms = self.cpu_hz // 1000
        return make_phases(
            seed,
            base=base,
            shortest=self.workload.phase_ms_min * cycles_per_ms,
            longest=self.workload.phase_ms_max * cycles_per_ms,
            spread_permille=self.workload.spread_permille,
            count=self.workload.phases,
        )


def scenario_names() -> list[str]:
    """The shipped scenarios, sorted."""
    folder = resources.files("pvpmu") / _FOLDER
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_scenario(name: str) -> Scenario:
    """Load a shipped scenario by name, or a TOML file by path.

    Raises :class:`UsageError` naming the scenarios that exist, or file, line and field.
    """
    if name in scenario_names():
        text = (resources.files("pvpmu") / _FOLDER / f"{name}.toml").read_text("utf-8")
        return load_toml(text, source=f"scenario {name}", kind=Scenario)
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected a scenario file")
    if not path.exists():
        raise UsageError(
            f"unknown scenario {name!r}: no such file, and the shipped ones are "
            f"{', '.join(scenario_names())}"
        )
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    return load_toml(text, source=str(path), kind=Scenario)


def run_seed(seed: int, run: int, vcpu: int) -> int:
    """The seed of one run on one vCPU: different programs, the same ones for every design."""
    return (seed * 1_000_003 + run) * 1_000_003 + vcpu
