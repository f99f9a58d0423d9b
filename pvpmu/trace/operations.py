"""What the guest's driver was doing: sequences of PMU accesses, told apart by their pattern.

The patterns are those of Linux's ``arch/x86/events`` and ``kernel/events/core.c``: every operation
stands between GLOBAL_CTRL = 0 and GLOBAL_CTRL on; a handler reads GLOBAL_STATUS next, and ends
with a write of LVTPC; the others differ in what they stop and start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pvpmu.shared.cpuid import FIXED_BASE, FIXED_EN, MAX_FIXED
from pvpmu.shared.registers import BY_ADDRESS, Role
from pvpmu.trace.names import RDPMC, READ
from pvpmu.trace.tokens import COUNTER_ROLES, Token, fields_of

LABELS = {
    "pmi": "PMI with an overflow",
    "pmi_spurious": "spurious PMI",
    "pmi_disabled": "PMI, PMU disabled",
    "tick": "timer tick",
    "sched_in": "sched-in",
    "sched_out": "sched-out",
    "rotation": "rotation",
    "toggle": "off and on, nothing between",
}
"""Kinds of operation, named as the bench names its own, and what a table calls them.

``pmi_disabled``: a handler entered with the PMU disabled, whatever it found."""
HANDLERS = ("pmi", "pmi_spurious", "pmi_disabled")


class Context(NamedTuple):
    """What was enabled when an operation began: GP counters as a bitmap, and FIXED_CTR_CTRL."""

    selectors: int = 0
    fixed_ctrl: int = 0

    @property
    def counters(self) -> int:
        """Bitmap by global index of the enabled counters."""
        return self.selectors | fixed_enabled(self.fixed_ctrl) << FIXED_BASE


@dataclass(frozen=True, slots=True)
class Operation:
    """One sequence of accesses, and what was enabled before and after it."""

    kind: str
    tokens: tuple[Token, ...]
    before: Context
    after: Context


def fixed_enabled(fixed_ctrl: int) -> int:
    """Bitmap of the fixed counters that FIXED_CTR_CTRL enables."""
    return sum(1 << j for j in range(MAX_FIXED) if fixed_ctrl >> 4 * j & FIXED_EN)


def handler(tokens: tuple[Token, ...], before: Context, *, enabled: bool) -> Operation | None:
    """A PMI handler; None: no known pattern.

    ``enabled``: it wrote GLOBAL_CTRL on, so the PMU was enabled at its entry.
    """
    walk = _Walk(before)
    walk.over(tokens)
    # Each acknowledgement is followed by another look; only the last look finds nothing.
    if walk.statuses != walk.acknowledges + 1:
        return None
    found = "pmi" if walk.acknowledges else "pmi_spurious"
    kind = found if enabled else "pmi_disabled"
    return Operation(kind, tokens, before, walk.context)


def bracketed(tokens: tuple[Token, ...], before: Context) -> Operation | None:
    """An operation that is no handler, GLOBAL_CTRL off and on included; None: no known pattern."""
    walk = _Walk(before)
    walk.over(tokens)
    if walk.foreign or walk.acknowledges or walk.statuses:
        return None
    if walk.lvtpc:
        kind = "rotation" if walk.stops else "sched_in"
    elif walk.writes and not walk.stops:
        # An APIC that is no x2APIC takes LVTPC as a memory access, which is no MSR exit.
        kind = "sched_in"
    elif walk.starts or walk.writes:
        kind = "tick"
    else:
        kind = "sched_out" if walk.stops else "toggle"
    return Operation(kind, tokens, before, walk.context)


class _Walk:
    """Follows the accesses of one operation."""

    def __init__(self, before: Context) -> None:
        self.context = before
        self.starts = self.stops = self.writes = self.lvtpc = 0
        self.acknowledges = self.statuses = 0
        self.foreign = False

    def over(self, tokens: Iterable[Token]) -> None:
        """Take all accesses."""
        for op, address, detail in map(fields_of, tokens):
            if op == RDPMC:
                self.stops += 1
                continue
            register = BY_ADDRESS[address]
            role = register.role
            if role is Role.FIXED_CTR_CTRL:
                self._fixed_ctrl(detail, write=op != READ)
            elif role is Role.GLOBAL_STATUS:
                self.statuses += 1
            elif op == READ:
                # Linux reads no other PMU register while it works on its counters.
                self.foreign = self.foreign or role is not Role.GLOBAL_CTRL
            elif role is Role.EVTSEL:
                self._selector(1 << register.index, on=bool(detail))
            elif role in COUNTER_ROLES:
                self.writes += 1
            elif role is Role.LVTPC:
                self.lvtpc += 1
            elif role is Role.OVF_CTRL:
                self.acknowledges += 1

    def _selector(self, bit: int, *, on: bool) -> None:
        selectors, fixed_ctrl = self.context
        if on:
            self.starts += 1
            self.context = Context(selectors | bit, fixed_ctrl)
        else:
            self.stops += 1
            self.context = Context(selectors & ~bit, fixed_ctrl)

    def _fixed_ctrl(self, value: int, *, write: bool) -> None:
        selectors, before = self.context
        if write:
            old, new = fixed_enabled(before), fixed_enabled(value)
            self.starts += (new & ~old).bit_count()
            self.stops += (old & ~new).bit_count()
        # What was read is what the register held, whatever was known of it.
        self.context = Context(selectors, value)
