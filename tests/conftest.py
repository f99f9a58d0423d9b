"""Whole runs with host and guest in one process, and the script of the 2021 trace."""

from __future__ import annotations

import gc
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.perf import PerfCore
from pvpmu.guest.perf_event import EventConfig, PerfEvent
from pvpmu.guest.pmu import PmuDriver
from pvpmu.guest.recorder import Recorder
from pvpmu.guest.runner import Counts, GuestRun, RunHooks
from pvpmu.guest.scenario import Scenario, load_scenario, run_seed
from pvpmu.host.vcpu import HostStats, HostVcpu
from pvpmu.shared import exits, page
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import DriverName, design_named
from pvpmu.shared.errors import ResourceError
from pvpmu.shared.events import BY_NAME, KINDS
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.vm import build, kvm

_NAMES = ("cpu-cycles", "instructions", "branch-instructions", "cache-misses")
_NEVER = 1 << 62
_TICK = 1_000_000


_LONGEST = (
    "model/test_model.py", "conformance/guests/test_guests.py", "processes/test_lifecycle.py",
    "test_designs.py", "conformance/test_random.py", "bench/test_realvm.py", "test_cli.py",
    "conformance/test_process_target.py", "conformance/test_realvm_target.py",
    "processes/test_live.py", "processes/test_hostile_peers.py", "processes/test_c_guest.py",
    "conformance/test_mutants.py", "test_nmi_everywhere.py", "vm/test_jobs.py",
    "host/test_lean.py", "test_equality.py", "recording/test_exact.py",
)  # fmt: skip
"""Files that take longest, the first of all first: none of them must be the one that is waited for
when every other has ended (``pytest --dist loadfile --no-loadscope-reorder``)."""


# The same examples everywhere and every time, and nothing that fails where a machine is slow.
settings.register_profile(
    "pvpmu",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pvpmu")


def pytest_configure() -> None:
    """Let SIGINT through to what tests start: a shell's background job has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What was collected stays: collecting garbage need not look at it in every test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the rest stays in order."""
    tests = Path(__file__).parent
    first = {tests / file: number for number, file in enumerate(_LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


@dataclass
class InlineRun:
    """What one run left behind."""

    design: str
    guest: GuestRun
    counts: Counts
    host: HostStats
    recorder: Recorder

    @property
    def calls(self) -> int:
        """Host perf calls of the measured window, all kinds and places."""
        return sum(sum(tally[:7]) for tally in self.host.tallies)

    @property
    def pmu_exits(self) -> int:
        """MSR_READ, MSR_WRITE and RDPMC exits of the measured window."""
        return sum(self.recorder.exits.values())

    def accesses(self, op: str, *addresses: int) -> int:
        """How often the driver did ``op`` on any of ``addresses`` (all when none is given)."""
        return sum(
            number
            for (done, address), number in self.recorder.accesses.items()
            if done == op and (not addresses or address in addresses)
        )

    def exits_per(self, operation: str) -> float:
        """PMU exits of one operation, on average."""
        done = self.recorder.operations[operation]
        return done.exits / done.count


def _run(
    design: str,
    scenario: Scenario | str,
    *,
    seed: int = 1,
    capacity: int = 0,
    prepare: Callable[[GuestRun, HostVcpu], None] | None = None,
    driver: DriverName | None = None,
) -> InlineRun:
    if isinstance(scenario, str):
        scenario = load_scenario(scenario)
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    memory = memoryview(bytearray(2 * PAGE_SIZE)).cast("Q")
    made = design_named(design)
    host = HostVcpu(slot, memory, made, scenario.cpuid, made.profile, load=scenario.host_load)
    recorder = Recorder()
    races = scenario.races
    vcpu = Vcpu(
        slot,
        recorder.crossing(slot, host.serve),
        skid=races.pmi_skid,
        latency=races.injection_latency,
        tail=races.handler_tail,
    )
    hooks = RunHooks(recorder=recorder, sample_capacity=capacity)
    guest = GuestRun(
        vcpu,
        memory,
        PAGE_SIZE,
        scenario,
        seed=run_seed(seed, 0, 0),
        hooks=hooks,
        guest=replace(made.guest, driver=driver) if driver else made.guest,
    )
    if prepare is not None:
        prepare(guest, host)
    counts = guest.run()
    assert host.result is not None
    return InlineRun(design, guest, counts, host.result, recorder)


@pytest.fixture(scope="session")
def inline() -> Callable[..., InlineRun]:
    """Run (design name, scenario or its name, seed=, capacity=, driver=); what it left.

    ``prepare`` is called with guest and host before the run.
    """
    return _run


@pytest.fixture(scope="session")
def script_runs() -> dict[str, InlineRun]:
    """The script of the 2021 trace, once in each design."""
    return {name: _run(name, "br_instr-trace") for name in ("trap-5.14", "trap", "page")}


# An NMI at any access of the page --------------------------------------------------------------


class Window:
    """The page's words; calls ``fire`` once, at the ``point``-th moment around an access."""

    def __init__(self, words: Any) -> None:
        self._words = words
        self.quiet = True
        self.points = 0
        self.point = _NEVER
        self.fire: Callable[[], None] = lambda: None

    def moment(self) -> None:
        """Between two accesses."""
        if self.quiet:
            return
        self.points += 1
        if self.points - 1 == self.point:
            self.quiet = True
            self.fire()
            self.quiet = False

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, index: int) -> int:
        self.moment()
        value: int = self._words[index]
        self.moment()
        return value

    def __setitem__(self, index: int, value: int) -> None:
        self.moment()
        self._words[index] = value
        self.moment()

    def compare_exchange(self, index: int, expected: int, wanted: int) -> bool:
        """One step that no NMI splits."""
        self.moment()
        stored: bool = self._words[index] == expected
        if stored:
            self._words[index] = wanted
        self.moment()
        return stored


class Memory:
    """Guest memory whose slices are windows."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.window: Window | None = None

    def __getitem__(self, where: slice) -> Window:
        self.window = Window(self._memory[where])
        return self.window


class QuietVcpu(Vcpu):
    """A VM-exit and the VM-entry after it are one step; the NMI handler inside is not."""

    window: Window | None = None

    def exit(self, reason: int, address: int = 0, value: int = 0) -> int:
        window = self.window
        if window is None:
            return super().exit(reason, address, value)
        window.moment()
        was, window.quiet = window.quiet, True
        try:
            result = super().exit(reason, address, value)
        finally:
            window.quiet = was
        window.moment()
        return result


class NmiMachine:
    """Host and guest in one process, four frequency events, the silicon's truth."""

    def __init__(self) -> None:
        slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.raw = memoryview(bytearray(2 * PAGE_SIZE)).cast("Q")
        self.host = HostVcpu(slot, self.raw, design_named("page"), PmuCpuid())
        self.vcpu = QuietVcpu(slot, self.host.serve)
        memory: Any = Memory(self.raw)
        assert self.vcpu.register_page(memory, PAGE_SIZE)
        assert memory.window is not None
        self.vcpu.window = self.window = memory.window
        self.seam = self.vcpu.seam
        self.driver = PmuDriver(self.seam, self.vcpu.pmu_cpuid())
        configs = [EventConfig(BY_NAME[name], 1000, initial_period=5000) for name in _NAMES]
        self.core = PerfCore(self.driver, configs, hz=1000, max_sample_rate=1_000_000)
        self.vcpu.on_nmi = self._on_nmi
        self.truth: Counter[int] = Counter()
        self.handlers = self.handled = self.raised = 0
        self.trace_handler = False
        self.now = 50 * _TICK

    @property
    def words(self) -> Any:
        """The page without instruments."""
        return self.raw[PAGE_SIZE // 8 :]

    def retire(self, counts: dict[int, int]) -> None:
        """Retire counts by kind in user mode; the truth is what started counters take of it."""
        for counter in self.host.hardware.started:
            self.truth[counter.kind] += counts.get(counter.kind, 0)
        self.vcpu.retire([counts.get(kind, 0) for kind in range(KINDS)])

    @property
    def status(self) -> int:
        """GLOBAL_STATUS as the page has it."""
        words = self.words
        return int((words[page.RAISED] ^ words[page.ACKED]) & words[page.STATUS_MASK])

    def overflow(self, event: PerfEvent) -> None:
        """Let the live counter of ``event`` overflow and take the physical PMI."""
        assert event.hw.counter is not None
        kind = _kind(event)
        self.retire({kind: self.vcpu.distances()[kind]})
        # An overflow of a counter whose bit is still set is one with it.
        self.raised += not self.status >> event.hw.counter & 1
        self.vcpu.pmi_exit()

    def inject(self, what: str) -> None:
        """Leave the guest and enter it with an NMI."""
        # One that nobody reloaded after its last overflow is a whole width away.
        distances = self.vcpu.distances()
        live = [event for event in self.core.events if 0 < distances[_kind(event)] < 1 << 40]
        if what == "overflow" and live:
            self.overflow(next((e for e in live if e.number == 2), live[-1]))
        elif what == "stray":
            self.vcpu.pmi_exit(stray=True)
        else:
            self.host.queue_nmi()
            self.vcpu.pmi_exit()

    def arm(self, point: int, injection: tuple[str, ...]) -> None:
        """Fire ``injection`` at ``point``, and count points from here."""

        def fire() -> None:
            for what in injection:
                self.inject(what)

        window = self.window
        window.points, window.point, window.fire = 0, point, fire
        window.quiet = self.trace_handler

    def disarm(self) -> int:
        """Stop counting; how many points there were."""
        self.window.quiet, self.window.point = True, _NEVER
        self.trace_handler = False
        return self.window.points

    def _on_nmi(self) -> None:
        was = self.window.quiet
        self.window.quiet = was and not self.trace_handler
        self.now += 100_000
        self.handlers += 1
        self.handled += self.core.handle_nmi(self.now, 0)
        self.window.quiet = was


def _kind(event: PerfEvent) -> int:
    return event.config.event.kind


@pytest.fixture(scope="session")
def nmi_machine() -> type[NmiMachine]:
    """Build a machine of the page design whose page accesses are instrumented."""
    return NmiMachine


@pytest.fixture
def real_vm(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A real VM can be had here, else the reason is why the test is skipped.

    Its guest is built for these tests, and leaves nothing in the user's cache.
    """
    folder = tmp_path_factory.getbasetemp() / "guest-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    reason = kvm.unusable()
    if reason is not None:
        pytest.skip(f"needs a real VM: {reason}")
    try:
        build.compiler()
    except ResourceError as error:
        pytest.skip(f"needs a C compiler: {error}")
