"""The register table against the architecture's numbers."""

import pytest

from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import UsageError
from pvpmu.shared.registers import (
    BY_ADDRESS,
    REGISTERS,
    Access,
    Role,
    address_of,
    register_named,
)

U64 = (1 << 64) - 1


@pytest.mark.parametrize(
    ("role", "first", "count"),
    [
        (Role.PERFCTR, 0xC1, 8),
        (Role.PMC, 0x4C1, 8),
        (Role.EVTSEL, 0x186, 8),
        (Role.FIXED_CTR, 0x309, 3),
        (Role.CAPABILITIES, 0x345, 1),
        (Role.FIXED_CTR_CTRL, 0x38D, 1),
        (Role.GLOBAL_STATUS, 0x38E, 1),
        (Role.GLOBAL_CTRL, 0x38F, 1),
        (Role.OVF_CTRL, 0x390, 1),
        (Role.LVTPC, 0x834, 1),
    ],
)
def test_each_bank_stands_at_its_architectural_address(role: Role, first: int, count: int) -> None:
    addresses = [register.address for register in REGISTERS if register.role is role]
    assert addresses == list(range(first, first + count))
    assert [address_of(role, i) for i in range(count)] == addresses


def test_addresses_are_unique_and_sorted() -> None:
    addresses = [register.address for register in REGISTERS]
    assert addresses == sorted(set(addresses))
    assert set(BY_ADDRESS) == set(addresses)


@pytest.mark.parametrize(
    ("address", "reserved"),
    [
        (0xC1, 0),
        (0x4C1, 0xFFFF_0000_0000_0000),
        (0x186, 0xFFFF_FFFF_0020_0000),
        (0x309, 0),
        (0x38D, U64 & ~0xBBB),
        (0x38E, U64),
        (0x38F, U64 & ~0x7_0000_00FF),
        (0x390, U64 & ~(0x7_0000_00FF | 3 << 62)),
        (0x345, U64),
        (0x834, 0xFFFF_FFFF_0000_0000),
    ],
)
def test_reserved_bits_follow_from_cpuid(address: int, reserved: int) -> None:
    assert BY_ADDRESS[address].reserved(PmuCpuid(gp=8, fixed=3)) == reserved


def test_a_smaller_pmu_reserves_more() -> None:
    small = PmuCpuid(gp=2, fixed=1, gp_width=40)
    assert BY_ADDRESS[0x38F].reserved(small) == U64 & ~0x1_0000_0003
    assert BY_ADDRESS[0x38D].reserved(small) == U64 & ~0xB
    assert BY_ADDRESS[0x4C1].reserved(small) == U64 & ~((1 << 40) - 1)


def test_registers_of_absent_counters_do_not_exist() -> None:
    small = PmuCpuid(gp=2, fixed=1)
    exist = {register.address for register in REGISTERS if register.exists(small)}
    assert {0xC1, 0xC2, 0x4C1, 0x4C2, 0x186, 0x187, 0x309, 0x38F, 0x834} <= exist
    assert not exist & {0xC3, 0x4C3, 0x188, 0x30A, 0x30B}


@pytest.mark.parametrize(
    ("cpuid", "gone"),
    [
        (PmuCpuid(), set()),
        (PmuCpuid(full_width=False), set(range(0x4C1, 0x4C9))),
        (PmuCpuid(pdcm=False), {0x345, *range(0x4C1, 0x4C9)}),
        (PmuCpuid(fixed=0), {0x309, 0x30A, 0x30B}),
        (PmuCpuid(version=1), {0x309, 0x30A, 0x30B, 0x38D, 0x38E, 0x38F, 0x390}),
        (PmuCpuid(version=0), {r.address for r in REGISTERS if r.pmu} - {0x834}),
    ],
)
def test_what_exists_follows_from_version_full_width_and_pdcm(
    cpuid: PmuCpuid, gone: set[int]
) -> None:
    assert {r.address for r in REGISTERS if not r.exists(cpuid)} == gone


def test_only_ovf_ctrl_is_a_command_and_status_and_capabilities_are_read_only() -> None:
    by_access = {
        access: {r.address for r in REGISTERS if r.pmu and r.access is access} for access in Access
    }
    assert by_access[Access.COMMAND] == {0x390}
    assert by_access[Access.READ_ONLY] == {0x38E, 0x345}


def test_only_the_two_paravirtual_registers_are_not_the_pmus() -> None:
    assert [r.address for r in REGISTERS if not r.pmu] == [msr.PV_PAGE, msr.PV_STATUS]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("MSR_CORE_PERF_GLOBAL_CTRL", 0x38F),
        ("msr_core_perf_global_ctrl", 0x38F),
        ("IA32_PERF_GLOBAL_CTRL", 0x38F),
        ("MSR_P6_EVNTSEL1", 0x187),
        ("IA32_X2APIC_LVT_PMI", 0x834),
        ("MSR_IA32_PMC0", 0x4C1),
        ("0x309", 0x309),
        ("38d", 0x38D),
    ],
)
def test_a_register_is_found_by_linux_trace_or_sdm_name_or_address(name: str, address: int) -> None:
    assert register_named(name).address == address


@pytest.mark.parametrize("name", ["MSR_NOTHING", "0x1234", "", "docs/protocol: registration"])
def test_an_unknown_register_is_a_one_line_error_that_names_the_known(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        register_named(name)
    assert repr(name) in str(caught.value)
    assert "MSR_CORE_PERF_GLOBAL_CTRL" in str(caught.value)
    assert "\n" not in str(caught.value)
