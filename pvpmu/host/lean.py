"""A vPMU with less host work than KVM's: the host axes of a design, one by one.

* ``direct``: the host's PMI handler hands a guest counter's overflow on at once. It arms the event
  for the counter's next wrap itself, so that no PMU request reprograms it, and asks for a PMI that
  is delivered before the exit is handled, so that no request cancels the VM-entry.
* ``entry_mask``: a counter whose global enable goes keeps its host event. VM-entry leaves it off in
  the guest's value of the hardware's GLOBAL_CTRL, which is written there anyway (facts of KVM:
  ``intel_guest_get_msrs``). Its count is read on this CPU, without perf's lock.
* ``rearm_changed``: at an enable only counters that changed since they were armed are armed again.

**Invariants**: as :class:`Counters`; besides, a masked counter has an event on a hardware counter
that does not count; a counter that is not stale overflows where it wraps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pvpmu.host.mediated import MediatedVpmu
from pvpmu.host.pmc import Pmc, sample_period
from pvpmu.host.vpmu import Vpmu
from pvpmu.shared.design import KVM_AXES, Design


class LeanVpmu(Vpmu):
    """One vCPU's PMU under a design that differs from KVM's on some host axis.

    The arguments after ``design`` are :class:`Vpmu`'s. ``_stale``: bitmap of counters whose event
    is not armed for their next wrap. By bit, ``_shown``: what a counter held at its last stop;
    ``_started``: what its event had counted when it last started. ``reload_of``: what a counter
    that has just overflowed is to be armed for, None for its next wrap.
    """

    def __init__(self, design: Design, *args: Any, **named: Any) -> None:
        self._direct = design.pmi_path == "direct"
        self._entry_mask = design.host_freeze == "entry-mask"
        self._rearm_all = design.rearm == "all"
        self._stale = 0
        self._shown: dict[int, int] = {}
        self._started: dict[int, int] = {}
        self.reload_of: Callable[[Pmc], int | None] = nothing_to_reload
        super().__init__(*args, **named)

    # What counters hold --------------------------------------------------------------------------

    def values(self, bank: list[Pmc]) -> list[int]:
        return [self._value(pmc) for pmc in bank]

    def _value(self, pmc: Pmc) -> int:
        if pmc.event is None or pmc.is_paused:
            return pmc.accumulator & pmc.mask
        if pmc.event.masked:
            self._shown[pmc.bit] = self.read(pmc)
        # Its event counts on from stop to stop: what runs shows what it had at the last one.
        return self._shown.get(pmc.bit, pmc.accumulator & pmc.mask)

    def set_value(self, pmc: Pmc, value: int) -> None:
        event = pmc.event
        counted = event.count if event is not None and event.masked else 0
        pmc.accumulator = value - counted & pmc.mask
        self._stale |= pmc.bit

    def read(self, pmc: Pmc) -> int:
        if pmc.event is not None and pmc.event.masked:
            return pmc.accumulator + pmc.event.count & pmc.mask
        return super().read(pmc)

    def _write_counter(self, pmc: Pmc, refused: int, marks: int, value: int) -> bool:
        if value & refused:
            return False
        self.in_use |= marks
        event = pmc.event
        if event is None or pmc.is_paused or event.masked:
            self.set_value(pmc, value)
            return True
        self._shown.pop(pmc.bit, None)
        count = self._perf.read_value(event)
        pmc.accumulator = value - count & pmc.mask
        # Later KVM arms for the accumulator. There that lacks what was counted since the last
        # stop; here the event's count goes back further.
        since = 0 if self.profile.period_from_value else count - self._started.get(pmc.bit, 0)
        self._perf.period(event, sample_period(pmc, value - since))
        self._stale = self._stale & ~pmc.bit | (pmc.bit if since else 0)
        return True

    # Stopping and starting -----------------------------------------------------------------------

    def pause(self, pmc: Pmc) -> None:
        self._shown.pop(pmc.bit, None)
        self._started.pop(pmc.bit, None)
        super().pause(pmc)

    def stop(self, pmc: Pmc) -> None:
        event = pmc.event
        if not self._entry_mask or event is None or event.counter is None:
            self.pause(pmc)
        elif not event.masked:
            self._perf.mask(event)

    def reprogram(self, pmc: Pmc) -> None:
        if not self.own_enable & pmc.bit:
            # Nothing enables it any more: the hardware counter is somebody else's.
            self.pause(pmc)
            return
        if not self.live & pmc.bit or self.held:
            self.stop(pmc)
            return
        event = pmc.event
        if event is None or pmc.config != pmc.eventsel:
            self._stale &= ~pmc.bit
            super().reprogram(pmc)
            return
        changed = self._rearm_all or bool(self._stale & pmc.bit)
        if event.masked and not changed:
            self._started[pmc.bit] = event.count
            self._perf.unmask(event)
        elif changed or not pmc.is_paused:
            self._stale &= ~pmc.bit
            super().reprogram(pmc)
            return
        else:
            # It was paused and still knows how far it had to go.
            self._perf.enable(event)
            pmc.is_paused = False
        self.reprogram_pmi &= ~pmc.bit

    def start_paused(self) -> None:
        for pmc in self._among(self.live):
            if pmc.is_paused or pmc.event is None or pmc.event.masked:
                self.request_reprogram(pmc)

    def _release(self, pmc: Pmc) -> None:
        self._shown.pop(pmc.bit, None)
        self._started.pop(pmc.bit, None)
        super()._release(pmc)

    # Overflow ------------------------------------------------------------------------------------

    def handle_pmu_request(self, *, pause_only: bool) -> None:
        self._stale |= self.reprogram_pmi
        if pause_only and self._entry_mask:
            # The freeze masks them; the COMMIT arms them.
            self.reprogram_pmi = 0
            return
        super().handle_pmu_request(pause_only=pause_only)

    def _overflow(self, pmc: Pmc, *, interrupts: bool) -> None:
        if not self._direct:
            super()._overflow(pmc, interrupts=interrupts)
            return
        event = pmc.event
        assert event is not None
        self.global_status |= pmc.bit
        self._started[pmc.bit] = event.count
        value = self.reload_of(pmc)
        if value is None:
            value = pmc.accumulator + event.count
        self._perf.rearm(event, sample_period(pmc, value))
        if interrupts:
            # Not by a request: whoever called the PMI handler delivers when it returns.
            self._delivery.raise_pmi(in_guest=False)

    def _add(self, pmc: Pmc, count: int, *, interrupts: bool) -> None:
        self._stale |= pmc.bit
        super()._add(pmc, count, interrupts=interrupts)


def nothing_to_reload(_: Pmc) -> None:
    """Every counter is armed for its next wrap."""


def vpmu_of(design: Design, *args: Any, **named: Any) -> Vpmu:
    """The vPMU that a design asks for; the arguments are :class:`Vpmu`'s."""
    if design.vpmu == "mediated":
        return MediatedVpmu(*args, **named)
    named["skip_paused"] = design.is_paused
    if design.host_axes == KVM_AXES:
        return Vpmu(*args, **named)
    return LeanVpmu(design, *args, **named)
