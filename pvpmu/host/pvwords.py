"""What the host half knows of each page word: which values it refuses, what the header holds.

Derived from the layout, the register table and CPUID; nothing here touches a page.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from pvpmu.host.pmc import Pmc
from pvpmu.host.vpmu import Vpmu
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.page import TURN_FIRST, Reject
from pvpmu.shared.registers import Role
from pvpmu.shared.units import U64_MASK

TURN_COUNT = page.TURN_END - TURN_FIRST


@dataclass(frozen=True, slots=True)
class TurnWord:
    """One turn word: where it is, whose it is, which values are refused and why."""

    offset: int
    """Index from TURN_FIRST."""
    pmc: Pmc | None
    address: int
    refused: int
    reason: Reject


def lvtpc_refused(cpuid: PmuCpuid) -> int:
    """LVTPC bits that #GP, and those that the APIC drops: the page holds neither."""
    return (cpuid.lvtpc_reserved | ~cpuid.lvtpc_kept) & U64_MASK


def turn_words(vpmu: Vpmu) -> dict[int, TurnWord]:
    """By offset from TURN_FIRST, ascending; those whose register exists."""
    cpuid = vpmu.cpuid

    def word(role: Role, refused: int, reason: Reject, pmc: Pmc | None = None) -> TurnWord:
        address = msr.address_of(role, pmc.number if pmc else 0)
        offset = page.WORD_OF[address] - TURN_FIRST
        return TurnWord(offset, pmc, address, refused, reason)

    turns = [word(Role.LVTPC, lvtpc_refused(cpuid), Reject.RESERVED_BITS)]
    if cpuid.has_globals:
        turns += [
            word(Role.GLOBAL_CTRL, cpuid.global_ctrl_reserved, Reject.RESERVED_BITS),
            word(Role.FIXED_CTR_CTRL, cpuid.fixed_ctrl_reserved, Reject.RESERVED_BITS),
        ]
    for pmc in vpmu.gp:
        turns.append(word(Role.EVTSEL, cpuid.evtsel_reserved, Reject.RESERVED_BITS, pmc))
        turns.append(word(Role.PMC, ~pmc.mask, Reject.BEYOND_WIDTH, pmc))
    turns += [word(Role.FIXED_CTR, ~pmc.mask, Reject.BEYOND_WIDTH, pmc) for pmc in vpmu.fixed]
    return {turn.offset: turn for turn in sorted(turns, key=attrgetter("offset"))}


def header_words(vpmu: Vpmu, features: int, generation: int) -> list[tuple[int, int]]:
    """Header words in store order: the ready word is last."""
    cpuid = vpmu.cpuid
    return [
        (page.SIZE, page.PAGE.used),
        (page.FEATURES, features),
        (page.GENERATION, generation),
        (page.EVTSEL_RESERVED, cpuid.evtsel_reserved),
        (page.FIXED_CTRL_RESERVED, cpuid.fixed_ctrl_reserved),
        (page.GLOBAL_CTRL_RESERVED, cpuid.global_ctrl_reserved),
        (page.OVF_CTRL_RESERVED, cpuid.ovf_ctrl_reserved),
        (page.LVTPC_DROPPED, lvtpc_refused(cpuid)),
        (page.GP_MASK, cpuid.gp_mask),
        (page.FIXED_MASK, cpuid.fixed_mask),
        (page.STATUS_MASK, cpuid.counters),
        (page.VERSION, page.PAGE_VERSION),
    ]
