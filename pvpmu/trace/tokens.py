"""One PMU access of a trace as an integer: what the recognition of operations works on.

A token holds the instruction, the MSR and of the value what decides where an access goes (for
a counter nothing, for a selector its enable bit): equal operations are equal tuples of tokens.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from pvpmu.shared.cpuid import EVTSEL_EN, FIXED_BASE, LVT_MASKED, MAX_FIXED, MAX_GP
from pvpmu.shared.registers import BY_ADDRESS, LVTPC, Register, Role
from pvpmu.shared.units import MsrAddress
from pvpmu.trace.counts import Access
from pvpmu.trace.names import ANY_COUNTER, RDPMC, READ, WRITE

Token = int
_ADDRESS_BITS = 32
_OP_BITS = 2
_DETAIL_SHIFT = _ADDRESS_BITS + _OP_BITS
_GP_BITS = (1 << MAX_GP) - 1
_FIXED_BITS = (1 << MAX_FIXED) - 1
FIXED_CTRL_BITS = (1 << 4 * MAX_FIXED) - 1
COUNTER_ROLES = (Role.PERFCTR, Role.PMC, Role.FIXED_CTR)


class Control(enum.IntEnum):
    """What an access means for the borders of operations."""

    PLAIN = 0
    OFF = 1
    """GLOBAL_CTRL = 0."""
    ON = 2
    """GLOBAL_CTRL with any counter."""
    STATUS = 3
    """GLOBAL_STATUS is read."""
    LVTPC = 4
    """LVTPC is written."""


class Fields(NamedTuple):
    """A token's parts. ``detail``: see :data:`DETAIL_OF`."""

    op: int
    address: MsrAddress
    detail: int

    @property
    def access(self) -> Access:
        """Instruction and MSR."""
        return self.op, self.address


RDPMC_TOKEN: Token = RDPMC << _ADDRESS_BITS | ANY_COUNTER


def token_of(op: int, address: MsrAddress, value: int = 0) -> Token:
    """The token of a read or write of a register of the table, with its value."""
    detail = DETAIL_OF.get(BY_ADDRESS[address].role)
    matters = detail(value) if detail is not None else 0
    return matters << _DETAIL_SHIFT | op << _ADDRESS_BITS | address


def fields_of(token: Token) -> Fields:
    """Take a token apart."""
    return Fields(
        token >> _ADDRESS_BITS & ((1 << _OP_BITS) - 1),
        token & ((1 << _ADDRESS_BITS) - 1),
        token >> _DETAIL_SHIFT,
    )


def pack_counters(bits: int) -> int:
    """Bits by global index, without the gap between GP and fixed counters and others' bits."""
    return bits & _GP_BITS | (bits >> FIXED_BASE & _FIXED_BITS) << MAX_GP


def unpack_counters(packed: int) -> int:
    """The reverse of :func:`pack_counters`."""
    return packed & _GP_BITS | packed >> MAX_GP << FIXED_BASE


DETAIL_OF: dict[Role, Callable[[int], int]] = {
    Role.GLOBAL_CTRL: lambda value: 1 if value else 0,
    Role.GLOBAL_STATUS: pack_counters,
    Role.OVF_CTRL: pack_counters,
    Role.EVTSEL: lambda value: 1 if value & EVTSEL_EN else 0,
    Role.FIXED_CTR_CTRL: lambda value: value & FIXED_CTRL_BITS,
    Role.LVTPC: lambda value: 1 if value & LVT_MASKED else 0,
}
"""By role: whether GLOBAL_CTRL enables anything, which counters' status bits, whether the selector
is enabled, the control nibbles, whether LVTPC is masked. Of a counter nothing."""


def control_of(op: int, register: Register, detail: int) -> Control:
    """What an access means for the borders of operations."""
    if register.role is Role.GLOBAL_CTRL and op == WRITE:
        return Control.ON if detail else Control.OFF
    if register.role is Role.GLOBAL_STATUS and op == READ:
        return Control.STATUS
    if register.address == LVTPC and op == WRITE:
        return Control.LVTPC
    return Control.PLAIN


def counter_of(register: Register) -> int | None:
    """The global index of the counter that a register belongs to; None for those of all."""
    if register.role is Role.FIXED_CTR:
        return FIXED_BASE + register.index
    if register.role in (Role.PERFCTR, Role.PMC, Role.EVTSEL):
        return register.index
    return None
