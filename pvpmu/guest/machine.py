"""A vCPU's machine as the guest sees it, and the jobs that a guest worker does on it.

A job is plain data; :meth:`Job.do` returns plain data. The same jobs run in a worker process and
inline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median
from typing import Protocol, TypeVar

from pvpmu.guest.accuracy import SampleErrors
from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.liveview import GuestLive, Instrumented
from pvpmu.guest.meter import Meter
from pvpmu.guest.perf_event import Sample
from pvpmu.guest.recorder import OperationCounts, Recorder
from pvpmu.guest.runner import Counts, GuestRun, RunHooks
from pvpmu.guest.scenario import Races, Scenario
from pvpmu.guest.traced import GuestTrace
from pvpmu.recording.tracer import Tracer
from pvpmu.shared import exits
from pvpmu.shared.clock import timer_cost
from pvpmu.shared.costs import Costs
from pvpmu.shared.design import GuestDesign
from pvpmu.shared.exits import ExitReason, SlotWords
from pvpmu.shared.histogram import Histogram
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.units import Ns

_FLOOR_ROUNDS, _FLOOR_BATCH = 15, 10
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a vCPU runs on.

    ``slot``: its exit slot. ``cross``: hand over to the host and wait for VM-entry. ``memory``:
    the guest's memory as 64-bit words. ``page_address``: where its page lies in that memory.
    ``release`` and ``acquire``: the bare crossing, None where there is none (inline). ``tracer``:
    what runs are recorded by, None if they are not. ``live``: where timed runs record their
    latencies for the live view, None for nowhere.
    """

    slot: SlotWords
    cross: Callable[[], object]
    memory: memoryview[int]
    page_address: int
    release: Callable[[], None] | None = None
    acquire: Callable[[], None] | None = None
    tracer: Tracer | None = None
    live: GuestLive | None = None

    def trace(self) -> GuestTrace | None:
        """What traces one run, if runs are traced."""
        return GuestTrace(self.tracer, self.slot) if self.tracer is not None else None

    def vcpu(
        self,
        races: Races,
        recorder: Recorder | None = None,
        meter: Meter | None = None,
        trace: GuestTrace | None = None,
        live: Instrumented | None = None,
    ) -> Vcpu:
        """A vCPU after power-on."""
        cross = self.cross if live is None else live.cross
        if trace is not None:
            cross = trace.crossing(cross)
        if recorder is not None:
            cross = recorder.crossing(self.slot, cross)
        if meter is not None:
            cross = meter.crossing(cross)
        return Vcpu(
            self.slot,
            cross,
            skid=races.pmi_skid,
            latency=races.injection_latency,
            tail=races.handler_tail,
        )

    def round_trips(self, batch: int) -> Callable[[int], None] | None:
        """Have the host answer one batch of bare round trips, to be made at once; None inline."""
        release, acquire = self.release, self.acquire
        if release is None or acquire is None:
            return None
        self.slot[exits.VALUE] = batch
        self.slot[exits.REQUEST] = ExitReason.FLOOR
        self.cross()

        def trips(batch: int) -> None:
            for _ in repeat(None, batch):
                release()
                acquire()

        return trips

    def measure_floor(self) -> None:
        """Measure the bare round trip for the live view, as it is now: others may use the CPU."""
        live, costs = self.live, []
        if live is None:
            return
        for _ in range(_FLOOR_ROUNDS):
            trips = self.round_trips(_FLOOR_BATCH)
            if trips is None:
                return
            start = live.clock()
            trips(_FLOOR_BATCH)
            costs.append((live.clock() - start) / _FLOOR_BATCH)
        live.measured_floor(median(costs))

    def instrumented(self) -> Instrumented | None:
        """What times a vCPU, if latencies are recorded."""
        if self.live is None:
            return None
        page = slice(self.page_address // 8, (self.page_address + PAGE_SIZE) // 8)
        return self.live.instrument(self.slot, self.memory[page], self.cross)


class Progress(Protocol):
    """Called with the share of a job that is done, 0 to 1."""

    def __call__(self, share: float, /) -> None: ...


class Job(Protocol[T_co]):
    """Something a guest worker can do; what it returns crosses a pipe."""

    def do(self, machine: Machine, progress: Progress) -> T_co: ...


@dataclass(slots=True)
class Recorded:
    """A recorder's numbers, by (op, address or RDPMC index) and by operation."""

    accesses: dict[tuple[str, int], int]
    exits: dict[tuple[str, int], int]
    operations: dict[str, OperationCounts]
    digest: str


@dataclass(slots=True)
class RunReport:
    """What one run on one vCPU gave.

    ``samples``: the last ones, as many as the job asked for. ``errors``: of the recorded samples of
    a workload. ``handler_ns``: wall time of each
    NMI handler, less ``timer_ns``, what reading the clock costs. ``run_ns``: of the whole run.
    """

    counts: Counts
    page_registered: bool
    samples: list[Sample] = field(default_factory=list)
    recorded: Recorded | None = None
    errors: SampleErrors | None = None
    handler_ns: Histogram = field(default_factory=Histogram)
    timer_ns: Ns = 0
    run_ns: Ns = 0


@dataclass(frozen=True, slots=True)
class RunJob:
    """Run a scenario once. ``record``: count accesses (untimed); otherwise time the handler.

    ``clock`` is only read when timing; it returns ns. ``sample_capacity``: samples to bring back.
    ``charge``: what exits, host work and handlers take on the guest clock, whole ns.
    ``guest``: the guest's side of a design.
    """

    scenario: Scenario
    seed: int
    record: bool = False
    clock: Callable[[], Ns] | None = None
    sample_capacity: int = 0
    charge: Costs | None = None
    guest: GuestDesign = field(default_factory=GuestDesign)

    def do(self, machine: Machine, progress: Progress) -> RunReport:
        """Return a :class:`RunReport`; raises :class:`UsageError` for an unsupported event."""
        recorder = Recorder() if self.record else None
        meter = Meter(self.charge, machine.slot) if self.charge is not None else None
        trace = machine.trace()
        live = machine.instrumented()
        if live is not None:
            machine.measure_floor()
        report = RunReport(Counts(), page_registered=False)
        timing = self._timing(report)

        def around(handler: Callable[[], None]) -> Callable[[], None]:
            if live is not None:
                # The pass that counts spends its time on that: its handlers are not to be timed.
                counts = run.counts
                handler = live.handler(handler, lambda: counts.spurious, timed=not self.record)
            return handler if timing is None else timing(handler)

        duration = self.scenario.duration
        hooks = RunHooks(
            progress=lambda now: progress(min(now / duration, 1.0)),
            around_handler=around,
            recorder=recorder,
            meter=meter,
            live=live,
            sample_capacity=self.sample_capacity,
            trace=trace,
        )
        run = GuestRun(
            machine.vcpu(self.scenario.races, recorder, meter, trace, live),
            machine.memory,
            machine.page_address,
            self.scenario,
            seed=self.seed,
            hooks=hooks,
            guest=self.guest,
        )
        start = self.clock() if self.clock is not None else 0
        report.counts = run.run()
        report.run_ns = self.clock() - start if self.clock is not None else 0
        report.page_registered = run.page_registered
        report.samples = list(run.core.samples.kept)
        if recorder is not None:
            report.recorded = Recorded(
                dict(recorder.accesses),
                dict(recorder.exits),
                recorder.operations,
                recorder.digest,
            )
        if run.accuracy is not None:
            report.errors = run.accuracy.errors
        return report

    def _timing(
        self, report: RunReport
    ) -> Callable[[Callable[[], None]], Callable[[], None]] | None:
        clock = self.clock
        if clock is None:
            return None
        report.timer_ns = timer_cost(clock)
        cost, record = report.timer_ns, report.handler_ns.record

        def around(handler: Callable[[], None]) -> Callable[[], None]:
            def timed() -> None:
                start = clock()
                handler()
                record(clock() - start - cost)

            return timed

        return around
