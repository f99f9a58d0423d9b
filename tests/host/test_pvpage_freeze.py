"""The page's host half: freeze and hold."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import FAULT_GP, INJECT_NMI, WANT_NMI_WINDOW, ExitReason

New, Paged = Callable[..., Any], Any
ALL_ON, FOUR = 0x7_0000_00FF, 0x3_0000_0003
MISSES = 0x53412E
EN = 1 << 22
START = (1 << 48) - 1000
NMI_MODE, MASKED = 0x400, 1 << 16


@pytest.mark.rule("ACC-5", "FRZ-2", "OWN-2", "PMI-7")
def test_the_entry_that_injects_a_pmi_freezes_and_publishes_everything(paged: Paged) -> None:
    pmis = paged.page[page.PMI_SEQ]
    assert paged.nmi(branches=1001, misses=3) == INJECT_NMI
    assert paged.page[page.LIVE] == 0
    assert paged.held
    assert paged.counting == 0
    assert paged.status == 1
    assert paged.page[page.PMI_SEQ] == pmis + 1
    assert paged.page[page.PMC : page.PMC + 2].tolist() == [1, START + 3]
    assert paged.page[page.GLOBAL_CTRL] == ALL_ON, "it reads back what the guest wrote"


@pytest.mark.rule("FRZ-4", "OWN-5")
def test_nothing_counts_during_a_hold(paged: Paged) -> None:
    paged.nmi(branches=1000)
    paged.nmi(blocked=True, branches=500, cycles=500)
    assert paged.read(0x30A) == START
    assert paged.rdpmc(0) == 0


@pytest.mark.rule("FRZ-11")
def test_a_pmi_makes_four_calls_at_delivery_and_eight_at_commit(paged: Paged) -> None:
    paged.nmi(branches=1000)
    assert paged.locks() == [0, 4, 0]
    paged.page[page.PMC] = START
    assert paged.commit(blocked=True) == 0
    assert paged.locks() == [8, 4, 0]
    assert paged.page[page.LIVE] == FOUR
    assert paged.counting == 4


@pytest.mark.rule("FEA-3", "FRZ-1")
def test_without_the_freeze_feature_a_pmi_stops_nothing(new_machine: New) -> None:
    machine = new_machine(freeze=False)
    machine.run_four()
    window = machine.register(features=0)
    assert machine.nmi(branches=1000) == INJECT_NMI
    assert window[page.LIVE] == FOUR
    assert window[page.FREEZE_SEQ] == window[page.RELEASE_SEQ]
    assert len(machine.host.hardware.started) == 4


@pytest.mark.rule("FRZ-3", "PMI-7")
def test_a_foreign_nmi_never_freezes(paged: Paged) -> None:
    pmis = paged.page[page.PMI_SEQ]
    paged.host.queue_nmi()
    assert paged.exit(ExitReason.HLT) == INJECT_NMI
    assert (paged.page[page.LIVE], paged.counting) == (FOUR, 4)
    assert paged.page[page.PMI_SEQ] == pmis


@pytest.mark.rule("FRZ-3", "PMI-5")
def test_a_pmi_behind_a_foreign_nmi_freezes_at_its_own_injection(paged: Paged) -> None:
    paged.host.queue_nmi()
    assert paged.nmi(branches=1000) == INJECT_NMI | WANT_NMI_WINDOW
    assert (paged.page[page.LIVE], paged.counting) == (FOUR, 4)
    assert paged.locks() == [0, 3, 0], "the overflowed counter goes on"
    assert paged.exit(ExitReason.NMI_WINDOW) == INJECT_NMI
    assert (paged.page[page.LIVE], paged.counting) == (0, 0)


@pytest.mark.rule("FRZ-3")
def test_while_nmis_are_blocked_a_pending_pmi_freezes_nothing(paged: Paged) -> None:
    assert paged.nmi(blocked=True, branches=1000) == WANT_NMI_WINDOW
    assert (paged.page[page.LIVE], paged.counting) == (FOUR, 4)
    assert not paged.held
    assert paged.exit(ExitReason.NMI_WINDOW) == INJECT_NMI
    assert paged.held


@pytest.mark.rule("FRZ-2", "PMI-6")
def test_an_injected_pmi_freezes_only_with_a_deliverable_lvtpc(paged: Paged) -> None:
    assert paged.nmi(stray=True, branches=1000) == INJECT_NMI | WANT_NMI_WINDOW
    assert paged.commit(blocked=True) == WANT_NMI_WINDOW
    assert paged.write(msr.LVTPC, MASKED | NMI_MODE, blocked=True) == WANT_NMI_WINDOW
    assert paged.exit(ExitReason.NMI_WINDOW) == INJECT_NMI
    assert not paged.held
    assert (paged.page[page.LIVE], paged.counting) == (FOUR, 4)


@pytest.mark.rule("FRZ-3")
def test_a_pmi_injected_during_a_hold_freezes_no_second_time(paged: Paged) -> None:
    paged.nmi(stray=True, branches=1000)
    seq = paged.page[page.FREEZE_SEQ]
    assert paged.exit(ExitReason.NMI_WINDOW) == INJECT_NMI
    assert paged.page[page.FREEZE_SEQ] == seq
    assert paged.host.delivery.counts.delivered == 2


@pytest.mark.rule("FRZ-6")
@pytest.mark.parametrize("value", [ALL_ON, FOUR])
def test_the_first_global_ctrl_write_of_any_value_ends_the_hold(paged: Paged, value: int) -> None:
    paged.nmi(branches=1000)
    assert paged.commit(value, blocked=True) == 0
    assert not paged.host.vpmu.held
    assert (paged.page[page.GLOBAL_CTRL], paged.page[page.LIVE]) == (value, FOUR)
    assert paged.counting == 4


@pytest.mark.rule("FRZ-8")
def test_a_refused_global_ctrl_write_leaves_the_hold(paged: Paged) -> None:
    paged.nmi(branches=1000)
    assert paged.write(msr.GLOBAL_CTRL, ALL_ON | 1 << 63, blocked=True) == FAULT_GP
    assert (paged.page[page.LIVE], paged.counting) == (0, 0)
    assert paged.page[page.GLOBAL_CTRL] == ALL_ON


@pytest.mark.rule("FRZ-4")
def test_other_writes_that_trap_during_a_hold_start_nothing(paged: Paged) -> None:
    paged.nmi(branches=1000)
    paged.write(0x186, MISSES, blocked=True)
    paged.write(msr.FIXED_CTR_CTRL, 0xBBB, blocked=True)
    assert (paged.page[page.LIVE], paged.counting) == (0, 0)
    assert paged.page[page.EVTSEL] == MISSES
    paged.commit(blocked=True)
    assert (paged.page[page.LIVE], paged.counting) == (FOUR | 1 << 34, 5)


@pytest.mark.rule("IMP-11")
def test_a_release_with_counters_enabled_waits_for_its_global_ctrl_write(paged: Paged) -> None:
    paged.nmi(branches=1000)
    paged.page[page.RELEASE_SEQ] = paged.page[page.FREEZE_SEQ]
    paged.write(0x187, MISSES & ~EN, blocked=True)
    assert (paged.page[page.LIVE], paged.counting) == (0, 0)
    assert paged.commit(blocked=True) == 0
    assert (paged.page[page.LIVE], paged.counting) == (FOUR & ~2, 3)


@pytest.mark.rule("IMP-11")
def test_a_hold_released_with_global_ctrl_zero_ends_in_the_next_import(paged: Paged) -> None:
    paged.nmi(branches=1000)
    paged.page[page.GLOBAL_CTRL] = 0
    paged.page[page.RELEASE_SEQ] = paged.page[page.FREEZE_SEQ]
    assert paged.read(msr.GLOBAL_CTRL) == 0
    assert not paged.host.vpmu.held
    assert paged.commit(blocked=True) == 0
    assert paged.counting == 4
