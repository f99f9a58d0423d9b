"""One guest counter: period, sign extension, and the event that its control word asks for."""

from __future__ import annotations

import pytest

from pvpmu.host.perf import Attr
from pvpmu.host.pmc import Pmc, sample_period, sign_extended, wanted_event
from pvpmu.shared.events import BRANCHES, REF_CYCLES
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER

MASK = (1 << 48) - 1
USR, OS, EDGE, INT, EN, INV = 1 << 16, 1 << 17, 1 << 18, 1 << 20, 1 << 22, 1 << 23


def test_sign_extension_keeps_64_bits() -> None:
    assert sign_extended(0x8000_0000) == 0xFFFF_FFFF_8000_0000
    assert sign_extended(0xF_7FFF_FFFF) == 0x7FFF_FFFF


@pytest.mark.parametrize(
    ("value", "period"), [(0, 1 << 48), (1, MASK), (MASK, 1), (-1, 1), (1 << 48, 1 << 48)]
)
def test_the_period_is_what_is_left_to_the_wrap(value: int, period: int) -> None:
    assert sample_period(Pmc(0, MASK), value) == period


def guest_only(kind: int | None, modes: int) -> Attr:
    """What KVM always asks for."""
    return Attr(kind, modes, pinned=True, exclude_host=True, exclude_idle=True)


@pytest.mark.parametrize(
    ("eventsel", "attr", "interrupts"),
    [
        (EN | INT | USR | 0xC4, guest_only(BRANCHES, MODE_USER), True),
        (EN | OS | 0xC4, guest_only(BRANCHES, MODE_KERNEL), False),
        (EN | USR | OS | 0xC4, guest_only(BRANCHES, MODE_USER | MODE_KERNEL), False),
        (EN | 0xC4, guest_only(BRANCHES, 0), False),
        (EN | USR | 0x1C4, guest_only(None, MODE_USER), False),
        (EN | USR | EDGE | 0xC4, guest_only(None, MODE_USER), False),
        (EN | USR | INV | 0xC4, guest_only(None, MODE_USER), False),
        (EN | USR | 1 << 24 | 0xC4, guest_only(None, MODE_USER), False),
    ],
)
def test_a_selector_asks_for_an_architectural_event_only_without_modifiers(
    eventsel: int, attr: Attr, interrupts: bool
) -> None:
    pmc = Pmc(3, MASK)
    pmc.eventsel = eventsel
    assert wanted_event(pmc) == (attr, interrupts)


@pytest.mark.parametrize(
    ("nibble", "modes", "interrupts"),
    [(0xB, MODE_USER | MODE_KERNEL, True), (0x1, MODE_KERNEL, False), (0xA, MODE_USER, True)],
)
def test_a_fixed_counter_asks_for_its_own_event(nibble: int, modes: int, interrupts: bool) -> None:
    pmc = Pmc(34, MASK)
    pmc.eventsel = nibble
    assert wanted_event(pmc) == (guest_only(REF_CYCLES, modes), interrupts)
