"""Profiles: how a PMU behaves where its sources disagree.

Source: KVM 5.14 and 6.12 as released, SDM vol. 3B and vol. 4 for ``strict-sdm``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.shared.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One way to read the sources.

    ``fixed_overwidth_faults``: a fixed-counter write above the width is #GP, else cut.
    ``p6_tolerated``: 0xC1, 0xC2, 0x186, 0x187 without a counter drop writes and read 0, else #GP.
    ``rdpmc_fast``: RDPMC with ECX bit 31 gives the low 32 bits, else #GP.
    ``ovf_ctrl_reads_back``: OVF_CTRL reads the last value written, else 0.
    ``lvtpc_masked``: delivery of a PMI sets LVTPC's mask bit (KVM 6.6, ``kvm_pmu_deliver_pmi``).
    ``emulated_counted``: instructions that the host emulates retire in the guest's counters
    (KVM 5.17, ``kvm_pmu_trigger_event``).
    ``global_ctrl_after_reset``: RESET leaves the GP counters' enables set, else 0.
    ``period_from_value``: a write to a running counter computes the period from the written
    value, else from the accumulator (as KVM corrected it).
    """

    name: str
    fixed_overwidth_faults: bool
    p6_tolerated: bool
    rdpmc_fast: bool
    ovf_ctrl_reads_back: bool
    lvtpc_masked: bool
    emulated_counted: bool
    global_ctrl_after_reset: bool
    period_from_value: bool


KVM_5_14 = Profile(
    name="kvm-5.14",
    fixed_overwidth_faults=False,
    p6_tolerated=True,
    rdpmc_fast=True,
    ovf_ctrl_reads_back=True,
    lvtpc_masked=False,
    emulated_counted=False,
    global_ctrl_after_reset=False,
    period_from_value=True,
)
KVM_6_12 = Profile(
    name="kvm-6.12",
    fixed_overwidth_faults=False,
    p6_tolerated=True,
    rdpmc_fast=False,
    ovf_ctrl_reads_back=False,
    lvtpc_masked=True,
    emulated_counted=True,
    global_ctrl_after_reset=True,
    period_from_value=False,
)
STRICT_SDM = Profile(
    name="strict-sdm",
    fixed_overwidth_faults=True,
    p6_tolerated=False,
    rdpmc_fast=False,
    ovf_ctrl_reads_back=False,
    lvtpc_masked=True,
    emulated_counted=True,
    global_ctrl_after_reset=True,
    period_from_value=False,
)
PROFILES = {profile.name: profile for profile in (KVM_5_14, KVM_6_12, STRICT_SDM)}


def profile_named(name: str) -> Profile:
    """Find a profile; raises :class:`UsageError`, naming what exists."""
    if name not in PROFILES:
        raise UsageError(f"unknown profile {name!r}; known: {', '.join(PROFILES)}")
    return PROFILES[name]
