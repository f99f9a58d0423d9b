"""Whole runs, inline, of which each side told a tracer everything."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pvpmu.bench.vm import VmConfig, open_vm
from pvpmu.guest.machine import Machine, RunJob, RunReport
from pvpmu.guest.scenario import Scenario, load_scenario, run_seed
from pvpmu.guest.traced import described
from pvpmu.host.stats import HostStats
from pvpmu.host.traced import TracedVcpu
from pvpmu.recording.file import RecordingFile
from pvpmu.recording.format import Kind, Record, record_of
from pvpmu.recording.reader import Recording
from pvpmu.recording.tracer import Tracer
from pvpmu.shared import exits
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.design import design_named
from pvpmu.shared.exits import Control
from pvpmu.shared.page import PAGE_SIZE

from ..short import SHORT  # noqa: TID252 (tests are no package)


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


@dataclass
class RecordedRun:
    """A recording in a file, and what the run itself counted, by vCPU."""

    path: Path
    reports: list[RunReport]
    stats: list[VcpuStats]

    def open(self) -> Recording:
        return Recording(self.path)


def record(
    path: Path, *designs: str, scenario: Scenario = SHORT, vcpus: int = 1, runs: int = 1
) -> RecordedRun:
    """Record runs inline, one section for each design."""
    reports: list[RunReport] = []
    stats: list[VcpuStats] = []
    for number, name in enumerate(designs):
        design = design_named(name)
        meta = {"design": name, **described(scenario, 1)}
        recording = RecordingFile(path, meta, append=number > 0)
        config = VmConfig(design=design, cpuid=scenario.cpuid, vcpus=vcpus, recording=recording)
        with open_vm(config, "inline") as vm:
            for run in range(runs):
                jobs = [
                    RunJob(scenario, run_seed(1, run, vcpu), record=True, guest=design.guest)
                    for vcpu in range(vcpus)
                ]
                reports += vm.run(jobs)
                stats += vm.stats()
        assert recording.outcome.lost == 0
    return RecordedRun(path, reports, stats)


@pytest.fixture(scope="session")
def trap_run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """The short script on the design trap."""
    return record(tmp_path_factory.mktemp("recording") / "trap", "trap")


@pytest.fixture(scope="session")
def page_run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """20 ms of the workload on the page, on two vCPUs."""
    scenario = replace(load_scenario("br_instr"), duration_us=20_000)
    path = tmp_path_factory.mktemp("recording") / "page"
    return record(path, "page", scenario=scenario, vcpus=2, runs=2)


@pytest.fixture(scope="session")
def both_run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """The short script on two designs, in one file."""
    return record(tmp_path_factory.mktemp("recording") / "both", "trap", "page")


@pytest.fixture(scope="session")
def make_recording() -> Callable[..., RecordedRun]:
    """Record (path, designs, scenario=, vcpus=, runs=)."""
    return record
