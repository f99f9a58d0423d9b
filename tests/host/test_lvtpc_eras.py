"""Delivery masks LVTPC or leaves it, by era; LVTPC_AUTO unmasks at the COMMIT."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import INJECT_NMI
from pvpmu.shared.profile import KVM_5_14, KVM_6_12

New = Callable[..., Any]
ALL_ON, FOUR = 0x7_0000_00FF, 0x3_0000_0003
NMI_MODE, MASKED = 0x400, 1 << 16
FREEZE, AUTO = page.FEATURE_FREEZE, page.FEATURE_LVTPC_AUTO
START = (1 << 48) - 1000


def machine_of(new_machine: New, features: int | None = None, **changes: Any) -> Any:
    """Four events running in the masking era; with ``features`` a registered page."""
    machine = new_machine(profile=KVM_6_12, **changes)
    machine.run_four()
    machine.window = None if features is None else machine.register(features=features)
    return machine


def balance(machine: Any) -> tuple[int, int]:
    """Both sides of rule PMI-10's sum."""
    counts, pending = machine.host.delivery.counts, machine.host.delivery.undelivered
    arrived = counts.delivered + counts.coalesced + counts.dropped + pending
    return counts.raised + counts.stray, arrived


@pytest.mark.rule("PMI-4")
@pytest.mark.parametrize(("profile", "after"), [(KVM_5_14, 0x400), (KVM_6_12, 0x1_0400)])
def test_delivery_masks_lvtpc_in_the_later_era_only(
    new_machine: New, profile: Any, after: int
) -> None:
    machine = new_machine(profile=profile)
    machine.run_four()
    assert machine.nmi(branches=1000) == INJECT_NMI
    assert machine.read(msr.LVTPC) == after


@pytest.mark.rule("PMI-1", "PMI-4")
def test_in_the_masking_era_a_second_overflow_sets_status_and_raises_nothing(
    new_machine: New,
) -> None:
    machine = machine_of(new_machine)
    machine.nmi(branches=1000)
    assert machine.nmi(blocked=True, cycles=1000) == 0
    assert machine.read(msr.GLOBAL_STATUS) == 1 | 1 << 33
    machine.write(msr.LVTPC, NMI_MODE)
    assert machine.host.delivery.undelivered == 0, "unmasking sends nothing again"
    assert machine.host.delivery.counts.raised == 1


@pytest.mark.rule("PMI-3", "PMI-10")
def test_a_pmi_that_meets_a_masked_lvtpc_at_delivery_is_counted_as_dropped(
    new_machine: New,
) -> None:
    machine = machine_of(new_machine, features=0)
    # Outside the guest the PMI goes through irq_work; a status read only accounts it.
    machine.host.vpmu.in_guest = False
    machine.host.delivery.raise_pmi(in_guest=True)
    machine.host.delivery.write_lvtpc(NMI_MODE | MASKED)
    machine.read(msr.GLOBAL_STATUS)
    counts = machine.host.delivery.counts
    assert (counts.raised, counts.dropped, counts.delivered) == (1, 1, 0)
    assert balance(machine) == (1, 1)


@pytest.mark.rule("FRZ-2")
def test_the_mask_that_the_delivery_set_does_not_keep_it_from_freezing(new_machine: New) -> None:
    machine = machine_of(new_machine, features=FREEZE)
    assert machine.nmi(branches=1000) == INJECT_NMI
    assert machine.window[page.LIVE] == 0
    assert machine.window[page.FREEZE_SEQ] != machine.window[page.RELEASE_SEQ]
    assert machine.window[page.LVTPC] == NMI_MODE | MASKED


@pytest.mark.rule("IMP-8", "OWN-7")
def test_a_delivery_while_frozen_takes_lvtpc_alone_and_publishes_its_mask(
    new_machine: New,
) -> None:
    machine = machine_of(new_machine, features=FREEZE)
    machine.write(msr.GLOBAL_CTRL, 0)
    window = machine.window
    window[page.PMC] = 7
    window[page.LVTPC] = NMI_MODE | 3
    machine.host.delivery.raise_pmi(in_guest=True)
    assert machine.nmi() == INJECT_NMI
    assert window[page.LVTPC] == NMI_MODE | 3 | MASKED
    assert window[page.PMC] == 7
    assert machine.host.vpmu.gp[0].accumulator == START, "the counter was not imported"


@pytest.mark.rule("FEA-5")
def test_a_host_that_does_not_mask_does_not_offer_to_unmask(new_machine: New) -> None:
    assert new_machine(profile=KVM_5_14).host.offered == FREEZE
    assert new_machine(profile=KVM_6_12).host.offered == FREEZE | AUTO


@pytest.mark.rule("FEA-6")
def test_the_first_commit_after_a_delivery_unmasks_lvtpc(new_machine: New) -> None:
    machine = machine_of(new_machine, features=FREEZE | AUTO)
    window = machine.window
    machine.nmi(branches=1000)
    window[page.RELEASE_SEQ] = window[page.FREEZE_SEQ]
    assert machine.write(msr.GLOBAL_CTRL, ALL_ON, blocked=True) == 0
    assert (window[page.LIVE], window[page.LVTPC]) == (FOUR, NMI_MODE)
    assert machine.read(msr.LVTPC) == NMI_MODE


@pytest.mark.rule("FEA-3", "FEA-6")
def test_without_the_feature_the_mask_stays_until_the_guest_clears_it(new_machine: New) -> None:
    machine = machine_of(new_machine, features=FREEZE)
    window = machine.window
    machine.nmi(branches=1000)
    window[page.RELEASE_SEQ] = window[page.FREEZE_SEQ]
    machine.write(msr.GLOBAL_CTRL, ALL_ON, blocked=True)
    assert window[page.LVTPC] == NMI_MODE | MASKED


@pytest.mark.rule("FEA-7")
@pytest.mark.parametrize("way", ["trapped", "page"])
def test_a_commit_never_clears_a_mask_that_the_guest_set(new_machine: New, way: str) -> None:
    machine = machine_of(new_machine, features=FREEZE | AUTO)
    window = machine.window
    machine.nmi(branches=1000)
    if way == "trapped":
        machine.write(msr.LVTPC, NMI_MODE | MASKED, blocked=True)
    else:
        window[page.LVTPC] = NMI_MODE | MASKED | 5
    window[page.RELEASE_SEQ] = window[page.FREEZE_SEQ]
    machine.write(msr.GLOBAL_CTRL, ALL_ON, blocked=True)
    assert window[page.LIVE] == FOUR
    assert window[page.LVTPC] & MASKED


@pytest.mark.rule("FEA-6", "CMT-5")
def test_a_refused_commit_unmasks_nothing(new_machine: New) -> None:
    machine = machine_of(new_machine, features=FREEZE | AUTO)
    window = machine.window
    machine.nmi(branches=1000)
    window[page.RELEASE_SEQ] = window[page.FREEZE_SEQ]
    window[page.PMC] = 1 << 60
    assert machine.write(msr.GLOBAL_CTRL, ALL_ON, blocked=True) == 1
    assert (window[page.LIVE], window[page.LVTPC]) == (0, NMI_MODE | MASKED)
    assert machine.write(msr.GLOBAL_CTRL, ALL_ON, blocked=True) == 0
    assert window[page.LVTPC] == NMI_MODE
