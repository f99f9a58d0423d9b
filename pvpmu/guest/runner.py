"""Run one scenario once on one vCPU: boot, the measured window, and the truth to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import add

from pvpmu.guest.accuracy import Accuracy
from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.liveview import Instrumented
from pvpmu.guest.meter import Meter
from pvpmu.guest.msr import MsrAccess
from pvpmu.guest.perf import PerfCore
from pvpmu.guest.perf_event import PerfEvent
from pvpmu.guest.pmu import GENERATIONS, PmuDriver
from pvpmu.guest.recorder import RecordedAccess, Recorder
from pvpmu.guest.scenario import Scenario
from pvpmu.guest.script import Kind, Scripted, make_steps
from pvpmu.guest.timers import Timers
from pvpmu.guest.traced import GuestTrace
from pvpmu.guest.workload import Workload
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import GuestDesign
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import CYCLES, KINDS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER, Control, ExitReason
from pvpmu.shared.units import NS_PER_S, Ns

_PROGRESS_TICKS = 50


@dataclass(slots=True)
class Counts:
    """What the guest saw in the measured window, and afterwards.

    ``count``, ``enabled_ns``, ``running_ns``: by event number, as perf stat reports them; a
    multiplexed event's estimate is count * enabled / running. ``count_error``: by event number,
    the count less what was retired while its counter was live and not held. ``held``: counts
    retired while the page held the counters, by event number. ``retired``: by event kind; ``due``:
    by event number, in the modes that it counts, whether or not it had a counter. ``told``: by
    event number, what was retired while the page said that its live counter does not count.
    ``lowered``: how often Linux lowered the maximal sample rate; ``max_sample_rate``: what it was
    at the end, Hz. ``elapsed_ns``: guest clock at the end of the window; ``charged_ns``: what a
    meter charged.
    """

    handlers: int = 0
    acks: int = 0
    spurious: int = 0
    second_bits: int = 0
    ticks: int = 0
    sched_in: int = 0
    sched_out: int = 0
    rotations: int = 0
    reads: int = 0
    samples: int = 0
    throttles: int = 0
    lowered: int = 0
    max_sample_rate: int = 0
    samples_digest: str = ""
    elapsed_ns: Ns = 0
    charged_ns: Ns = 0
    count: list[int] = field(default_factory=list)
    enabled_ns: list[Ns] = field(default_factory=list)
    running_ns: list[Ns] = field(default_factory=list)
    count_error: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    retired: list[int] = field(default_factory=list)
    due: list[int] = field(default_factory=list)
    told: list[int] = field(default_factory=list)


@dataclass(slots=True)
class RunHooks:
    """What a shell may attach to a run.

    ``progress`` is told the guest clock reached (ns) every now and then; ``around_handler`` wraps
    the NMI handler (the timed pass reads the wall clock there); ``recorder`` counts accesses;
    ``meter`` charges exits, host work and handlers to the guest clock, which a script does not let
    it: its clock is given. ``live`` times accesses for the live view; ``trace`` tells a tracer what
    happens.
    """

    progress: Callable[[Ns], None] | None = None
    around_handler: Callable[[Callable[[], None]], Callable[[], None]] | None = None
    recorder: Recorder | None = None
    meter: Meter | None = None
    live: Instrumented | None = None
    sample_capacity: int = 0
    trace: GuestTrace | None = None


class GuestRun:
    """One run. ``memory`` and ``page_address`` are the guest's memory and where its page is."""

    def __init__(
        self,
        vcpu: Vcpu,
        memory: memoryview[int],
        page_address: int,
        scenario: Scenario,
        *,
        seed: int,
        hooks: RunHooks,
        guest: GuestDesign | None = None,
    ) -> None:
        self._vcpu = vcpu
        self._scenario = scenario
        self._hooks = hooks
        self._recorder = hooks.recorder
        self._meter = hooks.meter
        self._trace = hooks.trace
        if self._meter is not None:
            refuse_script(scenario)
        vcpu.exit(ExitReason.CONTROL, value=Control.RESET)
        if self._meter is not None:
            vcpu.exit(ExitReason.CONTROL, value=Control.WORK)
        vcpu.forget_page()
        self.cpuid: PmuCpuid = vcpu.pmu_cpuid()
        if self.cpuid != scenario.cpuid:
            raise UsageError(
                f"scenario {scenario.name!r} needs {_shape(scenario.cpuid)}, "
                f"the host offers {_shape(self.cpuid)}"
            )
        guest = guest or GuestDesign()
        self.page_registered = vcpu.register_page(memory, page_address, guest=guest, retry=True)
        generation = GENERATIONS[guest.driver]
        self._driver = PmuDriver(self._access(), self.cpuid, generation)
        self.core = PerfCore(
            self._driver,
            scenario.configs(self.cpuid),
            hz=scenario.hz,
            max_sample_rate=scenario.max_sample_rate,
            cpu_time_max_percent=scenario.cpu_time_max_percent,
            sample_capacity=hooks.sample_capacity,
        )
        self._by_number = [
            (event.number, event.hw.event.kind, event.hw) for event in self.core.events
        ]
        self.counts = Counts()
        self._timers = _timers(scenario, guest.natural_exit_us)
        self.accuracy: Accuracy | None = None
        self._settling = False
        self._interrupted_ip = 0
        self._truth = [0] * len(self.core.events)
        self._held = [0] * len(self.core.events)
        self._told = [0] * len(self.core.events)
        self._retired = {mode: [0] * KINDS for mode in (MODE_USER, MODE_KERNEL)}
        if scenario.script is not None:
            self._steps = make_steps(scenario.script, scenario.duration)
            kinds = [kind for _, kind, _ in self._by_number]
            self._program: Workload | Scripted = Scripted(self._steps, kinds)
        else:
            self._program = Workload(scenario.phases(seed), scenario.cpu_hz)
            if self._recorder is not None:
                self.accuracy = Accuracy(self._program, len(self.core.events))
        if self._trace is not None:
            self._trace.times = lambda: (self._program.now, self._all_retired()[CYCLES])
        self.core.start(0)
        if self._recorder is not None:
            self._recorder.restart()

    def _access(self) -> MsrAccess:
        """What the driver uses: the seam, or what traps, and whoever looks at it from outside."""
        # As a kernel that finds no page leaves its native MSR operations in place.
        access: MsrAccess = self._vcpu.seam if self.page_registered else self._vcpu.trapped
        if self._hooks.live is not None:
            access = self._hooks.live.access(access)
        if self._recorder is not None:
            access = RecordedAccess(access, self._recorder)
        if self._trace is not None:
            access = self._trace.access(access)
        return access

    def run(self) -> Counts:
        """Run the measured window, then settle the counts outside it."""
        vcpu = self._vcpu
        vcpu.program = self._program if isinstance(self._program, Workload) else None
        vcpu.on_retire = self._on_retire
        vcpu.on_injection = self._on_injection
        if self.accuracy is not None:
            vcpu.before_retire = self.accuracy.before
            self.core.on_sample = self.accuracy.sampled
        handler: Callable[[], None] = self._handle_nmi
        if self._trace is not None:
            handler = self._trace.handler(handler, lambda: self._interrupted_ip, self.counts)
            self.core.on_sample = self._trace_samples(self._trace, self.core.on_sample)
        around = self._hooks.around_handler
        vcpu.on_nmi = around(handler) if around is not None else handler
        vcpu.exit(ExitReason.CONTROL, value=Control.START)
        if isinstance(self._program, Scripted):
            self._run_script(self._program)
        else:
            if self._meter is not None:
                self._meter.open(self._program)
            self._run_workload(self._program)
        vcpu.exit(ExitReason.CONTROL, value=Control.STOP)
        counts = self.counts
        counts.elapsed_ns = self._program.now
        if self._meter is not None:
            self._meter.close()
            counts.charged_ns = self._meter.charged
        counts.samples = self.core.samples.total
        counts.samples_digest = self.core.samples.digest
        counts.throttles = self.core.throttles
        counts.lowered, counts.max_sample_rate = self.core.limit.lowered, self.core.limit.rate
        self._settling = True
        self.core.on_sample = None
        if self._recorder is not None:
            self._recorder.closed = True
        self.core.sched_out(self._program.now)
        self.core.stop(self._program.now)
        counts.count = [event.hw.count for event in self.core.events]
        counts.enabled_ns = [event.enabled_ns for event in self.core.events]
        counts.running_ns = [event.running_ns for event in self.core.events]
        counts.count_error = [
            count - truth for count, truth in zip(counts.count, self._truth, strict=True)
        ]
        counts.held = self._held
        counts.retired = self._all_retired()
        counts.due = [
            sum(retired[kind] for mode, retired in self._retired.items() if hw.modes & mode)
            for _, kind, hw in self._by_number
        ]
        counts.told = self._told
        if vcpu.seam.page is not None:
            # Power-off: the page's memory is about to be somebody else's (rule END-6).
            vcpu.unregister_page()
        return counts

    # The two kinds of program ----------------------------------------------------------------

    def _run_workload(self, program: Workload) -> None:
        duration, timers = self._scenario.duration, self._timers
        self._sched_in()
        while program.now < duration:
            running = self._waited_for(program.now, tick=True)
            self._run_to(program, timers.next_of([*running, "switch"], duration))
            self._interrupts(program, running)
            if timers.due("switch", program.now) and program.now < duration:
                self._sched_out()
                self._sleep(program)
                if program.now < duration:
                    self._sched_in()

    def _sleep(self, program: Workload) -> None:
        """The task sleeps, if it does, and nothing else runs: HLT until the next interrupt."""
        idle = self._scenario.idle
        if idle is None:
            return
        until = min(program.now + idle.sleep_us * 1000, self._scenario.duration)
        while program.now < until:
            waking = self._waited_for(program.now, tick=idle.ticks)
            self._vcpu.exit(ExitReason.HLT)
            # What the exit is charged may be more than there was to wait.
            program.pass_time(max(self._timers.next_of(waking, until) - program.now, 0))
            self._interrupts(program, waking)
        self._timers.skip("tick", program.now)
        self._timers.restart("switch", program.now)

    def _waited_for(self, now: Ns, *, tick: bool) -> list[str]:
        """The timers that would interrupt the vCPU; those that nobody waits for do not fire."""
        wanted = {
            "natural": True,
            "tick": tick,
            "mux": self.core.rotates,
            "read": self.core.counts_now,
        }
        for name, is_wanted in wanted.items():
            if not is_wanted:
                self._timers.skip(name, now)
        return [name for name, is_wanted in wanted.items() if is_wanted]

    def _interrupts(self, program: Workload, names: Sequence[str]) -> None:
        """What is due: exits that happen anyway, then the tick, then the rest."""
        now, core = program.now, self.core
        for name in names:
            if not self._timers.due(name, now):
                continue
            if name == "natural":
                self._vcpu.exit(ExitReason.EXTERNAL_INTERRUPT)
            elif name == "tick":
                self._tick()
            elif name == "mux":
                self._operation("rotation", lambda: core.rotate(program.now))
                self.counts.rotations += 1
            else:
                self._operation("read", core.read)
                self.counts.reads += 1

    def _run_to(self, program: Workload, until: Ns) -> None:
        """Run the program until the guest clock reads ``until``."""
        if self._meter is None:
            self._vcpu.run_until(program.cycle_of(until))
        while program.now < until:
            # What a PMI is charged brings the end nearer.
            self._vcpu.run_until(program.cycle_of(until), stop_at_pmi=True)

    def _run_script(self, program: Scripted) -> None:
        vcpu = self._vcpu
        for step in self._steps:
            if self._timers.due("natural", step.time):
                # A script has nothing between its steps: what waits for an exit waits no longer.
                vcpu.exit(ExitReason.EXTERNAL_INTERRUPT)
            retired = program.advance(step, vcpu.distances())
            if any(retired):
                vcpu.retire(retired)
            match step.kind:
                case Kind.OVERFLOW:
                    vcpu.pmi_exit(stray=step.stray)
                case Kind.TICK:
                    self._tick()
                case Kind.SCHED_IN:
                    self._sched_in()
                case Kind.SCHED_OUT:
                    self._sched_out()

    # Operations ------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._operation("tick", self.core.tick)
        self.counts.ticks += 1
        if self._hooks.progress is not None and not self.counts.ticks % _PROGRESS_TICKS:
            self._hooks.progress(self._program.now)

    def _sched_in(self) -> None:
        self._operation("sched_in", lambda: self.core.sched_in(self._program.now))
        self.counts.sched_in += 1

    def _sched_out(self) -> None:
        self._operation("sched_out", lambda: self.core.sched_out(self._program.now))
        self.counts.sched_out += 1

    def _operation(self, name: str, run: Callable[[], None]) -> None:
        if self._trace is not None:
            run = self._trace.operation(name, run)
        if self._recorder is None:
            run()
        else:
            self._recorder.begin()
            run()
            self._recorder.end(name)

    def _handle_nmi(self) -> None:
        if self._settling:
            # A PMI that was on its way when the measured window ended.
            self._vcpu.seam.handler_begins()
            self.core.handle_nmi(self._program.now, self._interrupted_ip)
            self._vcpu.seam.handler_ends()
            return
        recorder = self._recorder
        enabled = self._driver.enabled
        if recorder is not None:
            recorder.begin()
        start = self._program.now
        self._vcpu.seam.handler_begins()
        handled = self.core.handle_nmi(start, self._interrupted_ip)
        self._vcpu.seam.handler_ends()
        counts = self.counts
        counts.handlers += 1
        if handled:
            counts.acks += 1
            counts.second_bits += handled - 1
        else:
            counts.spurious += 1
        if self._meter is not None:
            self._meter.handled()
        self.core.limit.took(self._program.now - start)
        if recorder is not None:
            kind = "pmi" if enabled else "pmi_disabled"
            recorder.end(kind if handled else "pmi_spurious")

    def _trace_samples(
        self, trace: GuestTrace, then: Callable[[PerfEvent], None] | None
    ) -> Callable[[PerfEvent], None]:
        def sampled(event: PerfEvent) -> None:
            trace.sample(event.number, self._interrupted_ip, event.hw.last_period)
            if then is not None:
                then(event)

        return sampled

    def _on_injection(self) -> None:
        # A sample points to what the NMI interrupted, not to where its handler reads the counters.
        self._interrupted_ip = self._program.ip
        if self.accuracy is not None:
            self.accuracy.interrupted()

    def _on_retire(self, counts: Sequence[int], mode: int) -> None:
        """The truth: what was retired, and while each event's counter was live and not held."""
        self._retired[mode] = list(map(add, self._retired[mode], counts))
        if not self._driver.enabled:
            return
        seam = self._vcpu.seam
        into = self._held if seam.held else self._truth
        for number, kind, hw in self._by_number:
            if hw.active and hw.modes & mode:
                into[number] += counts[kind]
        if seam.page is not None and seam.page.not_counting:
            self._tell_uncounted(seam.page.not_counting, counts, mode)

    def _all_retired(self) -> list[int]:
        """What was retired, by event kind."""
        return list(map(add, *self._retired.values()))

    def _tell_uncounted(self, not_counting: int, counts: Sequence[int], mode: int) -> None:
        """What was retired for counters of which the page says that they do not count."""
        for number, kind, hw in self._by_number:
            if hw.modes & mode and hw.active and not_counting >> (hw.counter or 0) & 1:
                self._told[number] += counts[kind]


def _timers(scenario: Scenario, natural_exit_us: int) -> Timers:
    """``switch``: from one sched-in to the sched-out; ``natural``: exits that happen anyway."""
    idle = scenario.idle
    return Timers(
        {
            "natural": natural_exit_us * 1000,
            "tick": NS_PER_S // scenario.hz,
            "mux": scenario.mux_us * 1000,
            "read": scenario.read_us * 1000,
            "switch": (idle.run_us if idle is not None else scenario.switch_us) * 1000,
        }
    )


def refuse_script(scenario: Scenario) -> None:
    """Raise :class:`UsageError` for a scenario whose clock cannot be charged."""
    if scenario.script is not None:
        raise UsageError(
            f"scenario {scenario.name!r} is a script, whose clock is given: nothing can be "
            "charged to it, only to that of a workload"
        )


def _shape(cpuid: PmuCpuid) -> str:
    return f"{cpuid.gp} GP and {cpuid.fixed} fixed counters of {cpuid.gp_width} bits"
