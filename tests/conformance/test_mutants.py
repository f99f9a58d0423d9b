"""Every deliberate mistake is caught, and none outlives its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from pvpmu.cli import run
from pvpmu.conformance.guests.broken import JOINED
from pvpmu.conformance.guests.runner import KitHost
from pvpmu.conformance.mutants import MUTANTS, catch, chosen, failures
from pvpmu.conformance.mutation import Mutant, host_mutant, in_force
from pvpmu.conformance.vector import Vector
from pvpmu.host.pvpage import HostPage
from pvpmu.shared.errors import UsageError

INLINE = [mutant for mutant in MUTANTS if mutant not in JOINED]


def test_there_are_enough_of_both_roles() -> None:
    assert len(MUTANTS) >= 25
    assert {mutant.role for mutant in MUTANTS} == {"host", "guest"}
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.fixture(scope="module")
def kit() -> Iterator[KitHost]:
    with closing(KitHost()) as host:
        yield host


@pytest.mark.parametrize("mutant", INLINE, ids=lambda mutant: mutant.name)
def test_a_vector_catches_it(mutant: Mutant, vectors: list[Vector], kit: KitHost) -> None:
    result = catch(mutant, vectors, kit)
    assert not result.broken
    assert result.by, f"{mutant.name} survives: {mutant.mistake}"
    assert failures([result], kit) == []


@pytest.mark.process
@pytest.mark.parametrize("mutant", JOINED, ids=lambda mutant: mutant.name)
def test_a_case_of_the_guest_role_catches_it(mutant: Mutant, kit: KitHost) -> None:
    result = catch(mutant, [], kit)
    assert [result.by] == list(mutant.likely), f"{mutant.name}: {mutant.mistake}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_is_gone_after_its_run(mutant: Mutant) -> None:
    before = [vars(owner)[name] for owner, name, _ in mutant.patches]
    with in_force(mutant):
        assert [vars(owner)[name] for owner, name, _ in mutant.patches] != before
    assert [vars(owner)[name] for owner, name, _ in mutant.patches] == before


def test_a_mutant_that_no_vector_catches_survives(vectors: list[Vector], kit: KitHost) -> None:
    (mutant,) = chosen(["sticky-status"])
    harmless = [vector for vector in vectors if vector.id == "ENUM-07"]
    result = catch(mutant, harmless, kit)
    assert (result.by, result.tried) == ("", tuple(harmless))


def test_the_command_prints_who_is_caught_by_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["conform", "selftest", "ack-*"]) == 0
    out = capsys.readouterr().out
    assert "ack-elided                 guest  caught by TURN-08 on page" in out
    assert out.endswith("4 mutants, 4 caught, 0 survive\n")


def test_the_command_fails_if_one_survives(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    vectors: list[Vector],
) -> None:
    from pvpmu.conformance import checks

    monkeypatch.setattr(checks, "load_vectors", lambda: vectors[:1])
    assert run(["conform", "selftest", "no-import"]) == 1
    captured = capsys.readouterr()
    assert "SURVIVES" in captured.out
    assert captured.err == "survive: no-import\n"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda _: undefined,  # noqa: F821 (that is the mistake)
        lambda: None,
        lambda self: self.gone,
    ],
    ids=["name", "type", "attr"],
)
def test_a_mutant_that_raises_is_broken_and_neither_caught_nor_survives(
    wrong: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pvpmu.conformance import mutants

    broken = host_mutant("broken", "raises", HostPage, "load_status", wrong, "OVF-09")
    monkeypatch.setattr(mutants, "MUTANTS", (broken, *chosen(["no-import"])))
    assert run(["conform", "selftest"]) == 1
    captured = capsys.readouterr()
    assert captured.out.endswith("2 mutants, 1 caught, 0 survive, 1 broken\n")
    assert captured.err.startswith("broken is no mistake but broken: OVF-09 on page: op ")
    assert "Error: " in captured.err


@pytest.mark.process
def test_the_guest_without_a_mistake_passes_the_cases_that_caught_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["conform", "selftest", "joined-unprepared"]) == 0
    assert "joined-unprepared          guest  caught by REG-6 on guest" in capsys.readouterr().out


def test_an_unknown_mutant_is_refused() -> None:
    with pytest.raises(UsageError, match="no mutant 'nobody'"):
        chosen(["nobody"])
