"""Host perf over perf_event_open(2): the same interface, counts and calls as the model's."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from pvpmu.host import perf_linux, perf_open
from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.linuxvcpu import LinuxVcpu, MirroringVcpu, TimedVcpu
from pvpmu.host.perf import Attr
from pvpmu.host.perf_linux import LinuxContext, group_times
from pvpmu.host.perf_sources import sources_here
from pvpmu.host.perfs import refuse_for_linux
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits
from pvpmu.shared import registers as msr
from pvpmu.shared.calltimes import SYSTEM_CALLS, CallTimes
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import BRANCHES, CYCLES, INSTRUCTIONS, REFUSED
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.tally import CALL_KINDS, CREATE, HANDLER, PAUSE, READ_VALUE

from .conftest import Clock

pytestmark = pytest.mark.usefixtures("needs_perf")

BOTH = Attr(CYCLES, 3, pinned=True, exclude_host=True)
FAR = 1 << 40


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
def test_without_a_pmu_what_no_clock_stands_for_is_a_dummy_that_never_counts(
    context: LinuxContext,
) -> None:
    event = context.create(Attr(BRANCHES, 3), FAR, lambda: pytest.fail("it counted"))
    assert event is not None
    assert (event.kind, event.counting, context.read_value(event)) == (None, False, 0)
    event.left = -1
    context.handle_nmi()


@pytest.mark.skipif(perf_open.has_pmu(), reason="there is a hardware PMU")
def test_without_a_pmu_the_kernel_refuses_it_and_the_call_took_its_time() -> None:
    made = LinuxContext(PhysicalPmu(), sources_here(REFUSED), Clock())
    assert made.create(Attr(BRANCHES, 3), FAR, lambda: None) is None
    assert made.events == []
    assert made.tally[CREATE] == made.times.calls[CREATE] == 1
    assert dict(zip(SYSTEM_CALLS, made.times.system, strict=True))["open"] == 1
    assert made.times.call_ns[CREATE] > 0
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


@pytest.mark.skipif(perf_open.has_pmu(), reason="there is a hardware PMU")
@pytest.mark.parametrize("kind", [LinuxVcpu, MirroringVcpu])
def test_a_counter_whose_event_is_refused_is_said_not_to_count(kind: type[TimedVcpu]) -> None:
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    memory = memoryview(bytearray(4096)).cast("Q")
    host = kind(slot, memory, design_named("page"), PmuCpuid(), missing=REFUSED)
    write = int(ExitReason.MSR_WRITE)
    # Instructions and cycles; only cycles have a clock.
    served(host, slot, write, msr.FIXED_CTR_CTRL, 0xBB)
    served(host, slot, write, msr.GLOBAL_CTRL, 3 << 32)
    assert (host.vpmu.live, host.vpmu.not_counting) == (3 << 32, 1 << 32)
    slot[exits.RETIRED_USER_AT + INSTRUCTIONS] = 1 << 50
    served(host, slot, int(ExitReason.HLT) | exits.RETIRED_USER)
    assert host.vpmu.global_status & 1 << 32 == 0
    served(host, slot, write, msr.GLOBAL_CTRL, 0)
    served(host, slot, int(ExitReason.CONTROL), value=Control.RESET)


def test_designs_whose_host_does_what_only_a_kernel_can_are_refused_by_name() -> None:
    for name, reason in (
        ("trap-lean", "leaves counters off at VM-entry"),
        ("mediated", "has no events"),
    ):
        with pytest.raises(UsageError, match=f"design {name} cannot have --perf linux: .*{reason}"):
            refuse_for_linux(design_named(name))
