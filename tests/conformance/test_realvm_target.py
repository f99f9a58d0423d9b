"""The vectors on a real VM, whose guest makes every access in C."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pvpmu.cli import main
from pvpmu.conformance.features import FEATURES
from pvpmu.conformance.machine import FEATURES as OURS
from pvpmu.conformance.realvm import NOT_HERE
from pvpmu.vm import kvm


def test_what_it_lacks_are_features_of_the_others_each_with_a_reason() -> None:
    assert set(NOT_HERE) <= set(FEATURES)
    assert set(NOT_HERE) - {"race"} <= set(OURS)
    assert all(NOT_HERE.values())


@pytest.mark.process
def test_every_case_that_it_can_do_passes_on_every_path(
    real_vm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conform", "run", "--target", "vm", "--path", "both"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    found = re.fullmatch(r"target vm: (\d+) pass, (\d+) skip", last)
    assert found is not None
    passed, skipped = map(int, found.groups())
    assert passed > 10 * skipped


@pytest.mark.process
def test_a_broken_host_is_found_by_the_real_guest(
    real_vm: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pvpmu.host.pvpage import HostPage

    monkeypatch.setattr(HostPage, "freeze_now", lambda _: None)
    assert main(["conform", "run", "HOLD", "--target", "vm", "--path", "page"]) == 1
    assert "fail HOLD-" in capsys.readouterr().out


def test_a_design_that_no_real_vm_can_have_is_one_line(
    real_vm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conform", "run", "--target", "vm", "--design", "xen-style"]) == 2
    assert "design xen-style cannot run on a real VM" in capsys.readouterr().err


def test_without_kvm_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "kvm")
    assert main(["conform", "run", "CNT-01", "--target", "vm"]) == 1
    err = capsys.readouterr().err
    assert "absent; load the module" in err
    assert err.count("\n") == 1
