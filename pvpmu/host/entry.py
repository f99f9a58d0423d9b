"""VM-entry: requests are served in the kernel's order, then NMIs and vectors are injected.

Source: ``vcpu_enter_guest`` (requests NMI, PMU, PMI, until there are none; injection last),
``inject_pending_event``.
"""

from __future__ import annotations

from pvpmu.host.pmi import REQUEST_NMI, REQUEST_PMI, REQUEST_PMU
from pvpmu.host.pvpage import HostPage
from pvpmu.host.registrar import PageRegistrar
from pvpmu.shared import exits
from pvpmu.shared.exits import SlotWords

_INTERRUPTIBLE = exits.INTERRUPTIBLE
_REQUEST = exits.REQUEST


class EntryLoop(PageRegistrar):
    """What :class:`pvpmu.host.vcpu.HostVcpu` does before it enters the guest; ``_slot`` is its."""

    __slots__ = ()

    _slot: SlotWords

    def _deliver(self, *, blocked: bool) -> int:
        """Serve requests and inject, NMIs first, unless they are blocked: reply flags."""
        delivery = self.delivery
        if delivery.requests:
            self._serve_requests(blocked=blocked)
        flags = 0
        if delivery.pending:
            if not blocked:
                self._inject()
                flags = exits.INJECT_NMI
            if delivery.pending:
                flags |= exits.WANT_NMI_WINDOW
        if delivery.irr:
            if not flags & exits.INJECT_NMI and self._slot[_REQUEST] & _INTERRUPTIBLE:
                flags |= exits.INJECT_IRQ | delivery.accept_vector() << exits.VECTOR_SHIFT
                self._pmi_delivered()
            if delivery.irr:
                flags |= exits.WANT_IRQ_WINDOW
        return flags

    def _serve_requests(self, *, blocked: bool) -> None:
        delivery = self.delivery
        nmi_last = self.profile.nmi_last
        while delivery.requests:
            if delivery.requests & REQUEST_NMI and not nmi_last:
                delivery.requests &= ~REQUEST_NMI
                delivery.process_nmis(blocked=blocked)
            if delivery.requests & REQUEST_PMU:
                self._handle_pmu_request(pause_only=not blocked and self._about_to_freeze())
            if delivery.requests & REQUEST_PMI:
                delivery.requests &= ~REQUEST_PMI
                self._deliver_pmi()
            if delivery.requests & REQUEST_NMI and nmi_last:
                delivery.requests &= ~REQUEST_NMI
                delivery.process_nmis(blocked=blocked)
            if delivery.requests:
                delivery.counts.extra_loops += 1

    def _handle_pmu_request(self, *, pause_only: bool) -> None:
        self.delivery.requests &= ~REQUEST_PMU
        self.vpmu.handle_pmu_request(pause_only=pause_only)
        if self.page is not None:
            self.page.registers_changed()

    def _deliver_pmi(self) -> None:
        if self.page is not None:
            self.page.deliver()
        else:
            self.delivery.deliver()

    def _about_to_freeze(self) -> bool:
        return self._freezing() is not None and self.delivery.next_is_pmi()

    def _freezing(self) -> HostPage | None:
        """The page whose counters the injection of a PMI's NMI would freeze now."""
        page_half = self.page
        freezes = page_half is not None and page_half.freeze and page_half.running
        return page_half if freezes and self.delivery.freezes else None

    def _inject(self) -> None:
        if not self.delivery.inject():
            return
        self._pmi_delivered()
        freezing = self._freezing()
        if freezing is not None:
            freezing.freeze_now()

    def _pmi_delivered(self) -> None:
        counts = self.delivery.counts
        counts.delivered += 1
        if not self.vpmu.live:
            counts.late += 1
        if self.page is not None:
            self.page.note_pmi()
