"""PMI delivery: requests, LVTPC, the NMI queue and the count of what became of each PMI.

As KVM 5.14: requests are served in the order NMI, PMU, PMI before VM-entry, so that a PMI costs
one more turn of the loop; at most two NMIs are kept (one when NMIs are blocked). Delivery masks
LVTPC or leaves it, by era. Source: ``vcpu_enter_guest``, ``process_nmi``,
``kvm_apic_local_deliver``, ``kvm_pmu_deliver_pmi``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.shared.cpuid import LVT_MASKED, LVT_MODE, LVT_NMI

REQUEST_NMI = 1 << 0
REQUEST_PMU = 1 << 1
REQUEST_PMI = 1 << 2


@dataclass(slots=True)
class PmiCounts:
    """What became of PMIs.

    ``raised``: an INT overflow met an unmasked LVTPC. ``delivered``: an NMI was injected for one
    (strays included). ``coalesced``: joined one that was pending. ``dropped``:
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


def deliverable(lvtpc: int) -> bool:
    """Whether an LVTPC value delivers NMIs: unmasked and in NMI mode."""
    return not lvtpc & LVT_MASKED and lvtpc & LVT_MODE == LVT_NMI


class PmiDelivery:
    """One vCPU's way from overflow to injected NMI.

    ``lvtpc`` is the APIC register; ``pending`` holds the NMIs that wait for injection, in order,
    True for a PMI's. ``masks``: delivery sets LVTPC's mask bit (KVM 6.6 on); ``masked_here``: the
    mask that is set is such a one, and LVTPC was not written since (rule FEA-7).
    """

    def __init__(self, *, masks: bool = False) -> None:
        self.masks = masks
        self.counts = PmiCounts()
        self.reset()

    def reset(self) -> None:
        """The APIC's reset state, nothing waiting (RESET and INIT)."""
        self.masked_here = False
        self.lvtpc = LVT_MASKED
        self.requests = 0
        self.irq_work = False
        self._queued: list[bool] = []
        self.pending: list[bool] = []

    @property
    def pmi_pending(self) -> bool:
        """Whether a PMI was raised and its NMI not yet injected."""
        return bool(self.undelivered)

    @property
    def waiting(self) -> list[bool]:
        """The NMIs not yet injected, in order, True for a PMI's."""
        return self.pending + self._queued

    @property
    def undelivered(self) -> int:
        """PMIs raised and still on their way (neither delivered nor coalesced)."""
        requested = bool(self.requests & REQUEST_PMI) + self.irq_work
        return requested + self.waiting.count(True)

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
        if not deliverable(self.lvtpc):
            self.counts.dropped += 1
            return
        self.queue_nmi(pmi=True)
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
        return deliverable(self.lvtpc & ~mask)

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
        return waiting[0] if waiting else self.pmi_pending

    def inject(self) -> bool:
        """Take the first pending NMI; returns whether it was a PMI's."""
        return self.pending.pop(0)
