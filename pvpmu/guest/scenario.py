"""Scenarios as data: events, workload or script, tick rate, race windows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pvpmu.guest.perf_event import EventConfig
from pvpmu.guest.scenario_tables import (
    MAX_US,
    MODIFIERS,
    Background,
    Host,
    Idle,
    Races,
    Rates,
    ScenarioEvent,
)
from pvpmu.guest.script import ScriptCounts
from pvpmu.guest.workload import RATE_ONE, Phase, make_phases
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.datafile import data_text, load_toml, shipped_names
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import EVENTS, MISSING_EVENTS, MODELLED, event_named
from pvpmu.shared.hostload import NO_LOAD, HostLoad
from pvpmu.shared.process import MAX_VCPUS
from pvpmu.shared.units import Ns

__all__ = [
    "Background",
    "Host",
    "Idle",
    "Races",
    "Rates",
    "Scenario",
    "ScenarioEvent",
    "load_scenario",
    "run_seed",
    "scenario_names",
]

_FOLDER = "scenarios"
_BOUNDS = {
    "duration_us": (1, MAX_US),
    "hz": (1, 1_000_000),
    # A millisecond of phase needs a cycle.
    "cpu_hz": (1000, 100_000_000_000),
    "max_sample_rate": (1, 1_000_000_000),
    "cpu_time_max_percent": (0, 100),
    "switch_us": (0, MAX_US),
    "mux_us": (1, MAX_US),
    "read_us": (0, MAX_US),
    "vcpus": (1, MAX_VCPUS),
}
"""What a run can be asked for: beyond it nobody waits for the end, or words overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario: exactly one of ``workload`` and ``script``.

    ``duration_us``: guest clock of one run. ``hz``: timer ticks per second. ``cpu_hz``: cycles per
    second. ``max_sample_rate``, ``cpu_time_max_percent``: the sysctls of these names; 0 % is no
    automatic lowering of the rate. ``switch_us``: the task is switched out and in again after every
    so long (0: never). ``mux_us``: rotation interval when events outnumber counters. ``read_us``:
    another process reads the counts this often (0: never). ``vcpus``: how many run it unless asked
    otherwise. ``gp``, ``fixed``, ``width``: the guest's PMU. ``missing_events``: of MISSING_EVENTS,
    what becomes of events that real host perf has none for on this machine. ``charge``: the cost
    model whose times the guest clock is charged unless asked otherwise. ``reference``: the
    published measurement to print beside ours. ``notes``: what a reader of the results must know.
    """

    name: str
    summary: str
    duration_us: int
    events: tuple[ScenarioEvent, ...]
    hz: int = 1000
    cpu_hz: int = 2_500_000_000
    max_sample_rate: int = 10_000
    cpu_time_max_percent: int = 0
    switch_us: int = 0
    mux_us: int = 1000
    read_us: int = 0
    vcpus: int = 1
    gp: int = 8
    fixed: int = 3
    width: int = 48
    missing_events: str = MODELLED
    workload: Rates | None = None
    script: ScriptCounts | None = None
    idle: Idle | None = None
    host: Host | None = None
    background: tuple[Background, ...] = ()
    races: Races = field(default_factory=Races)
    charge: str = ""
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
        if self.missing_events not in MISSING_EVENTS:
            raise ValueError(
                f"missing_events {self.missing_events!r} is none of {', '.join(MISSING_EVENTS)}"
            )
        try:
            cpuid = self.cpuid
            self.host_load.check(cpuid.gp, cpuid.fixed)
        except UsageError as error:
            raise ValueError(str(error)) from None
        self._check_times()
        self._check_events()

    def _check_times(self) -> None:
        given = [name for name in ("switch_us", "read_us", "idle", "host") if getattr(self, name)]
        if self.script is not None and given:
            raise ValueError(f"{given[0]} needs [workload]: a script says itself what happens when")
        if self.script is not None and self.charge:
            raise ValueError("charge needs [workload]: the clock of a script is given")
        if self.idle is not None and self.switch_us:
            raise ValueError("switch_us and [idle] exclude each other: a task that sleeps switches")

    def _check_events(self) -> None:
        if not self.events:
            raise ValueError("events is empty: at least one event is needed")
        if self.script is not None and len({event.name for event in self.events}) < len(
            self.events
        ):
            raise ValueError("events of a script must differ: it says when each of them overflows")
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

    @property
    def host_load(self) -> HostLoad:
        """The host's own events, and the physical PMU."""
        return self.host.load(self.cpu_hz) if self.host is not None else NO_LOAD

    @property
    def labels(self) -> list[str]:
        """A name for each event, no two alike: as perf prints it, then its number among equals."""
        seen: Counter[str] = Counter()
        labels = []
        for event in self.events:
            name = event.name + MODIFIERS[event.modes]
            seen[name] += 1
            labels.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
        return labels

    def configs(self, cpuid: PmuCpuid) -> list[EventConfig]:
        """The events to open; raises :class:`UsageError` when no counter supports one."""
        return [event.config(event_named(event.name, cpuid)) for event in self.events]

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
    return shipped_names(_FOLDER)


def load_scenario(name: str) -> Scenario:
    """Load a shipped scenario by name, or a TOML file by path.

    Raises :class:`UsageError` naming the scenarios that exist, or file, line and field.
    """
    text, source = data_text(name, folder=_FOLDER, what="scenario")
    return load_toml(text, source=source, kind=Scenario)


def run_seed(seed: int, run: int, vcpu: int) -> int:
    """The seed of one run on one vCPU: different programs, the same ones for every design."""
    return (seed * 1_000_003 + run) * 1_000_003 + vcpu
