"""LVTPC in fixed mode: a PMI is a vector that waits for RFLAGS.IF, and never freezes."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.host import vmm
from pvpmu.host.migrate import restore, save
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import INJECT_IRQ, INJECT_NMI, WANT_IRQ_WINDOW, WANT_NMI_WINDOW, ExitReason
from pvpmu.shared.profile import KVM_6_12

New = Callable[..., Any]
ALL_ON, FOUR = 0x7_0000_00FF, 0x3_0000_0003
IF = exits.INTERRUPTIBLE
INJECTED = INJECT_IRQ | 0x41 << exits.VECTOR_SHIFT
NMI_MODE, MASKED = 0x400, 1 << 16


def fixed(machine: Any, vector: int = 0x41) -> Any:
    """Four events running, whose overflows interrupt with a vector."""
    machine.run_four()
    machine.write(msr.LVTPC, vector)
    return machine


def overflow(machine: Any, *, flags: int = 0, **retired: int) -> int:
    """An EXCEPTION_NMI exit; returns the reply."""
    counts = [retired.get("cycles", 0), 0, 0, 0, 0, retired.get("branches", 0), 0]
    reply: int = machine.exit(ExitReason.EXCEPTION_NMI, flags=flags, user=counts)
    return reply


def balance(machine: Any) -> tuple[int, int]:
    """Both sides of rule PMI-10's sum."""
    counts, pending = machine.host.delivery.counts, machine.host.delivery.undelivered
    arrived = counts.delivered + counts.coalesced + counts.dropped + pending
    return counts.raised + counts.stray, arrived


@pytest.mark.rule("PMI-1", "PMI-12")
@pytest.mark.parametrize("blocked", [0, exits.NMI_BLOCKED])
def test_a_vector_is_injected_with_if_set_whether_nmis_are_blocked_or_not(
    new_machine: New, blocked: int
) -> None:
    machine = fixed(new_machine(paged=False))
    assert overflow(machine, flags=IF | blocked, branches=1000) == INJECTED
    assert balance(machine) == (1, 1)
    assert machine.exit(ExitReason.HLT, flags=IF) == 0


@pytest.mark.rule("PMI-12", "BND-14")
def test_without_if_it_waits_and_asks_for_a_window(new_machine: New) -> None:
    machine = fixed(new_machine(paged=False))
    assert overflow(machine, branches=1000) == WANT_IRQ_WINDOW
    assert machine.exit(ExitReason.HLT) == WANT_IRQ_WINDOW
    machine.write(msr.LVTPC, NMI_MODE | MASKED)
    assert machine.exit(ExitReason.INTERRUPT_WINDOW, flags=IF) == INJECTED
    assert machine.exit(ExitReason.INTERRUPT_WINDOW, flags=IF) == 0
    assert balance(machine) == (1, 1)


@pytest.mark.rule("PMI-12")
def test_an_nmi_goes_first_and_the_vector_at_another_entry(new_machine: New) -> None:
    machine = fixed(new_machine(paged=False))
    machine.host.queue_nmi()
    assert overflow(machine, flags=IF, branches=1000) == INJECT_NMI | WANT_IRQ_WINDOW
    machine.host.queue_nmi()
    blocked = exits.NMI_BLOCKED
    assert machine.exit(ExitReason.HLT, flags=blocked) == WANT_NMI_WINDOW | WANT_IRQ_WINDOW
    assert machine.exit(ExitReason.HLT, flags=blocked | IF) == INJECTED | WANT_NMI_WINDOW


@pytest.mark.rule("PMI-1")
@pytest.mark.parametrize("lvtpc", [0x0F, 0x41 | MASKED, 0x200, 0x741])
def test_a_vector_of_the_processors_own_a_mask_and_other_modes_raise_nothing(
    new_machine: New, lvtpc: int
) -> None:
    machine = fixed(new_machine(paged=False), lvtpc)
    assert overflow(machine, flags=IF, branches=1000) == 0
    assert machine.read(msr.GLOBAL_STATUS) == 1
    assert balance(machine) == (0, 0)


@pytest.mark.rule("FRZ-3", "PMI-7")
@pytest.mark.parametrize("now", [True, False])
def test_a_vector_counts_in_pmi_seq_when_it_is_injected_and_never_freezes(
    new_machine: New, now: bool
) -> None:
    machine = fixed(new_machine())
    window = machine.register()
    overflow(machine, flags=IF if now else 0, branches=1000)
    assert (window[page.PMI_SEQ], window[page.LIVE]) == (int(now), FOUR)
    machine.write(msr.LVTPC, NMI_MODE)
    if not now:
        assert machine.exit(ExitReason.INTERRUPT_WINDOW, flags=IF) == INJECTED
    assert (window[page.PMI_SEQ], window[page.LIVE], window[page.FREEZE_SEQ]) == (1, FOUR, 0)
    assert len(machine.host.hardware.started) == 4


@pytest.mark.rule("FRZ-3")
def test_a_vector_that_waits_does_not_make_another_overflow_pause_its_counter(
    new_machine: New,
) -> None:
    machine = fixed(new_machine())
    machine.register()
    overflow(machine, branches=1000)
    machine.write(msr.LVTPC, NMI_MODE)
    machine.write(0x186, 0x43_00C4)  # without INT
    machine.write(0x4C1, (1 << 48) - 5)
    overflow(machine, branches=5)
    assert len(machine.host.hardware.started) == 4


@pytest.mark.rule("PMI-4", "PMI-10")
def test_the_masking_era_masks_at_delivery_not_at_injection(new_machine: New) -> None:
    machine = fixed(new_machine(paged=False, profile=KVM_6_12))
    overflow(machine, branches=1000)
    assert machine.read(msr.LVTPC) == 0x41 | MASKED
    overflow(machine, cycles=1000)
    assert machine.exit(ExitReason.INTERRUPT_WINDOW, flags=IF) == INJECTED
    assert balance(machine) == (1, 1)


@pytest.mark.rule("SAV-2", "SAV-5")
def test_a_vector_that_waits_moves_along_and_comes_once(new_machine: New) -> None:
    machine = fixed(new_machine())
    overflow(machine, branches=1000)
    target = new_machine()
    restore(target.host, save(machine.host))
    assert target.exit(ExitReason.HLT) == WANT_IRQ_WINDOW
    assert target.exit(ExitReason.INTERRUPT_WINDOW, flags=IF) == INJECTED
    assert target.exit(ExitReason.INTERRUPT_WINDOW, flags=IF) == 0
    assert balance(target) == (1, 1)


@pytest.mark.rule("END-3")
@pytest.mark.parametrize("how", [vmm.init, vmm.reset])
def test_init_and_reset_forget_a_vector_that_waits(
    new_machine: New, how: Callable[[Any], None]
) -> None:
    machine = fixed(new_machine())
    overflow(machine, branches=1000)
    how(machine.host)
    assert machine.exit(ExitReason.HLT, flags=IF) == 0
