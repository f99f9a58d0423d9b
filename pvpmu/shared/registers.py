"""The register table: every MSR of the PMU, declared once.

Everything else (dispatch in the vPMU, routes at the guest's seam, names in tables and traces,
page words, reserved masks) is derived from it. Source: SDM vol. 4 (MSR tables), SDM vol. 3B
"Architectural Performance Monitoring"; #GP and width rules as KVM's ``intel_pmu_get_msr`` and
``intel_pmu_set_msr`` (5.15) apply them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pvpmu.shared.cpuid import MAX_FIXED, MAX_GP, PmuCpuid
from pvpmu.shared.errors import UsageError


class Access(enum.Enum):
    """What a guest may do with a register."""

    READ_WRITE = "RW"
    READ_ONLY = "R"
    COMMAND = "W1C"
    """Writing 1 clears bits of another register; a repeated write is never a no-op."""


class Role(enum.Enum):
    """What a register is, apart from its index: the key of every dispatch."""

    PERFCTR = "legacy GP counter"
    PMC = "full-width GP counter"
    EVTSEL = "GP event select"
    FIXED_CTR = "fixed counter"
    FIXED_CTR_CTRL = "fixed counter control"
    GLOBAL_STATUS = "overflow status"
    GLOBAL_CTRL = "global enable"
    OVF_CTRL = "overflow status clear"
    CAPABILITIES = "PERF_CAPABILITIES"
    LVTPC = "local APIC LVT perf"
    PV_PAGE = "paravirtual page registration"
    PV_STATUS = "paravirtual registration status"


_GP_BANKS = (Role.PERFCTR, Role.PMC, Role.EVTSEL)
_GLOBALS = (Role.FIXED_CTR_CTRL, Role.GLOBAL_STATUS, Role.GLOBAL_CTRL, Role.OVF_CTRL)


@dataclass(frozen=True, slots=True)
class Register:
    """One MSR.

    ``address``: 32 bits. ``name``: Linux's name. ``trace_name``: what a kvm_msr listing prints.
    ``index``: counter number within its role, 0 for single registers. ``reserved``: the bits
    whose writing is #GP, from CPUID. ``gp_rule`` and ``width_rule`` state the rules in words;
    ``sdm`` is the architectural name to look up.
    """

    address: int
    name: str
    trace_name: str
    role: Role
    index: int
    access: Access
    reserved: Callable[[PmuCpuid], int]
    gp_rule: str
    width_rule: str
    sdm: str

    @property
    def pmu(self) -> bool:
        """Whether this is a register of the PMU itself, not of the paravirtual interface."""
        return self.role not in (Role.PV_PAGE, Role.PV_STATUS)

    def exists(self, cpuid: PmuCpuid) -> bool:
        """Whether a PMU of that shape has this register: any access to another is #GP.

        (But 0xC1, 0xC2, 0x186 and 0x187 where a profile tolerates them.) LVTPC is the APIC's.
        """
        if self.role in _GP_BANKS:
            return self.index < cpuid.gp and (self.role is not Role.PMC or cpuid.full_width)
        if self.role is Role.FIXED_CTR:
            return self.index < cpuid.fixed
        if self.role in _GLOBALS:
            return cpuid.has_globals
        return self.role is not Role.CAPABILITIES or cpuid.pdcm


def _nothing(_: PmuCpuid) -> int:
    return 0


def _everything(_: PmuCpuid) -> int:
    return 0xFFFF_FFFF_FFFF_FFFF


def _above_gp_width(cpuid: PmuCpuid) -> int:
    return ~cpuid.gp_mask & 0xFFFF_FFFF_FFFF_FFFF


def _gp_registers() -> Iterator[Register]:
    for i in range(MAX_GP):
        yield Register(
            0xC1 + i, f"MSR_ARCH_PERFMON_PERFCTR{i}", f"MSR_P6_PERFCTR{i}", Role.PERFCTR, i,
            Access.READ_WRITE, _nothing, "index at or above the number of GP counters (0xC1, "
            "0xC2: only in strict-sdm)", "bits 31:0 sign-extended from bit 31, then cut "
            "to the GP width", f"IA32_PERFCTR{i}",
        )  # fmt: skip
        yield Register(
            0x4C1 + i, f"MSR_IA32_PMC{i}", f"MSR_IA32_PMC{i}", Role.PMC, i, Access.READ_WRITE,
            _above_gp_width, "any bit at or above the GP width, index at or above the number of "
            "GP counters, or no full-width writes", "full GP width", f"IA32_A_PMC{i}",
        )  # fmt: skip
        yield Register(
            0x186 + i, f"MSR_ARCH_PERFMON_EVENTSEL{i}", f"MSR_P6_EVNTSEL{i}", Role.EVTSEL, i,
            Access.READ_WRITE, lambda cpuid: cpuid.evtsel_reserved, "bit 21 (AnyThread) or any of "
            "63:32; index at or above the number of GP counters (0x186, 0x187: only in "
            "strict-sdm)", "32 bits", f"IA32_PERFEVTSEL{i}",
        )  # fmt: skip


def _fixed_registers() -> Iterator[Register]:
    for j in range(MAX_FIXED):
        yield Register(
            0x309 + j, f"MSR_CORE_PERF_FIXED_CTR{j}", f"MSR_CORE_PERF_FIXED_CTR{j}",
            Role.FIXED_CTR, j, Access.READ_WRITE, _nothing, "index at or above the number of "
            "fixed counters; strict-sdm: any bit at or above the fixed width", "cut to the fixed "
            "width", f"IA32_FIXED_CTR{j}",
        )  # fmt: skip


def _single_registers() -> Iterator[Register]:
    def single(
        address: int, name: str, role: Role, access: Access,
        reserved: Callable[[PmuCpuid], int], gp_rule: str, width: str, sdm: str,
        trace: str | None = None,
    ) -> Register:  # fmt: skip
        return Register(
            address, name, trace or name, role, 0, access, reserved, gp_rule, width, sdm
        )

    yield single(
        0x345, "MSR_IA32_PERF_CAPABILITIES", Role.CAPABILITIES, Access.READ_ONLY, _everything,
        "every guest write; every access without PDCM", "bit 13: full-width writes",
        "IA32_PERF_CAPABILITIES",
    )  # fmt: skip
    yield single(
        0x38D, "MSR_CORE_PERF_FIXED_CTR_CTRL", Role.FIXED_CTR_CTRL, Access.READ_WRITE,
        lambda cpuid: cpuid.fixed_ctrl_reserved, "AnyThread bits and nibbles of absent "
        "counters; version below 2", "4 bits for each fixed counter", "IA32_FIXED_CTR_CTRL",
    )  # fmt: skip
    yield single(
        0x38E, "MSR_CORE_PERF_GLOBAL_STATUS", Role.GLOBAL_STATUS, Access.READ_ONLY, _everything,
        "every guest write; version below 2", "one bit for each counter",
        "IA32_PERF_GLOBAL_STATUS",
    )  # fmt: skip
    yield single(
        0x38F, "MSR_CORE_PERF_GLOBAL_CTRL", Role.GLOBAL_CTRL, Access.READ_WRITE,
        lambda cpuid: cpuid.global_ctrl_reserved, "any bit without a counter; version "
        "below 2", "one bit for each counter", "IA32_PERF_GLOBAL_CTRL",
    )  # fmt: skip
    yield single(
        0x390, "MSR_CORE_PERF_GLOBAL_OVF_CTRL", Role.OVF_CTRL, Access.COMMAND,
        lambda cpuid: cpuid.ovf_ctrl_reserved, "bits other than counters, 62 and 63; version "
        "below 2", "one bit for each counter, 62, 63", "IA32_PERF_GLOBAL_OVF_CTRL",
    )  # fmt: skip
    yield single(
        0x834, "APIC_LVTPC", Role.LVTPC, Access.READ_WRITE, lambda cpuid: cpuid.lvtpc_reserved,
        "bits 63:32", "vector 7:0, mode 10:8, mask 16", "x2APIC LVT Performance Monitoring",
        trace="IA32_X2APIC_LVT_PMI",
    )  # fmt: skip
    yield single(
        0x5056_5000, "MSR_PVPMU_PAGE", Role.PV_PAGE, Access.READ_WRITE, _nothing,
        "the paravirtual leaf is absent", "page address 63:12, wanted "
        "version 11:8, wanted features 7:1, enable 0",
        "docs/protocol.md: registration",
    )  # fmt: skip
    yield single(
        0x5056_5001, "MSR_PVPMU_STATUS", Role.PV_STATUS, Access.READ_ONLY, _everything,
        "every guest write; the paravirtual leaf is absent", "code of the last registration",
        "docs/protocol.md: registration",
    )  # fmt: skip


REGISTERS = tuple(
    sorted(
        (*_gp_registers(), *_fixed_registers(), *_single_registers()),
        key=lambda register: register.address,
    )
)
BY_ADDRESS = {register.address: register for register in REGISTERS}
_BY_NAME = {
    name.upper(): register
    for register in REGISTERS
    for name in (register.name, register.trace_name, register.sdm)
    if not name.startswith("docs/")
}


def address_of(role: Role, index: int = 0) -> int:
    """Return the MSR address of a role's ``index``-th register."""
    return _ADDRESS_OF[role, index]


def register_named(name: str) -> Register:
    """Find a register by Linux, trace or SDM name, or by address (``0x38f``).

    Raises :class:`UsageError`, naming what exists.
    """
    found = _BY_NAME.get(name.upper())
    if found is None:
        try:
            found = BY_ADDRESS.get(int(name, 16))
        except ValueError:
            found = None
    if found is None:
        known = ", ".join(register.name for register in REGISTERS)
        raise UsageError(f"unknown register {name!r}; known: {known}")
    return found


_ADDRESS_OF = {(register.role, register.index): register.address for register in REGISTERS}

FIXED_CTR_CTRL = address_of(Role.FIXED_CTR_CTRL)
GLOBAL_STATUS = address_of(Role.GLOBAL_STATUS)
GLOBAL_CTRL = address_of(Role.GLOBAL_CTRL)
OVF_CTRL = address_of(Role.OVF_CTRL)
CAPABILITIES = address_of(Role.CAPABILITIES)
LVTPC = address_of(Role.LVTPC)
PV_PAGE = address_of(Role.PV_PAGE)
PV_STATUS = address_of(Role.PV_STATUS)

FULL_WIDTH_WRITES = 1 << 13
"""PERF_CAPABILITIES bit 13: IA32_A_PMCx exist."""

RDPMC_FIXED = 1 << 30
RDPMC_FAST = 1 << 31
RDPMC_INDICES = tuple(
    bank | number | mode
    for bank, numbers in ((0, MAX_GP), (RDPMC_FIXED, MAX_FIXED))
    for number in range(numbers)
    for mode in (0, RDPMC_FAST)
)
"""Every ECX that RDPMC can take on the largest PMU."""
