"""What becomes of a session and of a rule, as plain values."""

from __future__ import annotations

from typing import Any

import pytest

from pvpmu.conformance.guests import cases, judge
from pvpmu.conformance.guests.cases import RuleCase, Session
from pvpmu.conformance.guests.judge import Judged, Outcome
from pvpmu.conformance.guests.wire import Report
from pvpmu.conformance.verdict import Failure, Verdict

SESSION = {case.id: case for case in cases.SESSIONS}
PLAIN = SESSION["FEA-9/page"]
BROKEN = Failure(where="vCPU 0, exit 7", op="o", expected="e", actual="a")


def judged(session: Session, *, status: int | None = 0, errors: str = "", **seen: Any) -> Judged:
    """A session that went well but for what is given."""
    left = seen.pop("left", ())
    report = Report(**({"admitted": True, "bye": True, "fired": 1, "overflows_after": 9} | seen))
    outcome = Outcome(status=status, errors=errors, left=left, report=report)
    return judge.of_session(session, outcome, 2.0)


def test_a_guest_that_ends_in_order_passes() -> None:
    assert judged(PLAIN).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("seen", "expected", "actual"),
    [
        ({"status": None}, "Bye and status 0", "still running after 2 s"),
        ({"status": 3}, "Bye and status 0", "status 3, 0 lines of standard error"),
        ({"status": -11}, "Bye and status 0", "ended by SIGSEGV, 0 lines of standard error"),
        ({"bye": False}, "Bye", "the connection closed without it"),
        ({"admitted": False}, "a guest that joins", "status 0, 0 lines of standard error"),
        ({"refused": "code 3, small"}, "a Hello that the host accepts", "code 3, small"),
        ({"trouble": "no msgpack"}, "a guest that keeps to the binding", "no msgpack"),
        ({"left": ("pvpmu.x.guest",)}, "no name left behind", "left in /dev/shm: pvpmu.x.guest"),
    ],
)
def test_a_guest_that_does_not_end_in_order_fails(
    seen: dict[str, Any], expected: str, actual: str
) -> None:
    result = judged(PLAIN, **seen)
    assert result.verdict is Verdict.FAIL
    assert result.failure is not None
    assert (result.failure.expected, result.failure.actual) == (expected, actual)


def test_after_a_fault_overflows_must_go_on() -> None:
    result = judged(SESSION["PMI-11/foreign"], overflows_after=2)
    assert result.verdict is Verdict.FAIL
    assert result.failure is not None
    assert result.failure.expected == "at least 3 overflows after the fault"


def test_a_fault_that_never_came_is_a_skip_with_its_reason() -> None:
    result = judged(SESSION["PMI-13/two-bits"], fired=0)
    assert result.verdict is Verdict.SKIP
    assert result.reason == SESSION["PMI-13/two-bits"].fault.never


KILLED = SESSION["BND-11/exit"]


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        ({"status": 1, "errors": "gone\n", "died": True}, Verdict.PASS),
        ({"status": 0, "died": True}, Verdict.FAIL),
        ({"status": 1, "errors": "", "died": True}, Verdict.FAIL),
        ({"status": 1, "errors": "Traceback\n  line\n", "died": True}, Verdict.FAIL),
        ({"status": -6, "errors": "gone\n", "died": True}, Verdict.FAIL),
        ({"status": None, "died": True}, Verdict.FAIL),
        ({"status": 1, "errors": "gone\n", "died": True, "left": ("x",)}, Verdict.FAIL),
        ({"status": 0, "died": False, "fired": 0}, Verdict.SKIP),
    ],
)
def test_a_guest_whose_host_was_killed_ends_with_one_line(
    seen: dict[str, Any], verdict: Verdict
) -> None:
    assert judged(KILLED, **seen).verdict is verdict


@pytest.mark.rule("CMT-7")
def test_after_a_refused_commit_a_guest_may_end_or_go_on() -> None:
    refused = SESSION["CMT-7/program"]
    assert judged(refused).verdict is Verdict.PASS
    assert judged(refused, status=1, errors="#GP\n", bye=False).verdict is Verdict.PASS
    assert judged(refused, overflows_after=0).verdict is Verdict.FAIL


def test_a_host_that_the_guest_broke_is_an_error() -> None:
    outcome = Outcome(status=0, errors="", left=(), report=None)
    assert judge.of_session(PLAIN, outcome, 2.0).verdict is Verdict.ERROR
    assert judged(PLAIN, error="KeyError: 3").verdict is Verdict.ERROR


def rule(name: str) -> RuleCase:
    (case,) = (case for case in cases.select([name]) if case.id == name)
    assert isinstance(case, RuleCase)
    return case


def outcome(**seen: Any) -> Outcome:
    return Outcome(status=0, errors="", left=(), report=Report(**seen))


def test_a_rule_fails_with_the_first_session_that_breaks_it() -> None:
    held = {
        PLAIN: outcome(occasions={"STA-4": 5}),
        SESSION["PMI-11/foreign"]: outcome(occasions={"STA-4": 1}, broken={"STA-4": BROKEN}),
        SESSION["PMI-11/late"]: Outcome(status=0, errors="", left=(), report=None),
    }
    result = judge.of_rule(rule("STA-4"), held)
    assert (result.verdict, result.failure) == (Verdict.FAIL, BROKEN)
    assert result.also == ("PMI-11/foreign",)
    assert judge.of_rule(rule("STA-3"), {PLAIN: held[PLAIN]}).verdict is Verdict.SKIP
    assert judge.of_rule(rule("STA-4"), {PLAIN: held[PLAIN]}).verdict is Verdict.PASS


def test_a_rule_chosen_alone_brings_the_sessions_that_give_it_occasions() -> None:
    chosen = [session.id for session in cases.sessions_of([rule("DSC-6")])]
    assert chosen == ["FEA-9/page", "DSC-6/version", "DSC-6/size"]


def test_every_home_of_a_rule_is_a_session() -> None:
    homes = {home for check in cases.RULES for home in check.homes}
    assert homes <= set(SESSION)
    assert len({case.id for case in cases.CASES}) == len(cases.CASES)
