"""One guest counter: its state, its period, and the host event that its control word asks for.

Source: ``struct kvm_pmc``, ``get_sample_period``, and the choice of an event in
``reprogram_gp_counter`` and ``reprogram_fixed_counter``.

**EDGE, INV and CMASK** make a raw event, which counts cycles by what happened within each one. The
modelled silicon learns only totals, of as many cycles as the guest retires at a time: any number
made from them would depend on where exits cut the program. So such an event never counts. That is
below every count the hardware could give (CMASK = n: cycles with n events or more), the same for
every path and transport, and the page says it in ``not_counting``.
"""

from __future__ import annotations

from pvpmu.host.perf import Attr, PerfEvent
from pvpmu.shared.cpuid import (
    EVTSEL_INT,
    EVTSEL_OS,
    EVTSEL_USR,
    FIXED_BASE,
    FIXED_OS,
    FIXED_PMI,
    FIXED_USR,
)
from pvpmu.shared.events import BY_SELECTOR, FIXED_KIND
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER

_SELECTOR = 0xFFFF
_MODIFIERS = 0xFF84_0000
"""EDGE, INV and CMASK."""


class Pmc:
    """One guest counter (struct kvm_pmc).

    ``index`` is the global index, ``number`` its own; it counts up to ``mask`` and wraps at
    ``wrap``.
    """

    __slots__ = (
        "accumulator",
        "bit",
        "config",
        "event",
        "eventsel",
        "fixed",
        "index",
        "is_paused",
        "mask",
        "number",
        "wrap",
    )

    def __init__(self, index: int, mask: int) -> None:
        self.index = index
        self.bit = 1 << index
        self.fixed = index >= FIXED_BASE
        self.number = index - FIXED_BASE if self.fixed else index
        self.mask = mask
        self.wrap = mask + 1
        self.accumulator = 0
        self.eventsel = 0
        self.event: PerfEvent | None = None
        self.config: int | None = None
        self.is_paused = False


def counted_kind(pmc: Pmc) -> int | None:
    """The architectural event that its control word selects, modifiers aside, or None."""
    if pmc.fixed:
        return FIXED_KIND[pmc.number]
    event = BY_SELECTOR.get(pmc.eventsel & _SELECTOR)
    return event.kind if event is not None else None


def wanted_event(pmc: Pmc) -> tuple[Attr, bool]:
    """What its control word asks for: the event, and whether its overflow interrupts."""
    # An architectural event that CPUID hides becomes a raw one, which the silicon counts.
    kind = counted_kind(pmc)
    if pmc.fixed:
        user, kernel = pmc.eventsel & FIXED_USR, pmc.eventsel & FIXED_OS
        interrupts = pmc.eventsel & FIXED_PMI
    else:
        if pmc.eventsel & _MODIFIERS:
            kind = None
        user, kernel = pmc.eventsel & EVTSEL_USR, pmc.eventsel & EVTSEL_OS
        interrupts = pmc.eventsel & EVTSEL_INT
    modes = (MODE_USER if user else 0) | (MODE_KERNEL if kernel else 0)
    raw = pmc.eventsel & (_SELECTOR | _MODIFIERS) if kind is None and not pmc.fixed else None
    attr = Attr(kind, modes, pinned=True, exclude_host=True, exclude_idle=True, raw=raw)
    return attr, bool(interrupts)


def sign_extended(value: int) -> int:
    """What a legacy counter write stores: bits 31:0, sign-extended to 64 bits."""
    low = value & 0xFFFF_FFFF
    return low | 0xFFFF_FFFF_0000_0000 if low >> 31 else low


def sample_period(pmc: Pmc, value: int) -> int:
    """get_sample_period: counts until a counter at ``value`` wraps, 2^width for 0."""
    return pmc.wrap - (value & pmc.mask)
