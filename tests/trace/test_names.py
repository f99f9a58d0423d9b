"""Exit and MSR names, however they are spelled."""

from __future__ import annotations

import pytest

from pvpmu.shared.exits import ExitReason
from pvpmu.shared.registers import REGISTERS
from pvpmu.trace import names
from pvpmu.trace.names import READ, WRITE, MsrClass


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("MSR_WRITE", "MSR_WRITE"),
        ("EXIT_REASON_MSR_WRITE", "MSR_WRITE"),
        ("EXIT_MSR", "MSR"),
        ("msr", "MSR"),
        ("VMEXIT_NPF", "NPF"),
        ("PENDING_INTERRUPT", "INTERRUPT_WINDOW"),
        ("interrupt", "INTR"),
        ("EXIT_INTR", "INTR"),
        ("io", "IOIO"),
        ("hypercall", "VMMCALL"),
        ("SOMETHING_NEW", "SOMETHING_NEW"),
    ],
)
def test_one_name_for_an_exit_however_a_tool_spells_it(spelled: str, name: str) -> None:
    assert names.exit_name(spelled) == name


def test_numbers_of_vmx_are_those_that_the_slot_uses() -> None:
    for reason in ExitReason:
        if reason < ExitReason.FLOOR:
            assert names.exit_number_name(reason) == reason.name


def test_numbers_without_a_name_stay_numbers() -> None:
    assert names.exit_number_name(200) == "VMX_EXIT_200"
    assert names.exit_number_name(0x7C, amd=True) == "MSR"
    assert names.exit_number_name(0x999, amd=True) == "SVM_EXIT_0x999"


def test_prose_is_no_exit_and_amd_is_told_from_intel() -> None:
    assert names.is_exit("EPT_VIOLATION")
    assert names.is_exit("excp_gp")
    assert not names.is_exit("following")
    assert names.is_amd_exit("NPF")
    assert not names.is_amd_exit("CPUID")


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.name)
def test_a_register_is_found_by_the_name_that_a_listing_prints(register: object) -> None:
    assert names.msr_address(register.trace_name) == register.address
    assert names.msr_name(register.address) == register.trace_name


def test_msrs_by_address_and_unknown_ones() -> None:
    assert names.msr_address("38f") == names.msr_address("0x38F") == 0x38F
    assert names.msr_address("NO_SUCH_MSR") is None
    assert names.msr_address("1ffffffff") is None
    assert names.msr_name(0x1234) == "0x1234"


@pytest.mark.parametrize(
    ("op", "address", "kind"),
    [
        (WRITE, 0x38F, MsrClass.PMU),
        (WRITE, 0x834, MsrClass.PMU),
        (WRITE, 0x830, MsrClass.FASTPATH),
        (READ, 0x830, MsrClass.OTHER),
        (WRITE, 0x6E0, MsrClass.FASTPATH),
        (READ, 0xC001_0004, MsrClass.PMU_OUTSIDE),
        (WRITE, 0xC1 + 8, MsrClass.PMU_OUTSIDE),
        (WRITE, 0x3F1, MsrClass.PMU_OUTSIDE),
        (READ, 0x10, MsrClass.OTHER),
        (WRITE, 0x5056_5000, MsrClass.OTHER),
    ],
)
def test_an_msr_counts_by_its_class(op: int, address: int, kind: MsrClass) -> None:
    assert names.msr_class(op, address) is kind
