"""Which accesses of a guest do not exit, by the exit slot's word ``passed``.

The word stands for the VMCS's MSR bitmap and its RDPMC-exiting control, which the host sets and the
CPU obeys without telling the guest's software.
"""

from __future__ import annotations

from pvpmu.shared import exits
from pvpmu.shared.cpuid import FIXED_BASE
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.registers import BY_ADDRESS, Role
from pvpmu.shared.units import MsrAddress

PASSED_AS = {
    int(ExitReason.MSR_READ): int(ExitReason.PASSED_READ),
    int(ExitReason.MSR_WRITE): int(ExitReason.PASSED_WRITE),
    int(ExitReason.RDPMC): int(ExitReason.PASSED_RDPMC),
}
"""What an access is that does not exit, by the exit that it would be."""


def passes(passed: int, reason: int, address: MsrAddress) -> bool:
    """Whether an access (its ``reason``, its address or ECX) reaches the silicon without an exit.

    ``passed``: the slot's word.
    """
    if reason == ExitReason.RDPMC:
        return bool(passed & exits.PASS_RDPMC)
    register = BY_ADDRESS.get(address)
    if register is None:
        return False
    match register.role:
        case Role.GLOBAL_STATUS | Role.GLOBAL_CTRL | Role.OVF_CTRL:
            return bool(passed & exits.PASS_GLOBALS)
        case Role.FIXED_CTR:
            return bool(passed >> FIXED_BASE + register.index & 1)
        case Role.PMC:
            return bool(passed & exits.PASS_FULL_WIDTH and passed >> register.index & 1)
        case Role.PERFCTR:
            return bool(passed >> register.index & 1)
        case _:
            return False
