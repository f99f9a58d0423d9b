"""The physical PMU: what counts, wraps and reports overflow."""

import pytest

from pvpmu.host.hardware import Counter, PhysicalPmu
from pvpmu.shared.events import BRANCHES, CYCLES, INSTRUCTIONS, KINDS
from pvpmu.shared.exits import LIVE_MODE_SHIFT, MODE_KERNEL, MODE_USER

BOTH = MODE_USER | MODE_KERNEL
TOP = 1 << 48


def vector(**counts: int) -> list[int]:
    names = {"cycles": CYCLES, "instructions": INSTRUCTIONS, "branches": BRANCHES}
    out = [0] * KINDS
    for name, count in counts.items():
        out[names[name]] = count
    return out


def gp(pmu: PhysicalPmu, number: int = 0) -> Counter:
    return [counter for counter in pmu.counters if counter.fixed_kind is None][number]


def begin(
    pmu: PhysicalPmu, counter: Counter, kind: int, modes: int, value: int, *, host: bool = False
) -> None:
    pmu.program(counter, kind, modes, host=host)
    counter.value = value
    pmu.start(counter)


def test_the_default_pmu_has_eight_general_and_three_fixed_counters() -> None:
    bits = sorted(counter.bit for counter in PhysicalPmu().counters)
    assert bits == [1 << i for i in (*range(8), 32, 33, 34)]


def test_fixed_counters_count_instructions_cycles_and_reference_cycles() -> None:
    kinds = {c.bit: c.fixed_kind for c in PhysicalPmu().counters if c.fixed_kind is not None}
    assert kinds == {1 << 32: 1, 1 << 33: 0, 1 << 34: 2}


@pytest.mark.parametrize(
    ("modes", "counted"), [(MODE_USER, 3), (MODE_KERNEL, 40), (BOTH, 43), (0, 0)]
)
def test_a_counter_counts_only_in_its_modes(modes: int, counted: int) -> None:
    pmu = PhysicalPmu()
    begin(pmu, gp(pmu), BRANCHES, modes, 0)
    pmu.retire(vector(branches=3, cycles=99), vector(branches=40))
    assert gp(pmu).value == counted


@pytest.mark.parametrize(("host", "counted"), [(False, 3), (True, 503)])
def test_what_the_host_retires_counts_only_where_it_is_not_excluded(
    host: bool, counted: int
) -> None:
    pmu = PhysicalPmu()
    begin(pmu, gp(pmu), BRANCHES, MODE_USER, 0, host=host)
    pmu.retire(vector(branches=3), vector(branches=40), vector(branches=500, cycles=7))
    assert gp(pmu).value == counted


def test_a_counter_that_was_never_started_or_was_stopped_keeps_its_value() -> None:
    pmu = PhysicalPmu()
    begin(pmu, gp(pmu), BRANCHES, BOTH, 7)
    pmu.stop(gp(pmu))
    pmu.retire(vector(branches=100), None)
    assert (gp(pmu).value, gp(pmu, 1).value) == (7, 0)
    assert pmu.started == []


def test_a_wrap_keeps_the_excess_and_sets_only_that_counters_status() -> None:
    pmu = PhysicalPmu()
    begin(pmu, gp(pmu), BRANCHES, BOTH, TOP - 5)
    begin(pmu, gp(pmu, 1), CYCLES, BOTH, 0)
    pmu.retire(vector(branches=4, cycles=10), None)
    assert pmu.status == 0
    pmu.retire(vector(branches=3), None)
    assert pmu.status == 1
    assert (gp(pmu).value, gp(pmu, 1).value) == (2, 10)


def test_reaching_exactly_zero_is_an_overflow() -> None:
    pmu = PhysicalPmu()
    begin(pmu, gp(pmu), BRANCHES, BOTH, TOP - 1)
    pmu.retire(vector(branches=1), None)
    assert (gp(pmu).value, pmu.status) == (0, 1)


@pytest.mark.parametrize(("retired", "held"), [(1 << 32, 5), (3 << 32, 5), ((2 << 32) - 5, 0)])
def test_what_wraps_more_than_once_holds_what_is_left(retired: int, held: int) -> None:
    pmu = PhysicalPmu(width=32)
    begin(pmu, gp(pmu), BRANCHES, BOTH, 5)
    pmu.retire(vector(branches=retired), None)
    assert (gp(pmu).value, pmu.status) == (held, 1)
    assert gp(pmu).left == (1 << 32) - held


def test_fixed_counters_may_be_narrower() -> None:
    pmu = PhysicalPmu(1, 1, 48, fixed_width=32)
    assert {counter.bit: counter.top for counter in pmu.counters} == {1: 1 << 48, 1 << 32: 1 << 32}


def test_a_counter_is_taken_while_the_event_that_owns_it_is_on_it() -> None:
    class Event:
        counter: Counter | None = None

    counter, event = gp(PhysicalPmu()), Event()
    assert not counter.taken
    counter.owner = event
    assert not counter.taken
    event.counter = counter
    assert counter.taken


def test_overflow_status_stays_when_the_counter_stops() -> None:
    pmu = PhysicalPmu(width=40)
    begin(pmu, gp(pmu, 2), BRANCHES, BOTH, (1 << 40) - 1)
    pmu.retire(vector(branches=1), None)
    pmu.stop(gp(pmu, 2))
    assert pmu.status == 4


def test_started_has_descriptor_and_distance_of_each_started_counter() -> None:
    pmu = PhysicalPmu()
    begin(pmu, gp(pmu), BRANCHES, MODE_USER, TOP - 10)
    begin(pmu, pmu.counters[0], INSTRUCTIONS, BOTH, TOP - 1)
    assert [(counter.descriptor, counter.left) for counter in pmu.started] == [
        (BRANCHES | MODE_USER << LIVE_MODE_SHIFT, 10),
        (INSTRUCTIONS | BOTH << LIVE_MODE_SHIFT, 1),
    ]


def test_the_version_changes_with_start_and_stop_and_not_by_counting() -> None:
    pmu = PhysicalPmu(version=5)
    begin(pmu, gp(pmu), BRANCHES, BOTH, 0)
    started = pmu.version
    assert started > 5
    pmu.retire(vector(branches=9), None)
    assert pmu.version == started
    begin(pmu, gp(pmu), BRANCHES, BOTH, 1)
    restarted = pmu.version
    assert restarted > started
    pmu.stop(gp(pmu))
    stopped = pmu.version
    assert stopped > restarted
    pmu.stop(gp(pmu))
    assert pmu.version == stopped


def test_retiring_nothing_counts_nothing() -> None:
    pmu = PhysicalPmu()
    begin(pmu, gp(pmu), BRANCHES, BOTH, 3)
    pmu.retire(None, None)
    assert (gp(pmu).value, pmu.status) == (3, 0)
