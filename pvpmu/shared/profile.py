"""Profiles: how a PMU behaves where its sources disagree.

Source: KVM 5.14 and 6.12 as released; for ``strict-sdm`` SDM vol. 3B ("Performance Monitoring",
RDPMC's ECX as a type and an index), vol. 4, and vol. 3A table "IA-32 and Intel 64 Processor States
Following Power-up, Reset, or INIT" (IA32_PERF_GLOBAL_CTRL sets bits n-1:0).
"""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One way to read the sources.

    ``fixed_overwidth_faults``: a fixed-counter write above the width is #GP, else cut.
    ``p6_tolerated``: 0xC1, 0xC2, 0x186, 0x187 without a counter drop writes and read 0, else #GP.
    ``rdpmc_fast``: RDPMC with ECX bit 31 gives the low 32 bits, else #GP: ECX 31:16 is a type.
    ``ovf_ctrl_reads_back``: OVF_CTRL reads the last value written, else 0.
    ``lvtpc_masked``: delivery of a PMI sets LVTPC's mask bit (KVM 6.6, ``kvm_pmu_deliver_pmi``).
    ``emulated_counted``: instructions that the host emulates retire in the guest's counters
    (KVM 5.17, ``kvm_pmu_trigger_event``).
    ``power_on_fixed``: once CPUID is set, GLOBAL_CTRL enables the fixed counters too, else the GP
    counters alone.
    ``global_ctrl_after_reset``: RESET leaves the GP counters' enables set, else 0.
    ``period_from_value``: a write to a running counter arms the event for the written value, so
    that it overflows where the counter wraps. Else KVM's later ``pmc_update_sample_period``: for
    the accumulator, which is the value less what the event has counted since it started, so that
    the overflow comes that much later.
    ``deferred_reprogram``: a write that starts or stops counters only asks for it, and VM-entry
    does it (KVM 6.2, ``kvm_pmu_request_counter_reprogram``).
    ``nmi_last``: before VM-entry NMIs are looked at after PMIs were delivered, so that a PMI costs
    no second turn (KVM 6.7).
    """

    name: str
    fixed_overwidth_faults: bool
    p6_tolerated: bool
    rdpmc_fast: bool
    ovf_ctrl_reads_back: bool
    lvtpc_masked: bool
    emulated_counted: bool
    power_on_fixed: bool
    global_ctrl_after_reset: bool
    period_from_value: bool
    deferred_reprogram: bool
    nmi_last: bool

    def power_on_global_ctrl(self, cpuid: PmuCpuid) -> int:
        """GLOBAL_CTRL when the vCPU was made or its CPUID set (``kvm_pmu_refresh``).

        Below version 2 there is no such register and nothing gates the GP counters.
        """
        if self.power_on_fixed or not cpuid.has_globals:
            return cpuid.counters
        return cpuid.gp_counters

    def reset_global_ctrl(self, cpuid: PmuCpuid) -> int:
        """GLOBAL_CTRL after RESET (``kvm_pmu_reset``)."""
        if self.global_ctrl_after_reset or not cpuid.has_globals:
            return cpuid.gp_counters
        return 0


KVM_5_14 = Profile(
    name="kvm-5.14",
    fixed_overwidth_faults=False,
    p6_tolerated=True,
    rdpmc_fast=True,
    ovf_ctrl_reads_back=True,
    lvtpc_masked=False,
    emulated_counted=False,
    power_on_fixed=True,
    global_ctrl_after_reset=False,
    period_from_value=True,
    deferred_reprogram=False,
    nmi_last=False,
)
KVM_6_12 = Profile(
    name="kvm-6.12",
    fixed_overwidth_faults=False,
    p6_tolerated=True,
    rdpmc_fast=False,
    ovf_ctrl_reads_back=False,
    lvtpc_masked=True,
    emulated_counted=True,
    power_on_fixed=False,
    global_ctrl_after_reset=True,
    period_from_value=False,
    deferred_reprogram=True,
    nmi_last=True,
)
STRICT_SDM = Profile(
    name="strict-sdm",
    fixed_overwidth_faults=True,
    p6_tolerated=False,
    rdpmc_fast=False,
    ovf_ctrl_reads_back=False,
    lvtpc_masked=True,
    emulated_counted=True,
    power_on_fixed=False,
    global_ctrl_after_reset=True,
    period_from_value=True,
    deferred_reprogram=False,
    nmi_last=False,
)
PROFILES = {profile.name: profile for profile in (KVM_5_14, KVM_6_12, STRICT_SDM)}


def profile_named(name: str) -> Profile:
    """Find a profile; raises :class:`UsageError`, naming what exists."""
    if name not in PROFILES:
        raise UsageError(f"unknown profile {name!r}; known: {', '.join(PROFILES)}")
    return PROFILES[name]
