"""Published figures as data."""

from __future__ import annotations

import pytest

from pvpmu.bench.reference import load_reference
from pvpmu.guest.scenario import load_scenario, scenario_names
from pvpmu.shared.errors import UsageError


def test_the_2021_listing_adds_up() -> None:
    reference = load_reference("kvm-2021")
    assert reference is not None
    # The listing's writes and reads, and the exits by reason that the mail gives beside them.
    assert sum(reference.msr_read.values()) == 16_948
    assert sum(reference.msr_write.values()) == 44_881
    assert reference.msr_write["MSR_CORE_PERF_GLOBAL_CTRL"] == 15_822
    assert reference.exits["RDPMC"] == 9_710


def test_no_name_is_no_reference() -> None:
    assert load_reference("") is None


def test_an_unknown_reference_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match="unknown reference 'x'; known: kvm-2021"):
        load_reference("x")


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_has_a_reference_that_exists(name: str) -> None:
    load_reference(load_scenario(name).reference)
