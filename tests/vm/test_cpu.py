"""A vCPU of a real VM: what interrupts it, and when that is too long."""

from __future__ import annotations

import signal

import pytest

from pvpmu.shared.errors import PeerError
from pvpmu.vm.cpu import VmCpu


def interrupted(deadline: float) -> VmCpu:
    """A vCPU with real events, without a VM: all that an interruption looks at."""
    cpu = VmCpu.__new__(VmCpu)
    cpu.number = 0
    cpu.real_perf = True
    cpu._limit_s = 1.0
    cpu._deadline = deadline
    return cpu


def test_signals_that_never_end_are_one_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def always(signals: object, _: float) -> object:
        taken.append(1)
        assert len(taken) < 1000, "it takes signals for ever"
        return signals

    monkeypatch.setattr(signal, "sigtimedwait", always)
    assert interrupted(float("inf"))._interrupted()


def test_no_signal_of_an_event_is_no_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "sigtimedwait", lambda _signals, _timeout: None)
    assert not interrupted(float("inf"))._interrupted()


def test_a_command_that_does_not_end_is_told() -> None:
    with pytest.raises(PeerError, match="the guest does not end its command in 1 s"):
        interrupted(0.0)._interrupted()
