"""PMI delivery: requests, LVTPC, the NMI queue, the IRR and the count of what became of each PMI.

As KVM 5.14: requests are served in the order NMI, PMU, PMI before VM-entry, so that an NMI costs
one more turn of the loop; at most two NMIs are kept (one when NMIs are blocked). In fixed mode
LVTPC's vector waits in the IRR, as often as it comes once, until RFLAGS.IF lets it in. Delivery
masks LVTPC or leaves it, by era. Source: ``vcpu_enter_guest``, ``process_nmi``,
``kvm_apic_local_deliver``, ``__apic_accept_irq``, ``kvm_pmu_deliver_pmi``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.shared.cpuid import LVT_FIXED, LVT_MASKED, LVT_MODE, LVT_NMI, LVT_VECTOR

REQUEST_NMI = 1 << 0
REQUEST_PMU = 1 << 1
REQUEST_PMI = 1 << 2
_OPEN_TO = LVT_MASKED | LVT_MODE
"""What is the mode alone where LVTPC is unmasked."""
_FIRST_VECTOR = 16
"""Those below are the processor's own: an APIC accepts none of them (SDM vol. 3A, 11.5.2)."""


@dataclass(slots=True)
class PmiCounts:
    """What became of PMIs.

    ``raised``: an INT overflow met an unmasked LVTPC. ``delivered``: an NMI or LVTPC's vector was
    injected for one (strays included). ``coalesced``: joined one that was pending. ``dropped``:
    met LVTPC masked, or in another mode, when it was to be delivered. ``late``: delivered with
    live = 0. ``stray``: deliveries that no overflow stands behind. ``extra_loops``: VM-entries
    cancelled because a PMI was requested after NMIs had been looked at.
    """

    raised: int = 0
    delivered: int = 0
    coalesced: int = 0
    dropped: int = 0
    late: int = 0
    stray: int = 0
    extra_loops: int = 0


def sends_nmis(lvtpc: int) -> bool:
    """Whether an LVTPC value delivers NMIs: unmasked and in NMI mode."""
    return lvtpc & _OPEN_TO == LVT_NMI


def vector_of(lvtpc: int) -> int:
    """The vector that an LVTPC value delivers: unmasked and in fixed mode; 0 for none."""
    vector = lvtpc & LVT_VECTOR
    return vector if lvtpc & _OPEN_TO == LVT_FIXED and vector >= _FIRST_VECTOR else 0


def deliverable(lvtpc: int) -> bool:
    """Whether an LVTPC value delivers anything."""
    return sends_nmis(lvtpc) or vector_of(lvtpc) != 0


class PmiDelivery:
    """One vCPU's way from overflow to injected NMI or fixed interrupt.

    ``lvtpc`` is the APIC register; ``pending`` holds the NMIs that wait for injection, in order,
    True for a PMI's. ``irr``: the bitmap of vectors that wait; no other device of this model
    interrupts, so that each is one PMI's. ``masks``: delivery sets LVTPC's mask bit (KVM 6.6 on);
    ``masked_here``: the mask that is set is such a one, and LVTPC was not written since (rule
    FEA-7).
    """

    def __init__(self, *, masks: bool = False) -> None:
        self.masks = masks
        self.counts = PmiCounts()
        self.requests = 0
        self.reset()

    def reset(self) -> None:
        """The APIC's reset state, nothing waiting (RESET and INIT). A PMU request stays."""
        self.masked_here = False
        self.lvtpc = LVT_MASKED
        self.requests &= REQUEST_PMU
        self.irq_work = False
        self._queued: list[bool] = []
        self.pending: list[bool] = []
        self.irr = 0

    @property
    def pmi_pending(self) -> bool:
        """Whether a PMI was raised and its interrupt not yet injected."""
        return bool(self.undelivered)

    @property
    def waiting(self) -> list[bool]:
        """The NMIs not yet injected, in order, True for a PMI's."""
        return self.pending + self._queued

    @property
    def undelivered(self) -> int:
        """PMIs raised and still on their way (neither delivered nor coalesced)."""
        return self._requested + self.waiting.count(True) + self.irr.bit_count()

    @property
    def _requested(self) -> int:
        return bool(self.requests & REQUEST_PMI) + self.irq_work

    def raise_pmi(self, *, in_guest: bool) -> None:
        """KVM's overflow callback with INT: ask for a PMI, through irq_work outside the guest."""
        if not deliverable(self.lvtpc):
            return
        self.counts.raised += 1
        if self.requests & REQUEST_PMI or self.irq_work:
            self.counts.coalesced += 1
        elif in_guest:
            self.requests |= REQUEST_PMI
        else:
            self.irq_work = True

    def deliver(self) -> None:
        """kvm_pmu_deliver_pmi: act on LVTPC as it stands now."""
        if sends_nmis(self.lvtpc):
            self.queue_nmi(pmi=True)
        elif vector := vector_of(self.lvtpc):
            self.counts.coalesced += self.irr >> vector & 1
            self.irr |= 1 << vector
        else:
            self.counts.dropped += 1
            return
        if self.masks:
            self.lvtpc |= LVT_MASKED
            self.masked_here = True

    def write_lvtpc(self, value: int) -> None:
        """The guest's write, trapped or imported: ``value`` as the APIC keeps it."""
        self.lvtpc = value
        self.masked_here = False

    def unmask(self) -> None:
        """Clear the mask that a delivery set (rule FEA-6)."""
        self.lvtpc &= ~LVT_MASKED
        self.masked_here = False

    @property
    def freezes(self) -> bool:
        """Whether LVTPC lets the PMI freeze: in NMI mode, unmasked but by its own delivery."""
        mask = LVT_MASKED if self.masked_here else 0
        return sends_nmis(self.lvtpc & ~mask)

    def queue_nmi(self, *, pmi: bool) -> None:
        """kvm_inject_nmi: count one more NMI and request the loop to look at it."""
        self._queued.append(pmi)
        self.requests |= REQUEST_NMI

    def process_nmis(self, *, blocked: bool) -> None:
        """process_nmi: move queued NMIs to pending, collapsing what exceeds the limit."""
        self.pending += self._queued
        self._queued.clear()
        limit = 1 if blocked else 2
        while len(self.pending) > limit:
            self.counts.coalesced += self.pending.pop()

    def next_is_pmi(self) -> bool:
        """Whether the next NMI to be injected is a PMI's."""
        waiting = self.waiting
        return waiting[0] if waiting else bool(self._requested)

    def inject(self) -> bool:
        """Take the first pending NMI; returns whether it was a PMI's."""
        return self.pending.pop(0)

    def accept_vector(self) -> int:
        """Take the highest waiting vector out of the IRR."""
        vector = self.irr.bit_length() - 1
        self.irr ^= 1 << vector
        return vector
