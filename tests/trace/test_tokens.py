"""Accesses as integers: what is kept of a value, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvpmu.shared.registers import BY_ADDRESS, REGISTERS, Role, address_of
from pvpmu.trace.names import ANY_COUNTER, RDPMC, READ, WRITE
from pvpmu.trace.tokens import (
    DETAIL_OF,
    RDPMC_TOKEN,
    Control,
    control_of,
    counter_of,
    fields_of,
    pack_counters,
    token_of,
    unpack_counters,
)

PMU = [register for register in REGISTERS if register.pmu]


@given(st.sampled_from(PMU), st.sampled_from([READ, WRITE]), st.integers(0, (1 << 64) - 1))
def test_instruction_register_and_detail_come_back(register: object, op: int, value: int) -> None:
    found = fields_of(token_of(op, register.address, value))
    detail = DETAIL_OF.get(register.role)
    assert found == (op, register.address, detail(value) if detail else 0)
    assert found.access == (op, register.address)


def test_rdpmc_has_no_counter() -> None:
    assert fields_of(RDPMC_TOKEN) == (RDPMC, ANY_COUNTER, 0)


@pytest.mark.parametrize("role", [Role.PMC, Role.PERFCTR, Role.FIXED_CTR])
def test_counter_values_do_not_tell_operations_apart(role: Role) -> None:
    address = address_of(role)
    assert token_of(WRITE, address, 1) == token_of(WRITE, address, 99)


def test_selectors_differ_by_their_enable_bit_only() -> None:
    address = address_of(Role.EVTSEL)
    assert token_of(WRITE, address, 0x5300C0) == token_of(WRITE, address, 0x53412E)
    assert token_of(WRITE, address, 0x5300C0) != token_of(WRITE, address, 0x1300C0)


@given(st.integers(0, (1 << 64) - 1))
def test_status_bits_survive_packing_where_there_are_counters(bits: int) -> None:
    counters = 0x7_0000_00FF
    assert unpack_counters(pack_counters(bits)) == bits & counters


@pytest.mark.parametrize(
    ("op", "address", "value", "control"),
    [
        (WRITE, 0x38F, 0, Control.OFF),
        (WRITE, 0x38F, 0x70000000F, Control.ON),
        (READ, 0x38F, 0, Control.PLAIN),
        (READ, 0x38E, 1, Control.STATUS),
        (WRITE, 0x834, 0x400, Control.LVTPC),
        (WRITE, 0x390, 1, Control.PLAIN),
    ],
)
def test_borders_of_operations(op: int, address: int, value: int, control: Control) -> None:
    detail = fields_of(token_of(op, address, value)).detail
    assert control_of(op, BY_ADDRESS[address], detail) is control


def test_registers_of_one_counter_name_it() -> None:
    assert counter_of(BY_ADDRESS[0x187]) == counter_of(BY_ADDRESS[0x4C2]) == 1
    assert counter_of(BY_ADDRESS[0x30A]) == 33
    assert counter_of(BY_ADDRESS[0x38F]) is None
