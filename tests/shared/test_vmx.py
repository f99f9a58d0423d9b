"""Names of VM-exits."""

from __future__ import annotations

from pvpmu.shared.exits import ExitReason
from pvpmu.shared.vmx import EXIT_REASONS


def test_names_and_numbers_are_those_of_the_exit_slot_where_it_has_them() -> None:
    for reason in ExitReason:
        if reason < ExitReason.FLOOR:
            assert EXIT_REASONS[reason.name] == reason


def test_no_number_has_two_names() -> None:
    assert len(set(EXIT_REASONS.values())) == len(EXIT_REASONS)
