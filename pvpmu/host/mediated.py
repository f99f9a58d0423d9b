"""KVM's mediated vPMU (2026): the guest's counters are the hardware's, context-switched.

KVM loads the guest's PMU before the inner run loop of ``vcpu_enter_guest`` and puts it after the
loop. In between, counters, GLOBAL_CTRL, GLOBAL_STATUS, OVF_CTRL and RDPMC reach the hardware;
selectors, FIXED_CTR_CTRL and LVTPC exit. No host event stands behind a guest's counter. A guest's
PMI comes by a vector of the host's own, asks for KVM_REQ_PMI and goes through LVTPC as ever.

The registers are those of the hardware while it is loaded, so that here they are kept in one
place, :class:`GuestPmu`; what a switch costs is counted, not done.

Source: KVM of the merge bf2c3138ae36 (February 2026): ``kvm_mediated_pmu_load`` and ``_put``,
``intel_mediated_pmu_load`` and ``_put``, ``vmx_recalc_pmu_msr_intercepts``,
``kvm_need_perf_global_ctrl_intercept``, ``kvm_need_rdpmc_intercept``,
``kvm_handle_guest_mediated_pmi``, ``perf_load_guest_context``, ``perf_load_guest_lvtpc``,
``mediated_pmu_account_event``.

**Invariants**: a counter of :class:`GuestPmu` runs exactly while it is enabled by both enables, its
event exists and the filter allows it; it overflows where it wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pvpmu.host.hardware import PHYSICAL_WIDTH, PhysicalPmu
from pvpmu.host.hostevents import CpuContext
from pvpmu.host.perf import PerfContext
from pvpmu.host.pmc import Pmc, wanted_event
from pvpmu.host.pmi import deliverable
from pvpmu.host.vpmu import Vpmu
from pvpmu.shared import exits
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.hostload import HostLoad
from pvpmu.shared.tally import ELIDED_WRMSRS, PMU_SWITCHES, SWITCH_WRMSRS
from pvpmu.shared.units import Cycles

_SWITCH_ALWAYS = 4
"""WRMSRs of any switch: GLOBAL_CTRL = 0 and FIXED_CTR_CTRL at the load, LVTPC at load and put."""


class GuestPmu(PhysicalPmu):
    """The hardware as a guest with the shape ``cpuid`` has it while its PMU is loaded.

    Counters have the guest's widths. ``interrupting``: bitmap of those whose overflow interrupts.
    """

    def __init__(self, cpuid: PmuCpuid, version: int) -> None:
        widths = cpuid.gp_width, cpuid.fixed_width
        super().__init__(cpuid.gp, cpuid.fixed, widths[0], version, fixed_width=widths[1])
        self.interrupting = 0

    def retire(
        self,
        user: Sequence[int] | None,
        kernel: Sequence[int] | None,
        host: Sequence[int] | None = None,
    ) -> None:
        """As the base class; no driver of the host reloads what wraps, so that it goes on."""
        super().retire(user, kernel, host)
        if self.status:
            self.version += 1


class GuestContext(PerfContext):
    """The vCPU thread's perf context: it has no events, and overflows are the vPMU's."""

    def __init__(self, pmu: GuestPmu) -> None:
        super().__init__(pmu)
        self.on_overflow: Callable[[int], None] = _ignored

    def handle_nmi(self) -> None:
        """Take the hardware's overflow status."""
        status, self.pmu.status = self.pmu.status, 0
        self.on_overflow(status)


class AsideContext(CpuContext):
    """The host's own events on a CPU that runs guests with a mediated PMU.

    Those that would count in a guest are refused (EOPNOTSUPP; and the other way round no such VM
    starts beside them, EBUSY); the others leave the counters while a guest's PMU is loaded.
    """

    def __init__(self, pmu: PhysicalPmu, load: HostLoad) -> None:
        super().__init__(pmu, load)
        for own, wanted in zip(self.load, load.events, strict=True):
            if wanted.guest:
                own.refused = True
                if own.event.counter is not None:
                    self._remove(own.event, own.event.counter)
                self.events.remove(own.event)
                if own.flexible:
                    self._flexible.remove(own.event)
        self.refill()

    def retired(self, user: Sequence[int] | None, kernel: Sequence[int] | None) -> None:
        """Time passes, in which none of them is on a counter."""
        self._cycles += _cycles(user) + _cycles(kernel)


class MediatedVpmu(Vpmu):
    """One vCPU's mediated PMU: the emulated one's registers and checks, the hardware's counters.

    ``pins``: overflows whose interrupt has left the silicon and not reached the host yet.
    """

    def __init__(self, cpuid: PmuCpuid, perf: GuestContext, *args: Any, **named: Any) -> None:
        super().__init__(cpuid, perf, *args, skip_paused=True, **named)
        hardware = perf.pmu
        assert isinstance(hardware, GuestPmu)
        self._hardware = hardware
        self._counters = {counter.bit: counter for counter in hardware.counters}
        self._lvtpc_open = False
        self.pins = 0
        perf.on_overflow = self._overflowed

    # Accesses ------------------------------------------------------------------------------------

    @property
    def not_counting(self) -> int:
        """Enabled counters that the filter stops, or whose event does not exist."""
        running = sum(counter.bit for counter in self._hardware.started)
        return self.live & ~running

    def read(self, pmc: Pmc) -> int:
        return self._counters[pmc.bit].value

    def values(self, bank: list[Pmc]) -> list[int]:
        return [self.read(pmc) for pmc in bank]

    def set_value(self, pmc: Pmc, value: int) -> None:
        counter = self._counters[pmc.bit]
        counter.value = value & pmc.mask
        if counter.running:
            self._hardware.start(counter)

    def _write_counter(self, pmc: Pmc, refused: int, marks: int, value: int) -> bool:
        if value & refused:
            return False
        self.in_use |= marks
        self.set_value(pmc, value)
        return True

    def _write_global_ctrl(self, value: int) -> bool:
        if value & self._global_ctrl_reserved:
            return False
        toggled = value ^ self.global_ctrl
        self.store_global_ctrl(value)
        for pmc in self._among(toggled & self.own_enable):
            self.reprogram(pmc)
        return True

    def reset(self) -> None:
        super().reset()
        self.pins = 0
        for pmc in self._all:
            self.set_value(pmc, 0)
            self.reprogram(pmc)

    # Counting ------------------------------------------------------------------------------------

    def request_reprogram(self, pmc: Pmc) -> None:
        """The selector that the hardware is loaded with at VM-entry (``eventsel_hw``)."""
        self.reprogram(pmc)

    def reprogram(self, pmc: Pmc) -> None:
        """Run or stop, as the control words and the filter say, from the present value on."""
        hardware, counter = self._hardware, self._counters[pmc.bit]
        attr, interrupts = wanted_event(pmc)
        hardware.interrupting &= ~pmc.bit
        hardware.interrupting |= pmc.bit if interrupts else 0
        if self.live & pmc.bit and attr.kind is not None and self._is_allowed(pmc):
            hardware.program(counter, attr.kind, attr.modes, host=False)
            hardware.start(counter)
        else:
            hardware.stop(counter)

    def set_filter(self, event_filter: Any) -> None:
        self._filter = event_filter
        for pmc in self._all:
            self.reprogram(pmc)

    def _is_allowed(self, pmc: Pmc) -> bool:
        return self._filter is None or self._allows(self._filter, pmc, pmc.eventsel)

    def _add(self, pmc: Pmc, count: int, *, interrupts: bool) -> None:
        """kvm_pmu_incr_counter: what the host emulated."""
        value = self.read(pmc) + count
        self.set_value(pmc, value)
        if value > pmc.mask:
            self.global_status |= pmc.bit
            if interrupts:
                self._delivery.raise_pmi(in_guest=True)

    # PMIs and switches ---------------------------------------------------------------------------

    def _overflowed(self, status: int) -> None:
        self.global_status |= status
        if self._lvtpc_open:
            self.pins += (status & self._hardware.interrupting).bit_count()

    def put(self, tally: list[int]) -> None:
        """An exit left the inner loop: the PMU is put, and will be loaded. Counts its WRMSRs.

        The host has interrupts on again and takes those of the silicon
        (kvm_handle_guest_mediated_pmi).
        """
        while self.pins:
            self.pins -= 1
            self._delivery.raise_pmi(in_guest=True)
        nonzero = sum(counter.value != 0 for counter in self._counters.values())
        selectors = sum(pmc.eventsel != 0 for pmc in self.gp)
        # Put: what is not 0 is cleared. Load: counters that are not 0, all selectors.
        wrmsrs = 2 * nonzero + selectors + len(self.gp)
        wrmsrs += (self.fixed_ctr_ctrl != 0) + 2 * (self.global_status != 0) + _SWITCH_ALWAYS
        tally[PMU_SWITCHES] += 1
        tally[SWITCH_WRMSRS] += wrmsrs
        tally[ELIDED_WRMSRS] += len(self._counters) - nonzero

    def load(self) -> None:
        """perf_load_guest_lvtpc: while the guest runs, its LVTPC's mask is the hardware's."""
        self._lvtpc_open = deliverable(self._delivery.lvtpc)


def passed_accesses(cpuid: PmuCpuid, load: HostLoad) -> int:
    """The slot's word ``passed`` for a guest of that shape on a physical PMU of ``load``'s.

    The global registers and RDPMC pass only if the guest has all of the hardware's counters, RDPMC
    only if they also have its width: else the guest would reach what it does not have.
    """
    passed = cpuid.counters | exits.PMI_BY_VECTOR
    if cpuid.full_width:
        passed |= exits.PASS_FULL_WIDTH
    if cpuid.has_globals and (cpuid.gp, cpuid.fixed) == (load.gp, load.fixed):
        passed |= exits.PASS_GLOBALS
        if cpuid.gp_width == cpuid.fixed_width == PHYSICAL_WIDTH:
            passed |= exits.PASS_RDPMC
    return passed


def _cycles(counts: Sequence[int] | None) -> Cycles:
    return counts[0] if counts is not None else 0


def _ignored(_: int) -> None:
    return None
