"""Host perf: every interface, its counts, and what happens to the counters."""

from collections.abc import Callable

import pytest

from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.perf import Attr, PerfContext, PerfEvent, State
from pvpmu.shared.events import BRANCHES, CYCLES, INSTRUCTIONS, KINDS
from pvpmu.shared.exits import MODE_USER
from pvpmu.shared.tally import (
    CALL_KINDS,
    CREATE,
    DISABLE,
    ENABLE,
    PAUSE,
    PERIOD,
    PLACEMENTS,
    READ_VALUE,
    RELEASE,
    locks,
)


class Host:
    """A context with a list of the events whose overflow callback ran."""

    def __init__(self, pmu: PhysicalPmu | None = None) -> None:
        self.pmu = pmu or PhysicalPmu()
        self.perf = PerfContext(self.pmu)
        self.overflows: list[str] = []

    def create(
        self,
        kind: int | None = BRANCHES,
        period: int = 100,
        name: str = "a",
        *,
        pinned: bool = True,
    ) -> PerfEvent:
        attr = Attr(kind, MODE_USER, pinned=pinned)
        event = self.perf.create(attr, period, lambda: self.overflows.append(name))
        assert event is not None
        return event

    def retire(self, count: int, kind: int = BRANCHES) -> None:
        user = [0] * KINDS
        user[kind] = count
        self.pmu.retire(user, None)
        self.perf.handle_nmi()

    def cost(self, call: Callable[[], object]) -> tuple[list[int], int, int]:
        """Calls by kind, locks and placements of one call."""
        before = list(self.perf.tally)
        call()
        delta = [new - old for new, old in zip(self.perf.tally, before, strict=True)]
        return delta[: len(CALL_KINDS)], locks(delta), delta[PLACEMENTS]


def one(kind: int) -> list[int]:
    return [int(i == kind) for i in range(len(CALL_KINDS))]


def test_every_interface_is_one_call_and_one_lock() -> None:
    host = Host()
    event = host.create()
    perf = host.perf
    assert host.cost(lambda: perf.read_value(event)) == (one(READ_VALUE), 1, 0)
    assert host.cost(lambda: perf.period(event, 5)) == (one(PERIOD), 1, 1)
    assert host.cost(lambda: perf.pause(event)) == (one(PAUSE), 1, 0)
    assert host.cost(lambda: perf.period(event, 5)) == (one(PERIOD), 1, 0)
    assert host.cost(lambda: perf.enable(event)) == (one(ENABLE), 1, 1)
    assert host.cost(lambda: perf.enable(event)) == (one(ENABLE), 1, 0)
    assert host.cost(lambda: perf.disable(event)) == (one(DISABLE), 1, 0)
    assert host.cost(lambda: perf.release(event)) == (one(RELEASE), 1, 0)
    assert host.cost(lambda: host.create(CYCLES)) == (one(CREATE), 1, 1)


@pytest.mark.parametrize("m", [1, 2, 4, 8])
def test_enabling_m_pinned_events_one_by_one_places_1_plus_2_up_to_m(m: int) -> None:
    host = Host()
    events = [host.create() for _ in range(m)]
    for event in events:
        host.perf.pause(event)
    before = host.perf.tally[PLACEMENTS]
    for event in events:
        host.perf.enable(event)
    assert host.perf.tally[PLACEMENTS] - before == m * (m + 1) // 2


def test_pause_returns_the_count_and_zeroes_it() -> None:
    host = Host()
    event = host.create(period=1000)
    host.retire(30)
    assert host.perf.pause(event) == 30
    assert host.perf.pause(event) == 0
    host.retire(30)
    assert host.perf.read_value(event) == 0


def test_disable_keeps_the_count() -> None:
    host = Host()
    event = host.create(period=1000)
    host.retire(30)
    host.perf.disable(event)
    host.retire(5)
    assert host.perf.read_value(event) == 30


def test_read_value_pulls_in_what_a_running_counter_counted() -> None:
    host = Host()
    event = host.create(period=1000)
    host.retire(30)
    assert host.perf.read_value(event) == 30
    host.retire(12)
    assert host.perf.read_value(event) == 42


@pytest.mark.parametrize("period", [0, -1, 1 << 63])
def test_a_period_of_zero_or_with_bit_63_is_refused_and_changes_nothing(period: int) -> None:
    host = Host()
    event = host.create(period=50)
    host.retire(20)
    assert not host.perf.period(event, period)
    host.retire(30)
    assert host.overflows == ["a"]
    assert host.perf.create(Attr(BRANCHES, MODE_USER), period, lambda: None) is None


@pytest.mark.parametrize("period", [1, 2, 7])
def test_an_event_overflows_every_period(period: int) -> None:
    host = Host()
    event = host.create(period=period)
    for _ in range(3 * period):
        host.retire(1)
    assert host.overflows == ["a"] * 3
    assert host.perf.read_value(event) == 3 * period


def test_a_new_period_on_a_running_event_starts_from_now_and_keeps_the_count() -> None:
    host = Host()
    event = host.create(period=100)
    host.retire(90)
    assert host.perf.period(event, 40)
    host.retire(39)
    assert host.overflows == []
    host.retire(1)
    assert host.overflows == ["a"]
    assert host.perf.read_value(event) == 130


def test_a_new_period_on_a_stopped_event_counts_from_its_enable() -> None:
    host = Host()
    event = host.create(period=100)
    host.retire(90)
    host.perf.pause(event)
    host.perf.period(event, 3)
    host.perf.enable(event)
    host.retire(2)
    assert host.overflows == []
    host.retire(1)
    assert host.overflows == ["a"]


def test_a_paused_event_keeps_its_distance_when_no_period_is_set() -> None:
    host = Host()
    event = host.create(period=100)
    host.retire(90)
    host.perf.pause(event)
    host.perf.enable(event)
    host.retire(10)
    assert host.overflows == ["a"]


def test_the_longest_period_overflows_once_although_the_counter_wraps_twice() -> None:
    host = Host()
    event = host.create(period=1 << 48)
    half = (1 << 47) - 1
    host.retire(half)
    host.retire(half)
    assert host.overflows == []
    host.retire(2)
    assert host.overflows == ["a"]
    assert host.perf.read_value(event) == 1 << 48


def test_the_host_handler_calls_only_the_events_that_overflowed() -> None:
    host = Host()
    host.create(BRANCHES, 10, "branches")
    host.create(CYCLES, 1000, "cycles")
    host.retire(10, BRANCHES)
    host.retire(10, CYCLES)
    assert host.overflows == ["branches"]
    assert host.pmu.status == 0


def test_instructions_and_cycles_prefer_the_fixed_counters() -> None:
    host = Host()
    events = [host.create(kind) for kind in (INSTRUCTIONS, CYCLES, BRANCHES)]
    bits = [event.counter.bit for event in events if event.counter]
    assert bits == [1 << 32, 1 << 33, 1]


def test_an_event_without_a_free_counter_is_in_error_until_paused_and_enabled() -> None:
    host = Host(PhysicalPmu(gp=1, fixed=0))
    first, second = host.create(), host.create()
    assert (first.state, second.state) == (State.ACTIVE, State.ERROR)
    assert not second.counting
    host.retire(5)
    assert host.perf.read_value(second) == 0
    host.perf.release(first)
    host.retire(5)
    assert host.perf.read_value(second) == 0, "it is not tried again by itself"
    host.perf.pause(second)
    assert second.state is State.OFF
    host.perf.enable(second)
    assert second.state is State.ACTIVE
    host.retire(5)
    assert host.perf.read_value(second) == 5


def test_an_event_without_a_counter_places_nothing() -> None:
    host = Host(PhysicalPmu(gp=1, fixed=0))
    host.create()
    assert host.cost(host.create) == (one(CREATE), 1, 0)


def test_an_event_that_the_silicon_lacks_takes_a_counter_and_never_counts() -> None:
    host = Host(PhysicalPmu(gp=1, fixed=0))
    event = host.create(None, 1)
    assert event.state is State.ACTIVE
    assert not event.counting
    host.retire(100)
    assert host.perf.read_value(event) == 0
    assert host.pmu.started == []
    assert host.create().state is State.ERROR


def test_a_released_event_frees_its_counter() -> None:
    host = Host(PhysicalPmu(gp=1, fixed=0))
    host.perf.release(host.create())
    assert host.pmu.started == []
    assert host.create().state is State.ACTIVE


def test_without_a_free_counter_an_event_that_is_not_pinned_waits_and_is_not_in_error() -> None:
    host = Host(PhysicalPmu(gp=1, fixed=0))
    first, second = host.create(), host.create(pinned=False)
    assert second.state is State.OFF
    host.perf.disable(first)
    host.perf.enable(second)
    assert second.state is State.ACTIVE


def test_a_thread_that_is_scheduled_out_counts_nothing_and_goes_on_where_it_was() -> None:
    host = Host()
    event = host.create(period=100)
    host.retire(30)
    events = host.perf.sched_out()
    assert (events, event.state) == ([event], State.OFF)
    host.retire(500)
    host.perf.sched_in(events, host.pmu)
    host.retire(69)
    assert (host.perf.read_value(event), host.overflows) == (99, [])
    host.retire(1)
    assert host.overflows == ["a"]


def test_what_comes_to_another_cpu_is_placed_on_its_counters_each_once() -> None:
    host = Host()
    events = [host.create(), host.create(INSTRUCTIONS), host.create(CYCLES)]
    paused = host.create()
    host.perf.pause(paused)
    host.retire(30)
    other = PhysicalPmu()

    def move() -> None:
        host.perf.sched_in(host.perf.sched_out(), other)

    assert host.cost(move) == ([0] * len(CALL_KINDS), 0, 3)
    assert (host.pmu.started, len(other.started)) == ([], 3)
    assert [event.counter in other.counters for event in events] == [True] * 3
    host.pmu = other
    host.retire(5)
    assert host.perf.read_value(events[0]) == 35
    host.perf.enable(paused)
    assert paused.counter in other.counters, "not on the one that it had on the other CPU"


def test_a_pinned_event_that_finds_the_other_cpu_full_is_in_error_there() -> None:
    host = Host()
    event = host.create()
    other = PhysicalPmu(gp=1, fixed=0)
    full = Host(other)
    full.create()
    host.perf.sched_in(host.perf.sched_out(), other)
    assert event.state is State.ERROR
    host.perf.sched_in(host.perf.sched_out(), host.pmu)
    assert event.state is State.ERROR, "until it is enabled again"
    host.perf.pause(event)
    host.perf.enable(event)
    assert event.state is State.ACTIVE


def test_a_released_event_is_gone_from_its_context() -> None:
    host = Host()
    event = host.create()
    host.perf.release(event)
    assert host.perf.events == []
