"""Host perf over perf_event_open(2): the same interface, counts and calls as the model's."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from pvpmu.host import perf_linux, perf_open
from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.linuxvcpu import LinuxVcpu, MirroringVcpu, refuse_for_linux
from pvpmu.host.perf import Attr
from pvpmu.host.perf_linux import LinuxContext, MirroredContext, Sources, group_times, sources_here
from pvpmu.host.pmc import Pmc, wanted_event
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits
from pvpmu.shared import registers as msr
from pvpmu.shared.calltimes import SYSTEM_CALLS, CallTimes
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import ResourceError, UsageError
from pvpmu.shared.events import BRANCHES, CYCLES, INSTRUCTIONS
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.tally import CALL_KINDS, HANDLER, PAUSE, READ_VALUE

BOTH = Attr(CYCLES, 3, pinned=True, exclude_host=True)
FAR = 1 << 40


@pytest.fixture(autouse=True)
def _needs_perf() -> Iterator[None]:
    reason = perf_linux.why_not()
    if reason is not None:
        pytest.skip(f"needs perf_event_open: {reason}")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, perf_linux.OVERFLOW_SIGNALS)
    yield
    while signal.sigtimedwait(perf_linux.OVERFLOW_SIGNALS, 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Clock:
    """Each look is 7 ns later."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 7
        return self.now


@pytest.fixture
def context() -> Iterator[LinuxContext]:
    made = LinuxContext(PhysicalPmu(), sources_here(), Clock())
    yield made
    made.close()


def spin_until_signalled() -> None:
    while signal.sigtimedwait(perf_linux.OVERFLOW_SIGNALS, 0) is None:
        pass


def test_an_overflow_signals_and_is_found_by_the_host_s_handler(context: LinuxContext) -> None:
    hits: list[int] = []
    event = context.create(BOTH, 200_000, lambda: hits.append(1))
    assert event is not None
    assert event.counting
    spin_until_signalled()
    context.handle_nmi()
    assert hits
    context.pause(event)
    hits.clear()
    context.handle_nmi()
    assert hits == []


def test_an_overflow_that_a_stop_comes_before_the_signal_of_is_not_lost(
    context: LinuxContext,
) -> None:
    hits: list[int] = []
    event = context.create(BOTH, FAR, lambda: hits.append(1))
    assert event is not None
    # As if the count had come so far: it is what the interrupt would have found.
    event.left = 1
    assert context.pause(event) >= 1
    assert hits == [1]


def test_a_pause_gives_the_count_and_zeroes_it(context: LinuxContext) -> None:
    event = context.create(BOTH, FAR, lambda: None)
    assert event is not None
    assert context.read_value(event) >= 0
    context.pause(event)
    assert (context.pause(event), context.read_value(event), event.counting) == (0, 0, False)
    assert context.period(event, 12_345)
    assert not context.period(event, 0)
    assert not context.period(event, 1 << 63)
    context.enable(event)
    assert event.counting
    context.disable(event)
    context.release(event)
    assert context.events == []


def test_calls_are_counted_as_the_model_counts_them_and_system_calls_apart(
    context: LinuxContext,
) -> None:
    event = context.create(BOTH, FAR, lambda: None)
    assert event is not None
    context.pause(event)
    context.read_value(event)
    assert context.tally[PAUSE] == context.tally[READ_VALUE] == 1
    times = context.times
    assert [times.calls[CALL_KINDS.index(name)] for name in ("create", "pause")] == [1, 1]
    made = dict(zip(SYSTEM_CALLS, times.system, strict=True))
    assert made == {
        "DISABLE": 1, "ENABLE": 0, "RESET": 1, "PERIOD": 0, "read": 2, "open": 1, "close": 0,
    }  # fmt: skip
    # A look at the clock on each side of a system call, and on each side of the call.
    assert times.call_ns[PAUSE] == 7 * 7
    assert context.ns_in(context.tally) == sum(times.call_ns)


@pytest.mark.skipif(perf_open.has_pmu(), reason="there is a hardware PMU")
def test_without_a_pmu_a_clock_stands_for_cycles_and_the_rest_never_counts(
    context: LinuxContext,
) -> None:
    event = context.create(Attr(BRANCHES, 3), FAR, lambda: pytest.fail("it counted"))
    assert event is not None
    assert (event.kind, event.counting, context.read_value(event)) == (None, False, 0)
    text = sources_here().described
    assert "cpu-clock stands for cpu-cycles" in text
    assert "includes host time" in text


def test_a_machine_with_a_pmu_has_hardware_events_as_kvm_asks_for_them() -> None:
    made = perf_linux._attr_of(
        Sources(dict.fromkeys((INSTRUCTIONS,), (perf_open.TYPE_HARDWARE, 1)), clocks=False),
        Attr(INSTRUCTIONS, 1, pinned=True, exclude_host=True),
        1000,
    )
    wanted = perf_open.PINNED | perf_open.EXCLUDE_HOST | perf_open.EXCLUDE_IDLE
    assert (made.type, made.config, made.sample_period) == (perf_open.TYPE_HARDWARE, 1, 1000)
    assert made.flags == wanted | perf_open.EXCLUDE_KERNEL


def test_a_raw_selector_is_a_raw_event_where_there_is_a_pmu_and_a_dummy_elsewhere() -> None:
    attr = Attr(None, 3, pinned=True, exclude_host=True, raw=0x0184_01D1)
    with_pmu = Sources({CYCLES: (perf_open.TYPE_HARDWARE, 0)}, clocks=False)
    made = perf_linux._attr_of(with_pmu, attr, 1000)
    assert (made.type, made.config) == (perf_open.TYPE_RAW, 0x0184_01D1)
    assert made.flags & perf_open.EXCLUDE_HOST
    without = Sources({CYCLES: (perf_open.TYPE_SOFTWARE, 0)}, clocks=True)
    assert without.source_of(attr) is None
    assert perf_linux._attr_of(without, attr, 1000).config == 9


def test_a_counter_s_event_hands_its_selector_on() -> None:
    pmc = Pmc(0, (1 << 48) - 1)
    pmc.eventsel = 0x0153_01D1
    assert (wanted_event(pmc)[0].kind, wanted_event(pmc)[0].raw) == (None, 0x0100_01D1)
    pmc.eventsel = 0x0053_00C4
    assert (wanted_event(pmc)[0].kind, wanted_event(pmc)[0].raw) == (BRANCHES, None)


def test_a_refusal_names_the_call_and_the_level_of_paranoia() -> None:
    with pytest.raises(ResourceError, match=r"perf_event_open of a wrong type: .*no such event"):
        perf_open.opened(perf_open.Attr(type=99), "a wrong type")
    assert "CAP_PERFMON" in perf_open._refusal("x", 13)


def test_a_mirror_gives_the_model_s_results_and_times_real_calls() -> None:
    made = MirroredContext(PhysicalPmu(), sources_here(), Clock())
    event = made.create(BOTH, 1000, lambda: None)
    assert event is not None
    made.pmu.retire([300] * 7, None)
    assert made.read_value(event) == 300
    assert made.pause(event) == 300
    assert made.times.calls[PAUSE] == 1
    assert made.tally[PAUSE] == 1
    made.release(event)
    made.close()


def test_a_group_is_stopped_and_started_by_its_leader_alone() -> None:
    clock = Clock()
    found = group_times(4, 3, clock)
    assert {name: len(spans) for name, spans in found.items()} == {"apart": 3, "group": 3}


def served(host: HostVcpu, slot: memoryview, reason: int, address: int = 0, value: int = 0) -> int:
    slot[exits.ADDRESS], slot[exits.VALUE], slot[exits.REQUEST] = address, value, reason
    host.serve()
    return int(slot[exits.REPLY])


@pytest.mark.parametrize("kind", [LinuxVcpu, MirroringVcpu])
def test_a_vcpu_s_statistics_say_what_its_calls_took(kind: type[HostVcpu]) -> None:
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    memory = memoryview(bytearray(4096)).cast("Q")
    host = kind(slot, memory, design_named("trap"), PmuCpuid())
    write, control = int(ExitReason.MSR_WRITE), int(ExitReason.CONTROL)
    served(host, slot, control, value=Control.START)
    served(host, slot, write, msr.FIXED_CTR_CTRL, 0xB0)
    served(host, slot, write | exits.NMI_BLOCKED, msr.GLOBAL_CTRL, 1 << 33)
    served(host, slot, write | exits.NMI_BLOCKED, msr.GLOBAL_CTRL, 0)
    served(host, slot, control, value=Control.STOP)
    assert host.result is not None
    times = host.result.times
    assert isinstance(times, CallTimes)
    assert sum(times.calls) == sum(sum(tally[:7]) for tally in host.result.tallies) > 0
    assert sum(host.result.tallies[HANDLER][:7]) > 0
    assert 0 < times.handler_ns <= sum(times.call_ns)
    # A new vPMU: the old one's events are gone.
    served(host, slot, control, value=Control.RESET)
    assert host.perf.events == []


def test_designs_whose_host_does_what_only_a_kernel_can_are_refused_by_name() -> None:
    for name, reason in (
        ("trap-lean", "leaves counters off at VM-entry"),
        ("mediated", "has no events"),
    ):
        with pytest.raises(UsageError, match=f"design {name} cannot have --perf linux: .*{reason}"):
            refuse_for_linux(design_named(name))
