"""Broken hosts below the page: vPMU, PMI delivery, host perf, save and restore of what waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pvpmu.conformance.mutation import host_mutant as _host
from pvpmu.conformance.mutation import was
from pvpmu.host import counters, migrate
from pvpmu.host import vpmu as vpmu_module
from pvpmu.host.counters import Counters
from pvpmu.host.entry import EntryLoop
from pvpmu.host.perf import PerfContext
from pvpmu.host.pmi import PmiDelivery
from pvpmu.host.vpmu import Vpmu
from pvpmu.shared.cpuid import LVT_MASKED, LVT_MODE, LVT_NMI

_write_lvtpc = was(PmiDelivery, "write_lvtpc")
_deliver = was(PmiDelivery, "deliver")
_pmi_delivered = was(EntryLoop, "_pmi_delivered")
_restore = was(migrate, "restore")
_wanted_event = was(counters, "wanted_event")
_write_eventsel = was(Vpmu, "_write_eventsel")
_counter_writer = was(Vpmu, "_counter_writer")
_overflow = was(Counters, "_overflow")
_period = was(PerfContext, "period")
_fixed_ctr_ctrl = was(Vpmu, "_write_fixed_ctr_ctrl")


def _always_pauses(self: Any, value: int) -> bool:
    if value & self._global_ctrl_reserved:
        return False
    self.store_global_ctrl(value)
    for pmc in self._all:
        self.reprogram(pmc)
    return True


def _leaves_unmasked(self: Any) -> None:
    _deliver(self)
    self.lvtpc &= ~LVT_MASKED
    self.masked_here = False


def _stores_then_refuses(self: Any, pmc: Any, value: int) -> bool:
    if value == pmc.eventsel:
        return True
    self.store_eventsel(pmc, value)
    if value & self._evtsel_reserved:
        return False
    self.reprogram(pmc)
    return True


def _resends(self: Any, value: int) -> None:
    unmasks = self.lvtpc & LVT_MASKED and not value & LVT_MASKED
    _write_lvtpc(self, value)
    if unmasks:
        self.queue_nmi(pmi=True)


def _interrupts_always(self: Any, **_: bool) -> None:
    self.counts.raised += 1
    self.queue_nmi(pmi=True)


def _clears_every_bit(self: Any, value: int) -> bool:
    if value & self._ovf_ctrl_reserved:
        return False
    self.global_status = 0
    self.ovf_ctrl = value
    return True


def _no_counting_after_refusal(self: Any, value: int) -> bool:
    for pmc in self.fixed:
        self.pause(pmc)
    return bool(_fixed_ctr_ctrl(self, value))


def _vector_is_nmi(self: Any) -> None:
    self.lvtpc, kept = self.lvtpc & ~LVT_MODE | LVT_NMI, self.lvtpc
    _deliver(self)
    self.lvtpc = kept | self.lvtpc & LVT_MASKED


def _freezes_for_vector(self: Any) -> None:
    _pmi_delivered(self)
    half = self.page
    if half is not None and half.freeze and half.running:
        half.freeze_now()


def _restores_no_vector(host: Any, state: Any) -> None:
    _restore(host, replace(state, vectors=[]))


def _stays_on_cpu(self: Any, events: Any, pmu: Any) -> None:
    """Programs the counters of the CPU that the thread has left."""
    here, self.pmu = self.pmu, pmu
    for event in events:
        event.last = next(counter for counter in here.counters if not counter.taken)
        self._install(event)


def _asks_for(**flags: bool) -> Any:
    def wanted(pmc: Any) -> Any:
        attr, interrupts = _wanted_event(pmc)
        return replace(attr, **flags), interrupts

    return wanted


def _keeps_period(self: Any, event: Any, period: int) -> bool:
    return event.counter is None or bool(_period(self, event, period))


def _floors_period(self: Any, event: Any, period: int) -> bool:
    return bool(_period(self, event, max(period, 2)))


def _takes_any_width(self: Any, pmc: Any, *, checked: bool = False, marks: bool = True) -> Any:
    del checked
    return _counter_writer(self, pmc, marks=marks)


def _always_interrupts(pmc: Any) -> Any:
    return _wanted_event(pmc)[0], True


def _forgets_found_late(self: Any, pmc: Any, *, interrupts: bool) -> None:
    if self.in_guest:
        _overflow(self, pmc, interrupts=interrupts)


def _faults_if_denied(self: Any, pmc: Any, value: int) -> bool:
    if self._filter is not None and not self._allows(self._filter, pmc, value):
        return False
    return bool(_write_eventsel(self, pmc, value))


def _selector_waits(self: Any, pmc: Any, value: int) -> bool:
    if value & self._evtsel_reserved:
        return False
    self.pause(pmc)
    self.store_eventsel(pmc, value)
    return True


def _releases_value(self: Any) -> None:
    for pmc in self._among(self._with_event & ~(self.in_use | self.own_enable)):
        self._release(pmc)
        pmc.accumulator = 0
    self.in_use = 0


KVM = (
    _host("status-clear-all", "a trapped OVF_CTRL clears every bit", Vpmu, "_write_ovf_ctrl",
          _clears_every_bit, "OVF-07"),
    _host("same-value-pauses", "a same-value GLOBAL_CTRL write pauses and starts", Vpmu,
          "_write_global_ctrl", _always_pauses, "TURN-06"),
    _host("lvtpc-unmasked", "delivery does not mask LVTPC where its era does", PmiDelivery,
          "deliver", _leaves_unmasked, "PMI-01/*"),
    _host("no-sign-extension", "a trapped legacy write is not sign-extended", vpmu_module,
          "sign_extended", lambda value: value & 0xFFFF_FFFF, "WID-02/b"),
    _host("fault-with-effect", "a selector that is #GP is stored all the same", Vpmu,
          "_write_eventsel", _stores_then_refuses, "MSR-05/a"),
    _host("fault-pauses", "a FIXED_CTR_CTRL write pauses before it is checked", Vpmu,
          "_write_fixed_ctr_ctrl", _no_counting_after_refusal, "TURN-06"),
    _host("resend-on-unmask", "unmasking LVTPC sends a PMI", PmiDelivery, "write_lvtpc", _resends,
          "PMI-02"),
    _host("status-interrupts", "raises a PMI with LVTPC masked", PmiDelivery, "raise_pmi",
          _interrupts_always, "PMI-02"),
    _host("vector-is-nmi", "delivers LVTPC's vector as an NMI", PmiDelivery, "deliver",
          _vector_is_nmi, "PMI-04/*"),
    _host("vector-freezes", "freezes for a PMI in fixed mode", EntryLoop, "_pmi_delivered",
          _freezes_for_vector, "HOLD-12"),
    _host("restore-loses-vector", "restores no vector that waits for IF", migrate, "restore",
          _restores_no_vector, "MIG-09/c"),
    _host("counts-host", "host events without exclude_host", counters, "wanted_event",
          _asks_for(exclude_host=False), "CNT-16/b"),
    _host("not-pinned", "host events that are not pinned", counters, "wanted_event",
          _asks_for(pinned=False), "PEM-10/b"),
    _host("move-to-old-cpu", "places what moved on counters of the CPU that it left", PerfContext,
          "sched_in", _stays_on_cpu, "SMP-02/*"),
    _host("period-kept", "resumes with the period from before a write while paused", PerfContext,
          "period", _keeps_period, "OVF-09"),
    _host("period-floor", "never arms a counter for one count", PerfContext, "period",
          _floors_period, "PEM-09"),
    _host("width-unchecked", "a counter takes a value beyond its width", Vpmu, "_counter_writer",
          _takes_any_width, "WID-05/a"),
    _host("no-int-interrupts", "an overflow without INT raises a PMI", counters, "wanted_event",
          _always_interrupts, "OVF-01"),
    _host("late-overflow-lost", "forgets an overflow found at another exit than the PMI's",
          Counters, "_overflow", _forgets_found_late, "PMI-07"),
    _host("denied-faults", "a selector that the filter denies is #GP", Vpmu, "_write_eventsel",
          _faults_if_denied, "FLT-02"),
    _host("selector-waits", "a selector starts nothing while GLOBAL_CTRL is on", Vpmu,
          "_write_eventsel", _selector_waits, "TURN-02"),
    _host("release-loses-value", "lazy release forgets the count", Counters, "cleanup",
          _releases_value, "PEM-08"),
    _host("status-not-settable", "a VMM cannot set GLOBAL_STATUS", Vpmu, "_set_global_status",
          lambda *_: False, "MIG-06"),
)  # fmt: skip
