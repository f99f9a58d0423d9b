"""Expectations, results with names, loops, handlers: judged on a scripted target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.conformance.target import Reply
from pvpmu.conformance.verdict import CaseResult, Verdict

Outcome = Callable[..., CaseResult]


def wr(msr: Any, value: Any, **more: Any) -> dict[str, Any]:
    return {"op": "wr", "msr": msr, "value": value, **more}


def rd(msr: Any, expect: Any = None, **more: Any) -> dict[str, Any]:
    wanted = {} if expect is None else {"expect": expect}
    return {"op": "rd", "msr": msr, **wanted, **more}


@pytest.mark.parametrize(
    "expect",
    [
        "0x15",
        21,
        "NG * 5 + 1",
        {"is": 21},
        {"in": [1, "0x15"]},
        {"min": 21, "max": 21},
        {"min": 3},
        {"max": "NG << 8"},
        {"not": 22},
        {"is": 5, "mask": 7},
        {"not": 5, "mask": "0xF0"},
    ],
)
def test_an_expectation_that_holds_passes(outcome: Outcome, expect: Any) -> None:
    assert outcome(wr(1, 21), rd(1, expect)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        (22, "0x16"),
        ({"is": 22}, "0x16"),
        ({"in": [1, 2]}, "one of 0x1, 0x2"),
        ({"min": 22}, "at least 0x16"),
        ({"max": 20}, "at most 0x14"),
        ({"not": 21}, "not 0x15"),
        ({"is": 1, "mask": 6}, "0x1 under 0x6"),
        ({"min": 1, "max": 5, "not": 3}, "at least 0x1 and at most 0x5 and not 0x3"),
    ],
)
def test_an_expectation_that_does_not_hold_fails(outcome: Outcome, expect: Any, said: str) -> None:
    result = outcome(wr(1, 21), rd(1, expect))
    assert result.verdict is Verdict.FAIL
    assert result.failure is not None
    assert (result.failure.where, result.failure.expected) == ("1", said)
    assert result.failure.actual == "0x15"


def test_values_are_64_bits(outcome: Outcome, new_target: Any) -> None:
    target = new_target()
    assert outcome(wr(1, "-1"), rd(1, "-1"), rd(1, "U64"), target=target).verdict is Verdict.PASS
    assert target.registers == {1: (1 << 64) - 1}


def test_an_unexpected_fault_fails(outcome: Outcome, new_target: Any) -> None:
    target = new_target(lambda name, *_: Reply(fault=True) if name == "rd" else None)
    failure = outcome(rd(1, 5), target=target).failure
    assert failure is not None
    assert (failure.expected, failure.actual) == ("0x5", "#GP")


def test_a_missing_fault_fails(outcome: Outcome) -> None:
    failure = outcome(wr(1, 2), rd(1, fault=True)).failure
    assert failure is not None
    assert (failure.expected, failure.actual) == ("#GP", "no fault, 0x2")


def test_an_expected_fault_passes(outcome: Outcome, new_target: Any) -> None:
    target = new_target(lambda name, *_: Reply(fault=True) if name == "wr" else None)
    assert outcome(wr(1, 2, fault=True), target=target).verdict is Verdict.PASS


def test_a_refusal_is_judged_like_a_fault(outcome: Outcome, new_target: Any) -> None:
    refusing = new_target(
        lambda name, *_: Reply(refused=True) if name == "host_set" else None, ("host-msrs",)
    )
    op = {"op": "host_set", "msr": 1, "value": 2}
    assert outcome(op | {"refused": True}, target=refusing).verdict is Verdict.PASS
    failure = outcome(op, target=refusing).failure
    assert failure is not None
    assert failure.actual == "refused"


def test_a_result_gets_a_name_and_relations_are_checked(outcome: Outcome) -> None:
    ops = [wr(1, 5), rd(1, **{"as": "before"}), wr(1, "before + 3"), rd(1, **{"as": "after"})]
    assert outcome(*ops, {"op": "check", "that": ["after == before + 3"]}).verdict is Verdict.PASS
    failure = outcome(*ops, {"op": "check", "that": ["after > before", "after == 9"]}).failure
    assert failure is not None
    assert failure.expected == "after == 9"
    assert "after = 0x8" in failure.actual


def test_a_name_that_was_never_given_is_an_error_of_the_vector(outcome: Outcome) -> None:
    result = outcome(rd(1, "later"))
    assert result.verdict is Verdict.ERROR
    assert "unknown name 'later'" in result.reason


def test_a_failure_inside_loops_says_where_and_with_what(outcome: Outcome) -> None:
    inner = {"op": "foreach", "var": "j", "in": [5, 7], "do": [wr("i", "j"), rd("i", 5)]}
    failure = outcome({"op": "foreach", "var": "i", "from": 2, "to": "NG", "do": [inner]}).failure
    assert failure is not None
    assert failure.where == "0.0#0.1#1"
    assert failure.variables == {"i": "0x2", "j": "0x7"}


def test_a_loop_runs_as_often_as_it_says(outcome: Outcome, new_target: Any) -> None:
    target = new_target()
    outcome({"op": "repeat", "times": "NG + 1", "var": "n", "do": [wr("n", "n")]}, target=target)
    assert target.registers == {n: n for n in range(5)}


def test_a_loop_without_end_is_refused(outcome: Outcome) -> None:
    result = outcome({"op": "repeat", "times": "1 << 40", "do": [{"op": "mark"}]})
    assert result.verdict is Verdict.ERROR
    assert "turns, at most" in result.reason


def test_an_operation_runs_only_when_its_condition_holds(outcome: Outcome, new_target: Any) -> None:
    target = new_target()
    outcome(wr(1, 1, when="NG == 4"), wr(2, 2, when="NG == 5"), target=target)
    assert target.registers == {1: 1}


def test_an_operation_of_another_path_is_left_out(outcome: Outcome, new_target: Any) -> None:
    target = new_target()
    outcome(wr(1, 1, on=["page"]), wr(2, 2, on=["trap"]), target=target)
    assert target.registers == {2: 2}


def _interrupting(times: int) -> Any:
    """Takes NMIs on vCPU 0 in the middle of ``run``."""

    def answer(name: str, _vcpu: int, _fields: Any, on_nmi: Any) -> None:
        if name == "run":
            for _ in range(times):
                on_nmi(0)

    return answer


def test_the_handler_runs_inside_the_operation_that_was_interrupted(
    outcome: Outcome, new_target: Any
) -> None:
    target = new_target(_interrupting(2))
    handler = {"op": "pmi", "times": 2, "do": [wr(7, 1)]}
    assert outcome(handler, {"op": "run", "cycles": 5}, target=target).verdict is Verdict.PASS
    assert [name for name, *_ in target.asked[-3:]] == ["run", "wr", "wr"]


def test_handlers_are_taken_in_their_order(outcome: Outcome, new_target: Any) -> None:
    target = new_target(_interrupting(3))
    handlers = [{"op": "pmi", "do": [wr(7, value)]} for value in (1, 2)]
    assert outcome(*handlers, {"op": "run"}, target=target).verdict is Verdict.PASS
    assert [fields["value"] for name, _, fields in target.asked if name == "wr"] == [1, 2]


def test_a_handler_that_nobody_called_is_a_failure(outcome: Outcome, new_target: Any) -> None:
    target = new_target(_interrupting(1))
    ops = [{"op": "pmi", "times": 3, "do": [wr(7, 1)]}, {"op": "run"}]
    failure = outcome(*ops, target=target).failure
    assert failure is not None
    assert (failure.expected, failure.actual) == ("3 NMIs", "1 taken")
    ops[0]["optional"] = True
    assert outcome(*ops, target=new_target(_interrupting(1))).verdict is Verdict.PASS


def test_a_failure_in_a_handler_names_handler_and_turn(outcome: Outcome, new_target: Any) -> None:
    target = new_target(_interrupting(2))
    ops = [{"op": "pmi", "times": 2, "do": [rd(7, "n"), {"op": "let", "as": "n", "value": 1}]}]
    failure = outcome(
        {"op": "let", "as": "n", "value": 0}, *ops, {"op": "run"}, target=target
    ).failure
    assert failure is not None
    assert failure.where == "1.nmi1.0"


def test_each_vcpu_gets_its_operations(outcome: Outcome, new_target: Any) -> None:
    target = new_target(features=("smp",))
    number = {"op": "vcpu", "number": 1}
    outcome(wr(1, 1), number, wr(2, 2), config={"vcpus": 2}, target=target)
    assert [(vcpu, fields["msr"]) for name, vcpu, fields in target.asked if name == "wr"] == [
        (0, 1),
        (1, 2),
    ]


def test_a_fresh_machine_has_the_same_configuration(outcome: Outcome, new_target: Any) -> None:
    target = new_target()
    outcome(wr(1, 1), {"op": "fresh"}, rd(1, 0), target=target)
    first, second = target.configs
    assert first == second


def test_the_vcpu_has_not_run_before_the_first_operation_unless_its_shape_is_asked_for(
    outcome: Outcome, new_target: Any
) -> None:
    target = new_target()
    outcome(wr("STATUS", 1), target=target)
    assert [name for name, *_ in target.asked] == ["wr"]
    target = new_target()
    outcome(wr("BASE", 1), target=target)
    assert [name for name, *_ in target.asked] == ["cpuid", "cpuid", "wr"]


def test_the_page_path_registers_first_unless_the_vector_does(
    results: Any, new_vector: Any, new_target: Any
) -> None:
    target = new_target()
    results(new_vector({"op": "mark"}, paths=["page"]), target)
    assert [name for name, *_ in target.asked].count("register") == 1
    target = new_target()
    results(new_vector({"op": "mark"}, paths=["page"], config={"register": False}), target)
    assert [name for name, *_ in target.asked].count("register") == 0


def test_page_words_have_names_of_their_own(outcome: Outcome, new_target: Any) -> None:
    target = new_target()
    outcome({"op": "page.write", "word": "pmc + 2", "value": 9}, target=target)
    assert target.asked[-1] == ("page.write", 0, {"word": 50, "value": 9})
