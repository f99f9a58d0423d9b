"""The model's events, timed on real ones, alone and among the kernel's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pvpmu.host import perf_open
from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.perf import Attr, PerfContext
from pvpmu.host.perf_mirrored import MirroredContext, MixedContext
from pvpmu.host.perf_sources import Sources
from pvpmu.shared.events import BRANCHES, CYCLES, KINDS, REFUSED
from pvpmu.shared.tally import CREATE, DISABLE, ENABLE, PAUSE, PERIOD, READ_VALUE, RELEASE

from .conftest import Clock

pytestmark = pytest.mark.usefixtures("needs_perf")

MODES = 3
FAR = 1 << 40
CLOCK = {CYCLES: (perf_open.TYPE_SOFTWARE, perf_open.SW_CPU_CLOCK)}
MODELLING = Sources(CLOCK, clocks=True)
LACKING = {CYCLES: (99, 0)}
"""A type that no kernel has."""


def attr(kind: int) -> Attr:
    return Attr(kind, MODES, pinned=True, exclude_host=True)


@pytest.fixture
def mixed() -> Iterator[MixedContext]:
    made = MixedContext(PhysicalPmu(), MODELLING, Clock())
    yield made
    made.close()


def every_call(context: PerfContext, kind: int) -> None:
    event = context.create(attr(kind), FAR, lambda: None)
    assert event is not None
    assert event.counting
    assert context.events == [event]
    context.pause(event)
    assert not event.counting
    assert context.read_value(event) == 0
    assert context.period(event, FAR)
    assert not context.period(event, 0)
    context.enable(event)
    assert event.counting
    context.disable(event)
    assert not event.counting
    context.release(event)
    assert context.events == []


def test_a_mirror_gives_the_model_s_results_and_times_real_calls() -> None:
    made = MirroredContext(PhysicalPmu(), MODELLING, Clock())
    event = made.create(attr(CYCLES), 1000, lambda: None)
    assert event is not None
    made.pmu.retire([300] * KINDS, None)
    assert made.read_value(event) == 300
    assert made.pause(event) == 300
    assert made.times.calls[PAUSE] == 1
    assert made.tally[PAUSE] == 1
    made.release(event)
    made.close()


def test_a_mirror_counts_nothing_that_the_kernel_refuses() -> None:
    made = MirroredContext(PhysicalPmu(), Sources(LACKING, clocks=True, missing=REFUSED), Clock())
    assert made.create(attr(CYCLES), 1000, lambda: None) is None
    assert made.create(attr(CYCLES), 0, lambda: None) is None
    assert (made.events, made.pmu.started, made.tally[CREATE]) == ([], [], 2)
    # No call of perf's is made for a period that KVM's own check refuses.
    assert made.times.calls[CREATE] == 1
    made.close()


@pytest.mark.parametrize("kind", [CYCLES, BRANCHES])
def test_each_call_is_counted_and_timed_once_whoever_counts_the_event(
    mixed: MixedContext, kind: int
) -> None:
    every_call(mixed, kind)
    made = {CREATE: 1, PAUSE: 1, READ_VALUE: 1, PERIOD: 2, ENABLE: 1, DISABLE: 1, RELEASE: 1}
    assert {call: mixed.tally[call] for call in made} == made
    assert {call: mixed.times.calls[call] for call in made} == made
    assert mixed.ns_in(mixed.tally) == sum(mixed.times.call_ns)


def test_what_the_program_tells_counts_for_the_model_s_events_alone(mixed: MixedContext) -> None:
    hits: list[str] = []
    cycles = mixed.create(attr(CYCLES), FAR, lambda: hits.append("cycles"))
    branches = mixed.create(attr(BRANCHES), 1000, lambda: hits.append("branches"))
    assert cycles is not None
    assert branches is not None
    assert len(mixed.pmu.started) == 1
    mixed.pmu.retire([1 << 45] * BRANCHES + [300] * (KINDS - BRANCHES), None)
    assert mixed.read_value(branches) == 300
    # A clock cannot have come so far.
    assert 0 < mixed.read_value(cycles) < 1 << 44
    mixed.pmu.retire([700] * KINDS, None)
    mixed.handle_nmi()
    assert hits == ["branches"]
    assert mixed.pause(branches) == 1000


def test_a_real_event_s_overflow_is_found_beside_the_model_s(mixed: MixedContext) -> None:
    hits: list[str] = []
    cycles = mixed.create(attr(CYCLES), FAR, lambda: hits.append("cycles"))
    assert mixed.create(attr(BRANCHES), 1000, lambda: hits.append("branches")) is not None
    assert cycles is not None
    # As if the clock had come so far.
    cycles.left = 1
    mixed.handle_nmi()
    assert hits == ["cycles"]
    mixed.rearm(cycles, 1 << 41)
    assert (cycles.left, cycles.period) == (1 << 41, 1 << 41)


def test_an_event_that_the_kernel_lacks_after_all_is_refused() -> None:
    made = MixedContext(PhysicalPmu(), Sources(LACKING, clocks=True), Clock())
    assert made.create(attr(CYCLES), FAR, lambda: None) is None
    assert made.create(attr(CYCLES), FAR, lambda: None) is None
    assert (made.events, made.tally[CREATE], made.times.calls[CREATE]) == ([], 2, 2)
    made.close()
