"""Verdicts: skips with reasons, broken targets, comparison of paths, replay."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pvpmu.cli import main
from pvpmu.conformance import limit
from pvpmu.conformance.reports import as_json
from pvpmu.conformance.runner import RunConfig, Runner, select
from pvpmu.conformance.target import Reply, Unsupported
from pvpmu.conformance.vector import Vector
from pvpmu.conformance.verdict import CaseResult, Verdict
from pvpmu.shared.errors import UsageError

Results = Callable[..., list[CaseResult]]
RD = {"op": "rd", "msr": 1, "expect": 5}
WR = {"op": "wr", "msr": 1, "value": 5}


def test_what_the_target_does_not_offer_is_skipped_with_the_reason(
    results: Results, new_vector: Any
) -> None:
    (result,) = results(new_vector({"op": "kill"}))
    assert result.verdict is Verdict.SKIP
    assert result.reason == "needs kill: killing the host process"


def test_what_it_advertises_and_does_not_do_is_a_failure(
    results: Results, new_vector: Any, new_target: Any
) -> None:
    def answer(name: str, *_: Any) -> None:
        if name == "kill":
            raise Unsupported("no such operation: kill")

    (result,) = results(new_vector({"op": "kill"}), new_target(answer, ("kill",)))
    assert result.verdict is Verdict.FAIL
    assert result.reason.endswith("is advertised, yet: no such operation: kill")


def test_a_case_of_another_profile_is_skipped(results: Results, new_vector: Any) -> None:
    (result,) = results(new_vector(RD, profile=["strict-sdm"]))
    assert result.verdict is Verdict.SKIP
    assert result.reason == "holds in strict-sdm; the target was run as kvm-6.12"
    (result,) = results(new_vector(WR), profile="kvm-5.14")
    assert result.verdict is Verdict.SKIP


@pytest.mark.parametrize(("level", "verdict"), [("SHOULD", "non-strict"), ("MUST", "fail")])
def test_a_should_that_fails_is_non_strict(
    results: Results, new_vector: Any, level: str, verdict: str
) -> None:
    (result,) = results(new_vector(RD, level=level))
    assert result.verdict.value == verdict
    (result,) = results(new_vector(RD, level=level), strict=True)
    assert result.verdict is Verdict.FAIL


def _breaks(name: str, *_: Any) -> None:
    if name == "mark":
        raise ZeroDivisionError("oh")


def test_a_target_that_raises_fails_that_case_only(new_vector: Any, new_target: Any) -> None:
    opened: list[Any] = []

    def open_target() -> Any:
        opened.append(new_target(_breaks))
        return opened[-1]

    runner = Runner(open_target, RunConfig())
    broken, fine = new_vector(WR, {"op": "mark"}), new_vector(WR, RD, id="MSR-02")
    run = runner.run([broken, fine])
    assert [result.verdict for result in run.results] == [Verdict.ERROR, Verdict.PASS]
    assert run.results[0].reason == "op 1: ZeroDivisionError: oh"
    assert len(opened) == 2
    assert opened[0].closed == 1


def test_a_target_that_hangs_fails_that_case_only(
    results: Results, new_vector: Any, new_target: Any
) -> None:
    def answer(name: str, *_: Any) -> None:
        while name == "mark":
            pass

    (result,) = results(new_vector({"op": "mark"}), new_target(answer), limit_s=0.01)
    assert result.verdict is Verdict.ERROR
    assert result.reason == "not done after 0.01 s, at op 0"


def test_a_case_is_ended_between_operations_when_its_time_is_over(
    results: Results, new_vector: Any, new_target: Any
) -> None:
    def answer(*_: Any) -> None:
        signal.raise_signal(signal.SIGALRM)

    fake = new_target(answer)
    (result,) = results(new_vector(WR, {"op": "mark"}, RD), fake)
    assert result.verdict is Verdict.ERROR
    assert result.reason == "not done after 60 s, at op 1"
    assert [name for name, *_ in fake.asked] == ["wr"]


def test_an_interruption_that_is_lost_comes_again(
    results: Results, new_vector: Any, new_target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "GRACE_S", 0.01)
    lost = []

    def answer(*_: Any) -> None:
        while True:
            try:
                while True:
                    pass
            except limit.TimeLimitError as error:
                if len(lost) == 3:
                    raise
                lost.append(error)

    (result,) = results(new_vector({"op": "mark"}), new_target(answer), limit_s=0.01)
    assert result.reason == "not done after 0.01 s, at op 0"
    assert len(lost) == 3


class _Differing:
    """A target whose page path reads register 1 otherwise."""

    def __init__(self, fake: Any) -> None:
        self.fake = fake
        self.paged = False
        fake.answer = self

    def __call__(self, name: str, _vcpu: int, fields: Any, _on_nmi: Any) -> Reply | None:
        if name == "register":
            self.paged = True
        if name == "mark":
            self.paged = False
        if name == "rd" and fields["msr"] == 1 and self.paged:
            return Reply(value=6)
        return None


ALL = {"paths": ["trap", "page", "page+freeze"]}


def test_a_difference_between_paths_is_a_failure(
    results: Results, new_vector: Any, new_target: Any
) -> None:
    fake = new_target(features=("page", "freeze"))
    _Differing(fake)
    trap, page, freeze = results(
        new_vector({"op": "wr", "msr": 2, "value": 0}, {"op": "rd", "msr": 1}, **ALL), fake
    )
    assert trap.verdict is Verdict.PASS
    for result in (page, freeze):
        assert result.verdict is Verdict.FAIL
        assert result.failure is not None
        assert result.failure.where == "1"
        assert result.failure.expected == "as on the trap path: 0x0"
        assert result.failure.actual == "0x6"
        assert "--path both" in result.replay


def test_a_permitted_difference_of_a_negotiated_feature_is_none(
    results: Results, new_vector: Any, new_target: Any
) -> None:
    fake = new_target(features=("page", "freeze"))
    _Differing(fake)
    op = {"op": "rd", "msr": 1, "differs": ["freeze"]}
    verdicts = [result.verdict for result in results(new_vector(op, **ALL), fake)]
    assert verdicts == [Verdict.PASS, Verdict.FAIL, Verdict.PASS]


def test_what_only_one_path_does_is_not_compared(
    results: Results, new_vector: Any, new_target: Any
) -> None:
    fake = new_target(features=("page", "freeze"))
    ops = [WR, {"op": "rd", "msr": 1, "on": ["page"], "expect": 5}, RD]
    assert {result.verdict for result in results(new_vector(*ops, **ALL), fake)} == {Verdict.PASS}


def test_an_nmi_that_only_one_path_takes_is_a_difference(
    results: Results, new_vector: Any, new_target: Any
) -> None:
    fake = new_target(features=("page", "freeze"))
    paged = _Differing(fake)

    def answer(name: str, vcpu: int, fields: Any, on_nmi: Any) -> Reply | None:
        paged(name, vcpu, fields, on_nmi)
        if name == "wr" and paged.paged:
            on_nmi(0)
        return None

    fake.answer = answer
    _, page, _ = results(new_vector(WR, **ALL), fake)
    assert page.verdict is Verdict.FAIL
    assert page.failure is not None
    assert page.failure.op == "NMI on vCPU 0"


def test_ids_areas_and_globs_select(vectors: list[Vector]) -> None:
    assert {vector.case for vector in select(vectors, ["OVF-08"])} == {"OVF-08"}
    assert {vector.area for vector in select(vectors, ["OVF", "PMI-0?"])} == {"OVF", "PMI"}
    assert [vector.id for vector in select(vectors, ["OVF-08/b"])] == ["OVF-08/b"]
    assert select(vectors, []) == vectors
    with pytest.raises(UsageError, match="no vector matches 'XYZ'"):
        select(vectors, ["OVF", "XYZ"])


def test_a_replay_command_is_a_command(results: Results, new_vector: Any) -> None:
    (result,) = results(new_vector(RD, id="OVF-09"))
    words = shlex.split(result.replay)
    assert words[:4] == ["pvpmu", "conform", "run", "OVF-09"]
    words[words.index("fake")] = "inline"
    words[words.index("kvm-6.12")] = "kvm-5.14"
    assert main(words[1:]) == 0


def test_a_replayed_run_is_the_same_bytes(vectors: list[Vector], inline_runner: Any) -> None:
    some = select(vectors, ["OVF", "PEM", "EMU-01"])
    assert as_json(inline_runner().run(some)) == as_json(inline_runner().run(some))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"profiles": ("amd",)}, "target fake: unknown profile amd"),
        ({"protocol": 2}, "target fake: speaks protocol 2, expected 1"),
    ],
)
def test_a_target_that_cannot_be_understood_is_refused(
    new_target: Any, changes: dict[str, Any], said: str
) -> None:
    class Odd(new_target):  # type: ignore[misc]
        def hello(self) -> Any:
            return msgspec.structs.replace(super().hello(), **changes)

    with pytest.raises(UsageError, match=said):
        Runner(Odd, RunConfig())
