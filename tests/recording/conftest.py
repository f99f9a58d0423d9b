"""Whole runs, inline, of which each side told a tracer everything."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pvpmu.guest.machine import Machine, RunJob, RunReport
from pvpmu.guest.scenario import Scenario, ScenarioEvent, load_scenario
from pvpmu.guest.script import ScriptCounts
from pvpmu.host.stats import HostStats
from pvpmu.host.traced import TracedVcpu
from pvpmu.recording.format import Kind, Record, record_of
from pvpmu.recording.tracer import Tracer
from pvpmu.shared import exits
from pvpmu.shared.design import design_named
from pvpmu.shared.exits import Control
from pvpmu.shared.page import PAGE_SIZE

SHORT = Scenario(
    name="short",
    summary="each operation a few times",
    duration_us=20_000,
    events=tuple(
        ScenarioEvent(name=name, frequency=4000, initial_period=100_000)
        for name in ("cpu-cycles", "instructions", "branch-instructions", "cache-misses")
    ),
    script=ScriptCounts(
        ticks=5, sched_in=3, sched_out=2, overflows=(9, 8, 7, 6), coincident=3, stray=2
    ),
)


@dataclass
class Side:
    """A tracer and the records that it made."""

    records: list[Record] = field(default_factory=list)
    tracer: Tracer = field(init=False)

    def __post_init__(self) -> None:
        self.tracer = Tracer(
            lambda *words: self.records.append(record_of(words)), time.monotonic_ns
        )

    @property
    def window(self) -> list[Record]:
        """Between the marks of START and STOP."""
        marks = [n for n, r in enumerate(self.records) if r.kind == Kind.MARK]
        codes = [self.records[n].code for n in marks]
        start, stop = (marks[codes.index(code)] for code in (Control.START, Control.STOP))
        return self.records[start:stop]

    def of(self, kind: Kind) -> list[Record]:
        return [record for record in self.window if record.kind == kind]

    def count(self, kind: Kind, *names: str) -> Counter[Any]:
        """Records of the window by these fields."""
        return Counter(tuple(getattr(record, name) for name in names) for record in self.of(kind))


@dataclass
class TracedRun:
    """One run: what it says of itself, and what was traced."""

    report: RunReport
    host_stats: HostStats
    host: Side
    guest: Side


def traced_run(design: str, scenario: Scenario | str = SHORT, **options: Any) -> TracedRun:
    if isinstance(scenario, str):
        scenario = load_scenario(scenario)
    made = design_named(design)
    host, guest = Side(), Side()
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    memory = memoryview(bytearray(PAGE_SIZE)).cast("Q")
    vcpu = TracedVcpu(
        slot,
        memory,
        made,
        scenario.cpuid,
        made.profile,
        load=scenario.host_load,
        tracer=host.tracer,
    )
    machine = Machine(slot, vcpu.serve, memory, 0, tracer=guest.tracer)
    job = RunJob(scenario, 1, record=True, guest=made.guest, **options)
    report = job.do(machine, lambda _: None)
    assert vcpu.result is not None
    return TracedRun(report, vcpu.result, host, guest)


@pytest.fixture(scope="session")
def run_traced() -> Callable[..., TracedRun]:
    """Run (design, scenario or its name, RunJob's options); what it left."""
    return traced_run
