"""What operations cost under a design: counted on its running model."""

from __future__ import annotations

from typing import Any

import pytest

from pvpmu.shared.cpuid import EVTSEL_EN, PmuCpuid
from pvpmu.shared.design import design_named, design_names
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.tally import DELIVERY, HANDLER, OTHER
from pvpmu.trace.driver import accesses_of, driver_operations
from pvpmu.trace.evaluate import Evaluator, Outcome, rdpmc_counters, steps_of
from pvpmu.trace.names import WRITE
from pvpmu.trace.operations import Context, Operation, handler
from pvpmu.trace.player import MEASURE
from pvpmu.trace.tokens import RDPMC_TOKEN, fields_of, token_of

USUAL = driver_operations(2, (0, 1))
KINDS = ("pmi", "pmi_spurious", "tick", "sched_in", "sched_out")
PER_OPERATION = {
    "trap": dict(zip(KINDS, ({8, 10}, {4}, {22}, {13}, {12}), strict=True)),
    "page": dict(zip(KINDS, ({1}, {1}, {2}, {1}, {1}), strict=True)),
}


def exits(outcome: Outcome) -> int:
    return sum(outcome.exits.values())


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[Operation, Outcome]]:
    found = {}
    for name in ("trap-5.14", "trap", "page"):
        evaluator = Evaluator(design_named(name), PmuCpuid())
        found[name] = {operation: evaluator.outcome(operation) for operation in USUAL.operations}
    return found


@pytest.mark.parametrize("name", ["trap", "page"])
@pytest.mark.parametrize("kind", KINDS)
def test_exits_per_operation_are_those_of_a_run(name: str, kind: str, outcomes: Any) -> None:
    found = {exits(outcomes[name][operation]) for operation in USUAL.of_kind(kind)}
    assert found == PER_OPERATION[name][kind]


def test_trapping_every_access_exits_whatever_the_register(outcomes: Any) -> None:
    for operation, outcome in outcomes["trap"].items():
        assert outcome.exits == accesses_of(operation)


def test_every_operation_is_played_as_the_trace_has_it(outcomes: Any) -> None:
    assert all(o.faithful for by_name in outcomes.values() for o in by_name.values())


def test_perf_calls_are_counted_where_they_are_made(outcomes: Any) -> None:
    single = next(o for o in USUAL.of_kind("pmi") if len(o.tokens) == 8)
    (tick,) = USUAL.of_kind("tick")

    def calls(name: str, operation: Operation, place: int) -> int:
        return sum(outcomes[name][operation].tallies[place][:7])

    assert [calls(name, single, HANDLER) for name in outcomes] == [19, 12, 8]
    assert [calls(name, single, DELIVERY) for name in outcomes] == [3, 3, 4]
    assert [calls(name, tick, OTHER) for name in outcomes] == [36, 12, 12]


def test_the_exit_that_brings_a_pmi_is_counted_beside(outcomes: Any) -> None:
    for operation, outcome in outcomes["page"].items():
        nmis = outcome.reasons[ExitReason.EXCEPTION_NMI]
        assert nmis == (operation.kind in ("pmi", "pmi_spurious"))


def test_a_handler_that_finds_the_pmu_disabled_needs_no_exit_with_a_page() -> None:
    single = next(o for o in USUAL.of_kind("pmi") if len(o.tokens) == 8)
    on = token_of(WRITE, 0x38F, 1)
    disabled = handler(tuple(t for t in single.tokens if t != on), single.before, enabled=False)
    assert disabled is not None
    for name, wanted in (("trap", 7), ("page", 0)):
        outcome = Evaluator(design_named(name), PmuCpuid()).outcome(disabled)
        assert (exits(outcome), outcome.faithful) == (wanted, True)


@pytest.mark.parametrize("name", design_names())
def test_every_shipped_design_can_be_asked(name: str) -> None:
    evaluator = Evaluator(design_named(name), PmuCpuid())
    for operation in USUAL.operations:
        outcome = evaluator.outcome(operation)
        assert exits(outcome) <= len(operation.tokens)
        assert evaluator.outcome(operation) is outcome


def test_only_the_operation_itself_is_measured() -> None:
    (tick,) = USUAL.of_kind("tick")
    steps = list(steps_of(tick, PmuCpuid()))
    start, stop = (at for at, step in enumerate(steps) if step.what == MEASURE)
    assert [step.what for step in steps[start + 1 : stop]] == [
        op for op, _, _ in map(fields_of, tick.tokens)
    ]


def test_rdpmc_reads_what_was_stopped_or_is_reloaded() -> None:
    (tick,) = USUAL.of_kind("tick")
    (out,) = USUAL.of_kind("sched_out")
    assert sorted(rdpmc_counters(tick, tick.before)) == [0, 1, 32, 33]
    assert sorted(rdpmc_counters(out, out.before)) == [0, 1, 32, 33]


def test_rdpmc_without_a_hint_reads_enabled_counters_one_after_another() -> None:
    before = Context(0b100, 0xB0)
    tokens = (token_of(WRITE, 0x38F, 0), *[RDPMC_TOKEN] * 3, token_of(WRITE, 0x38F, 1))
    assert rdpmc_counters(Operation("sched_out", tokens, before, before), before) == [33, 2, 0]


def test_what_an_operation_shows_of_the_time_before_it_is_used() -> None:
    # The first sight of a vCPU: a tick that stops a counter, so that it was running.
    tokens = tuple(
        token_of(WRITE, address, value)
        for address, value in ((0x38F, 0), (0x186, 0), (0x4C1, 0), (0x186, EVTSEL_EN), (0x38F, 1))
    )
    operation = Operation("tick", tokens, Context(), Context(1))
    outcome = Evaluator(design_named("page"), PmuCpuid()).outcome(operation)
    assert exits(outcome) == 2
