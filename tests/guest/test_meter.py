"""What is charged to the guest clock, and when."""

from __future__ import annotations

import pytest

from pvpmu.guest.meter import Meter
from pvpmu.shared import exits
from pvpmu.shared.costs import Costs
from pvpmu.shared.exits import ExitReason

COSTS = Costs(exit_ns=1000, call_ns=100, redundant_call_ns=10, guest_ns=5, lock_ns=2,
              placement_ns=1, local_read_ns=50, pmu_switch_ns=500)  # fmt: skip


class Rig:
    """A slot, a clock and a host whose work is set before it is crossed to."""

    def __init__(self) -> None:
        self.slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.meter = Meter(COSTS, self.slot)
        self.passed = 0
        self.work = [0] * exits.WORK_WORDS
        self._cross = self.meter.crossing(self._serve)

    def pass_time(self, elapsed: int) -> None:
        self.passed += elapsed

    def _serve(self) -> None:
        for number, count in enumerate(self.work):
            self.slot[exits.WORK_AT + number] = count

    def exit(self, reason: int, *work: int) -> int:
        """Exit while the host does more ``work``; returns what that took on the clock."""
        before = self.passed
        self.work = [a + b for a, b in zip(self.work, work or [0] * exits.WORK_WORDS, strict=True)]
        self.slot[exits.REQUEST] = reason
        self._cross()
        return self.passed - before


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.meter.open(rig)
    return rig


def test_an_exit_and_the_host_s_work_in_it_are_charged_at_the_entry(rig: Rig) -> None:
    assert rig.exit(ExitReason.MSR_READ) == 1000
    assert rig.exit(ExitReason.MSR_WRITE | exits.NMI_BLOCKED, 3, 1, 4, 6, 2, 0) == 1000 + 424
    assert rig.exit(ExitReason.RDPMC) == 1000
    assert rig.exit(ExitReason.EXCEPTION_NMI, 1, 0, 1, 0, 0, 0) == 1000 + 102
    assert rig.exit(ExitReason.EXTERNAL_INTERRUPT, 0, 0, 0, 0, 0, 1) == 1000 + 500
    assert rig.meter.charged == rig.passed


def test_a_handler_is_charged_its_own_work(rig: Rig) -> None:
    rig.meter.handled()
    rig.meter.handled()
    assert rig.passed == rig.meter.charged == 10


@pytest.mark.parametrize("reason", [ExitReason.FLOOR, ExitReason.CONTROL, ExitReason.PASSED_READ])
def test_what_is_no_exit_of_the_model_costs_nothing(rig: Rig, reason: ExitReason) -> None:
    assert rig.exit(reason) == 0


def test_outside_the_measured_window_nothing_is_charged() -> None:
    rig = Rig()
    assert rig.exit(ExitReason.MSR_READ) == 0
    rig.meter.open(rig)
    assert rig.exit(ExitReason.MSR_READ) == 1000
    rig.meter.close()
    rig.meter.handled()
    assert rig.exit(ExitReason.MSR_READ) == 0
    assert rig.meter.charged == 1000
