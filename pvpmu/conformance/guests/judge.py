"""What became of a session and of a rule: pure functions of the outcomes."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass

from pvpmu.conformance.guests.cases import Ending, RuleCase, Session
from pvpmu.conformance.guests.wire import Report
from pvpmu.conformance.verdict import Failure, Verdict

AFTERWARDS = 3
"""Overflows that a guest must take after a fault."""
_TAIL = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one session.

    ``status``: the guest's exit status, negative for a signal, None if it had to be killed.
    ``cut``: the kit killed it, having seen enough. ``errors``: its standard error. ``left``: names
    that it left behind. ``report``: the host's, None if the host ended without one.
    """

    status: int | None
    cut: bool = False
    errors: str
    left: tuple[str, ...]
    report: Report | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """``also``: cases to choose besides, so that a replay finds the same."""

    verdict: Verdict
    reason: str = ""
    failure: Failure | None = None
    profile: str = ""
    also: tuple[str, ...] = ()


def of_session(session: Session, outcome: Outcome | None, limit_s: float) -> Judged:
    """The verdict of a session's own case; ``outcome``: None if it was not held."""
    profile = session.profile.name
    if outcome is None:
        return Judged(verdict=Verdict.SKIP, reason="ended by the kit before", profile=profile)
    report = outcome.report
    if report is None:
        reason = "the kit's host ended in this session, by the guest's doing"
        return Judged(verdict=Verdict.ERROR, reason=reason, profile=profile)
    if report.error:
        reason = f"the kit's host: {report.error}"
        return Judged(verdict=Verdict.ERROR, reason=reason, profile=profile)
    if outcome.cut:
        reason = f"ended by the kit: {', '.join(report.broken)} broken"
        return Judged(verdict=Verdict.SKIP, reason=reason, profile=profile)
    problem = _problem(session, outcome, report, limit_s)
    if problem is not None:
        return Judged(verdict=Verdict.FAIL, failure=problem, profile=profile)
    if session.fault.never and not report.fired:
        return Judged(verdict=Verdict.SKIP, reason=session.fault.never, profile=profile)
    return Judged(verdict=Verdict.PASS, profile=profile)


def of_rule(case: RuleCase, outcomes: Mapping[Session, Outcome]) -> Judged:
    """The verdict of a rule: the first session that breaks it, or whether any had an occasion."""
    seen = 0
    for session, outcome in outcomes.items():
        report = outcome.report
        if report is None:
            continue
        failure = report.broken.get(case.id)
        if failure is not None:
            return Judged(
                verdict=Verdict.FAIL,
                reason=f"in session {session.id}",
                failure=failure,
                profile=session.profile.name,
                also=(session.id,),
            )
        seen += report.occasions.get(case.id, 0)
    if not seen:
        return Judged(verdict=Verdict.SKIP, reason=case.check.never)
    return Judged(verdict=Verdict.PASS)


def _problem(session: Session, outcome: Outcome, report: Report, limit_s: float) -> Failure | None:
    """The first thing that is not as it must be."""
    if report.refused:
        return _failure(report, "Hello", "a Hello that the host accepts", report.refused)
    if outcome.status is None:
        actual = f"still running after {limit_s:g} s"
        return _failure(report, "end", session.ending.value, actual)
    if not report.admitted:
        return _failure(report, "Hello", "a guest that joins", _ended(outcome))
    if report.trouble:
        return _failure(report, "session", "a guest that keeps to the binding", report.trouble)
    if not _right_end(session, outcome, report):
        return _failure(report, "end", session.ending.value, _ended(outcome))
    if outcome.left:
        actual = f"left in /dev/shm: {', '.join(outcome.left)}"
        return _failure(report, "end", "no name left behind", actual)
    return None if outcome.status else _unfinished(session, report)


def _right_end(session: Session, outcome: Outcome, report: Report) -> bool:
    """Whether it ended as it must, by its exit status and its words."""
    assert outcome.status is not None
    if outcome.status == 0:
        met = session.greeting != "welcome" or report.died
        return session.ending is not Ending.FAILED or not met
    return (
        session.ending is not Ending.DONE and outcome.status > 0 and outcome.errors.count("\n") == 1
    )


def _unfinished(session: Session, report: Report) -> Failure | None:
    """What a guest that ended with status 0 has not done."""
    if not report.bye:
        return _failure(report, "end", "Bye", "the connection closed without it")
    if session.fault.again and report.fired and report.overflows_after < AFTERWARDS:
        expected = f"at least {AFTERWARDS} overflows after the fault"
        return _failure(report, "end", expected, f"{report.overflows_after}")
    return None


def _failure(report: Report, where: str, expected: str, actual: str) -> Failure:
    return Failure(where=where, op=report.last or "no exit", expected=expected, actual=actual)


def _ended(outcome: Outcome) -> str:
    """How the guest ended, with what it said last."""
    assert outcome.status is not None
    how = f"status {outcome.status}"
    if outcome.status < 0:
        how = f"ended by {signal.Signals(-outcome.status).name}"
    lines = outcome.errors.splitlines()
    said = f"{len(lines)} lines of standard error"
    return f"{how}, {said}" + (f": {lines[-1][:_TAIL]}" if lines else "")
