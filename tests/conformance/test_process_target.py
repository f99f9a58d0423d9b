"""The target of real processes: same verdicts as inline, and what only it can go through."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import posix_ipc
import pytest

from pvpmu.conformance.inline import InlineTarget
from pvpmu.conformance.process import Crossing, ProcessTarget
from pvpmu.conformance.runner import RunConfig, Runner, select
from pvpmu.conformance.target import Json, OnNmi, Reply
from pvpmu.conformance.vector import Vector
from pvpmu.conformance.verdict import CaseResult, Verdict
from pvpmu.shared.errors import PeerError

pytestmark = pytest.mark.process

AREAS = ("AUTO", "FLT", "HOLD", "LIFE", "MIG", "PMI", "PVP", "RST", "SEAM", "SMP", "TURN")
LIMIT_S = 60.0
SHM = Path("/dev/shm")  # noqa: S108 (where the names are)


def _left() -> list[str]:
    mine = f"conform-{os.getpid()}"
    return [path.name for path in SHM.iterdir() if mine in path.name]


@pytest.fixture
def run() -> Iterator[Callable[..., list[CaseResult]]]:
    """Run vectors on a new process target, or on one of the given kind."""
    runners = []

    def run(vectors: list[Vector], kind: type[ProcessTarget] = ProcessTarget) -> list[CaseResult]:
        runner = Runner(lambda: kind(LIMIT_S), RunConfig(target="process", limit_s=LIMIT_S))
        runners.append(runner)
        return list(runner.run(vectors).results)

    yield run
    for runner in runners:
        runner.close()
    assert _left() == []


def test_the_verdicts_are_those_of_inline(
    run: Callable[..., list[CaseResult]], vectors: list[Vector]
) -> None:
    chosen = select(vectors, AREAS)
    inline = Runner(InlineTarget, RunConfig()).run(chosen).results
    process = run(chosen)
    assert len(process) > 300
    ours = {(case.id, case.path): case.verdict for case in process}
    theirs = {(case.id, case.path): case.verdict for case in inline}
    differing = {key for key in ours if ours[key] is not theirs[key]}
    # Inline cannot kill its host; no case stores between two accesses of another process.
    assert {case for case, _ in differing} == {"PVP-33", "TURN-14", "TURN-15"}
    assert {case.verdict for case in process} == {Verdict.PASS, Verdict.SKIP}


def test_a_guest_whose_host_is_killed_gets_an_error_and_the_next_case_a_new_host(
    run: Callable[..., list[CaseResult]], vectors: list[Vector]
) -> None:
    results = run(select(vectors, ["PVP-33", "RST-01*"]))
    assert [case.id for case in results[:3]] == ["PVP-33"] * 3
    assert {case.verdict for case in results} == {Verdict.PASS}
    assert len(results) > 3


class DiesOnce(ProcessTarget):
    """Its host dies before the first ``rd``, which nobody ordered."""

    died = False

    def op(self, name: str, vcpu: int, fields: Mapping[str, Json], on_nmi: OnNmi) -> Reply:
        if name == "rd" and not DiesOnce.died:
            DiesOnce.died = True
            for vm in self._vms.values():
                vm.host.kill()
        return super().op(name, vcpu, fields, on_nmi)


def test_a_host_that_dies_by_itself_is_an_error_of_its_case_alone(
    run: Callable[..., list[CaseResult]], vectors: list[Vector]
) -> None:
    results = run(select(vectors, ["WID-01*"]), DiesOnce)
    assert results[0].verdict is Verdict.ERROR
    assert "the host has gone" in results[0].reason
    assert {case.verdict for case in results[1:]} == {Verdict.PASS}


@pytest.fixture
def nobody() -> Iterator[Any]:
    """The semaphores of a host that serves nothing."""
    made = [
        posix_ipc.Semaphore(f"/pvpmu-test-{uuid.uuid4().hex}", posix_ipc.O_CREX) for _ in range(2)
    ]
    for semaphore in made:
        semaphore.unlink()
    yield SimpleNamespace(exit_semaphore=made[0], entry_semaphore=made[1])
    for semaphore in made:
        semaphore.close()


@pytest.mark.parametrize(
    ("lives", "words"), [(True, "no VM-entry within 0.3 s"), (False, "the host has gone")]
)
def test_a_crossing_does_not_wait_for_ever(nobody: Any, lives: bool, words: str) -> None:
    host: Any = SimpleNamespace(lives=lambda: lives)
    crossing = Crossing(nobody, host, 0.3)
    with pytest.raises(PeerError, match=words):
        crossing()
    assert crossing.inside
    nobody.entry_semaphore.release()
    crossing()
    assert not crossing.inside
