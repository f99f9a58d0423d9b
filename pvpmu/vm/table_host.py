"""A host that answers from a table: the floor under the vPMU, for measurements only.

It keeps no registers, counts nothing and validates nothing. What it does is the least that lets the
driver's handler run to its end: each PMI's NMI comes, the status that it reads is there once, and
with a page that page is frozen and released. What a handler takes over it is what the VM-exits and
the guest cost, next to nothing of it the host's.
"""

from __future__ import annotations

from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.exits import LIVE_MODE_SHIFT, MODE_KERNEL, MODE_USER, ExitReason
from pvpmu.shared.page import PAGE_SIZE

_READ, _WRITE = int(ExitReason.MSR_READ), int(ExitReason.MSR_WRITE)
_PMI = int(ExitReason.EXCEPTION_NMI)
_COUNTER = 1
"""The counter that overflows: GP counter 0."""


class TableHost:
    """One vCPU's. ``words``: the guest's memory.

    ``paged``: it has registered its page, elsewhere; ``freezes``: that page, at a PMI. ``kind``:
    the event that GP counter 0 counts, and ``period`` how far it is to its overflows.
    """

    def __init__(
        self,
        slot: memoryview[int],
        words: memoryview[int],
        cpuid: PmuCpuid,
        *,
        vcpu: int,
        kind: int,
        period: int,
        paged: bool,
        freezes: bool,
    ) -> None:
        first = vcpu * PAGE_SIZE // 8
        self._slot = slot
        self._words = words[first : first + PAGE_SIZE // 8]
        self._all = cpuid.counters
        self._status = 0
        self._read = dict.fromkeys(msr.BY_ADDRESS, 0)
        self._read[msr.CAPABILITIES] = msr.FULL_WIDTH_WRITES
        self._live = kind | (MODE_USER | MODE_KERNEL) << LIVE_MODE_SHIFT, period
        self.paged = paged
        self._freezes = freezes

    def serve(self) -> None:
        """Answer the exit in the slot."""
        slot = self._slot
        reason = slot[exits.REQUEST] & exits.REASON_MASK
        slot[exits.REPLY] = 0
        if reason == _WRITE:
            if slot[exits.ADDRESS] == msr.OVF_CTRL:
                self._read[msr.GLOBAL_STATUS] = 0
            elif self.paged and slot[exits.ADDRESS] == msr.GLOBAL_CTRL:
                self._words[page.LIVE] = self._all
        elif reason == _READ:
            slot[exits.RESULT] = self._read.get(slot[exits.ADDRESS], 0)
        elif reason == _PMI:
            self._overflow()

    def _overflow(self) -> None:
        slot, words = self._slot, self._words
        if self.paged:
            words[page.RAISED] ^= _COUNTER
            words[page.PMI_SEQ] += 1
            if self._freezes:
                words[page.FREEZE_SEQ] += 1
                words[page.LIVE] = words[page.PMC] = 0
        else:
            self._read[msr.GLOBAL_STATUS] = _COUNTER
        slot[exits.LIVE_AT], slot[exits.LIVE_AT + 1] = self._live
        slot[exits.LIVE_COUNT] = 1
        slot[exits.LIVE_VERSION] += 1
        slot[exits.REPLY] = exits.INJECT_NMI
