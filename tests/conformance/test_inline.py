"""The inline target: the public set passes, and turns red when host or guest are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.conformance.burst import Burst
from pvpmu.conformance.inline import InlineTarget
from pvpmu.conformance.runner import RunConfig, Runner, select
from pvpmu.conformance.target import Unsupported
from pvpmu.conformance.vector import PROFILES, Vector
from pvpmu.conformance.verdict import CaseResult, Verdict
from pvpmu.guest import pvpage as guest_page
from pvpmu.host import vpmu as host_vpmu
from pvpmu.host.pmi import PmiDelivery
from pvpmu.host.pvpage import HostPage
from pvpmu.host.vpmu import Vpmu

NewRunner = Callable[..., Runner]


@pytest.fixture(scope="module", params=PROFILES)
def whole_run(request: pytest.FixtureRequest, vectors: list[Vector]) -> list[CaseResult]:
    """Every case in one profile: together each in every profile in which it holds."""
    config = RunConfig(profile=request.param)
    return list(Runner(InlineTarget, config).run(vectors).results)


def test_no_case_fails(whole_run: list[CaseResult]) -> None:
    fine = (Verdict.PASS, Verdict.SKIP)
    assert [result.id for result in whole_run if result.verdict not in fine] == []
    assert sum(result.verdict is Verdict.PASS for result in whole_run) > 500


def test_every_skip_has_a_reason(whole_run: list[CaseResult]) -> None:
    for result in whole_run:
        if result.verdict is Verdict.SKIP:
            assert result.reason.startswith(("needs ", "holds in "))


@pytest.mark.parametrize("op", ["kill", "levitate"])
def test_what_it_cannot_do_it_says(op: str) -> None:
    target = InlineTarget()
    config = {
        "version": 2, "length": 7, "full_width": True, "pdcm": True, "gp": 4, "fixed": 3,
        "gp_width": 48, "fixed_width": 48, "unavailable": 0, "is_paused": True, "page": True,
        "freeze": True, "vcpus": 1, "pages": 3, "nmi_at": False, "pmu": True,
        "lvtpc_masked": None, "lvtpc_auto": False, "profile": "kvm-5.14",
    }  # fmt: skip
    target.reset(config)
    with pytest.raises(Unsupported, match="no such operation"):
        target.op(op, 0, {}, lambda _: None)
    with pytest.raises(Unsupported, match="no vCPU 5"):
        target.op("mark", 5, {}, lambda _: None)


def _no_status(self: HostPage) -> None:
    """Acknowledgements are never taken."""


def _always_reprogram(self: Vpmu, value: int) -> bool:
    """A same-value write of GLOBAL_CTRL pauses and starts everything."""
    self.store_global_ctrl(value)
    for pmc in (*self.gp, *self.fixed):
        self.reprogram(pmc)
    return True


def _never_pending(self: PmiDelivery, *, in_guest: bool) -> None:
    """Overflows raise no PMI."""


def _no_copy(self: HostPage) -> bool:
    """A trapped access in FROZEN imports nothing."""
    return True


MUTANTS: dict[str, tuple[Any, str, Any, str]] = {
    "sign extension forgotten": (host_vpmu, "sign_extended", lambda value: value, "WID-02/b"),
    "acknowledgements lost": (HostPage, "load_status", _no_status, "OVF-09"),
    "same value pauses": (Vpmu, "_write_global_ctrl", _always_reprogram, "TURN-06"),
    "PMI lost": (PmiDelivery, "raise_pmi", _never_pending, "OVF-01"),
    "import forgotten": (HostPage, "import_words", _no_copy, "RPM-10"),
    "guest thinks no fixed counter is enabled": (
        guest_page,
        "fixed_enables",
        lambda _: 0,
        "TURN-03",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_machine_is_caught(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    vectors: list[Vector],
    inline_runner: NewRunner,
) -> None:
    owner, attribute, wrong, by = MUTANTS[name]
    (vector,) = select(vectors, [by])
    assert not any(result.verdict.bad for result in inline_runner().run_vector(vector))
    monkeypatch.setattr(owner, attribute, wrong)
    assert any(result.verdict.bad for result in inline_runner().run_vector(vector))


def test_a_burst_retires_exactly_its_counts_however_it_is_cut() -> None:
    whole = Burst([10, 0, 7, 1, 0, 3, 0])
    cut = Burst([10, 0, 7, 1, 0, 3, 0])
    parts = [cut.retire(step) for step in (1, 4, 2, 3)]
    assert whole.retire(10) == [10, 0, 7, 1, 0, 3, 0]
    assert [sum(column) for column in zip(*parts, strict=True)] == [10, 0, 7, 1, 0, 3, 0]


def test_a_burst_knows_the_step_at_which_a_count_is_reached() -> None:
    for count in range(1, 8):
        burst = Burst([10, 7])
        burst.retire(2)
        done = 2 * 7 // 10
        steps = burst.cycles_until(1, count)
        if done + count > 7:
            assert steps is None
            continue
        assert steps is not None
        assert burst.retire(steps)[1] == count
        assert burst.cycles_until(1, 100) is None
