"""The guest's PMU driver: Linux's access sequences, by generation, nothing paravirtual.

Source: ``arch/x86/events/core.c`` and ``intel/core.c`` (``intel_pmu_handle_irq`` with late ack,
``x86_pmu_start``, ``x86_pmu_stop``, ``x86_perf_event_update``, ``x86_perf_event_set_period``,
``intel_pmu_enable_fixed``): behaviour and order of accesses only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pvpmu.guest.msr import MsrAccess
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import (
    EVTSEL_EN,
    EVTSEL_INT,
    EVTSEL_OS,
    EVTSEL_USR,
    FIXED_BASE,
    FIXED_OS,
    FIXED_PMI,
    FIXED_USR,
    LVT_NMI,
    PmuCpuid,
)
from pvpmu.shared.events import Event
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER
from pvpmu.shared.registers import Role
from pvpmu.shared.units import MsrAddress

_MIN_LEFT = 2
"""Linux never programs less: some CPUs do not like a single count left."""
_MAX_LOOPS = 100
_BOTH = MODE_USER | MODE_KERNEL
_FIXED_ON = {
    MODE_USER: FIXED_PMI | FIXED_USR,
    MODE_KERNEL: FIXED_PMI | FIXED_OS,
    _BOTH: FIXED_PMI | FIXED_USR | FIXED_OS,
}
_EVTSEL_ON = {
    MODE_USER: EVTSEL_EN | EVTSEL_INT | EVTSEL_USR,
    MODE_KERNEL: EVTSEL_EN | EVTSEL_INT | EVTSEL_OS,
    _BOTH: EVTSEL_EN | EVTSEL_INT | EVTSEL_USR | EVTSEL_OS,
}
"""By modes that the event counts in."""


@dataclass(slots=True, eq=False)
class HwEvent:
    """struct hw_perf_event and its event: what the driver keeps for one event.

    ``sample_period`` and ``left`` are counts; ``counter`` is the global index or None;
    ``active``: enabled on its counter; ``up_to_date``: ``count`` includes the counter's value;
    ``modes``: a bitmap of MODE_USER and MODE_KERNEL, one at least.

    Valid while it has a counter: ``config_base`` and ``event_base`` are the MSRs of its selector
    (the fixed counters share one) and of its count, ``event_base_rdpmc`` the RDPMC index, ``mask``
    the values that the counter can hold.
    """

    event: Event
    sample_period: int
    left: int = 0
    last_period: int = 0
    prev: int = 0
    count: int = 0
    counter: int | None = None
    active: bool = False
    up_to_date: bool = True
    config_base: MsrAddress = 0
    event_base: MsrAddress = 0
    event_base_rdpmc: int = 0
    mask: int = 0
    modes: int = _BOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What differs between the drivers of two kernels.

    ``caches_fixed_ctr_ctrl``: starting or stopping a fixed counter changes a copy of
    FIXED_CTR_CTRL, which is written, if it changed, when the PMU is enabled (Linux 6.1 on,
    ``intel_pmu_enable_fixed``, ``__intel_pmu_enable_all``). Else each is a read and a write.
    ``rounds_evenly``: the frequency adjustment rounds steps of either sign away from 0 (Linux 6.12,
    commit 62c0b1061593, and stable trees from October 2024 on: ``perf_adjust_period``). Else it
    adds 7 before it divides by 8 whatever the sign, so that a step of up to -14 is none.
    """

    name: str
    caches_fixed_ctr_ctrl: bool
    rounds_evenly: bool


LINUX_5_14 = Generation(name="linux-5.14", caches_fixed_ctr_ctrl=False, rounds_evenly=False)
LINUX_6_12 = Generation(name="linux-6.12", caches_fixed_ctr_ctrl=True, rounds_evenly=True)
GENERATIONS = {generation.name: generation for generation in (LINUX_5_14, LINUX_6_12)}


class PmuDriver:
    """One CPU's PMU driver state (struct cpu_hw_events).

    ``enabled``: GLOBAL_CTRL is on. ``max_period``: the longest distance a counter is programmed
    to, in counts.
    """

    def __init__(
        self, access: MsrAccess, cpuid: PmuCpuid, generation: Generation = LINUX_5_14
    ) -> None:
        self._rdmsr = access.rdmsr
        self._wrmsr = access.wrmsr
        self._rdpmc = access.rdpmc
        self._cpuid = cpuid
        self._all_on = cpuid.counters
        full_width = self._rdmsr(msr.CAPABILITIES) & msr.FULL_WIDTH_WRITES
        self._counter_role = Role.PMC if full_width else Role.PERFCTR
        self.max_period = cpuid.gp_mask >> 1 if full_width else 0x7FFF_FFFF
        self._by_counter: dict[int, HwEvent] = {}
        self._disable_depth = 0
        self.enabled = True
        self.generation = generation
        self._caches_fixed = generation.caches_fixed_ctr_ctrl
        self._fixed_ctrl = self._active_fixed_ctrl = 0

    # PMU-wide --------------------------------------------------------------------------------

    def disable(self) -> None:
        """perf_pmu_disable: nests; only the outermost writes GLOBAL_CTRL."""
        self._disable_depth += 1
        if self._disable_depth == 1 and self.enabled:
            self.enabled = False
            self._wrmsr(msr.GLOBAL_CTRL, 0)

    def enable(self, added: Iterable[HwEvent] = ()) -> None:
        """perf_pmu_enable: start newly added events, then GLOBAL_CTRL."""
        self._disable_depth -= 1
        if self._disable_depth:
            return
        fresh = list(added)
        for hw in fresh:
            self.start(hw, reload=True)
        if fresh:
            self._wrmsr(msr.LVTPC, LVT_NMI)
        self.enabled = True
        self._enable_all()

    def _enable_all(self) -> None:
        """__intel_pmu_enable_all."""
        if self._fixed_ctrl != self._active_fixed_ctrl:
            self._wrmsr(msr.FIXED_CTR_CTRL, self._fixed_ctrl)
            self._active_fixed_ctrl = self._fixed_ctrl
        self._wrmsr(msr.GLOBAL_CTRL, self._all_on)

    def assign(self, hw: HwEvent) -> bool:
        """Find a free counter: the fixed one if the event has it, else the lowest GP counter."""
        fixed = hw.event.fixed
        if fixed is not None and fixed < self._cpuid.fixed:
            index = FIXED_BASE + fixed
            if index not in self._by_counter:
                return self._take(hw, index)
        if not hw.event.fixed_only:
            for index in range(self._cpuid.gp):
                if index not in self._by_counter:
                    return self._take(hw, index)
        return False

    def release(self, hw: HwEvent) -> None:
        """x86_pmu_del: stop with update and give the counter back."""
        self.stop(hw, update=True)
        if hw.counter is not None:
            del self._by_counter[hw.counter]
            hw.counter = None

    # One event -------------------------------------------------------------------------------

    def start(self, hw: HwEvent, *, reload: bool) -> None:
        """x86_pmu_start: reload the counter if asked, then enable it."""
        if hw.counter is None or hw.active:
            return
        if reload:
            self.set_period(hw)
        hw.active = True
        hw.up_to_date = False
        if hw.counter >= FIXED_BASE:
            self._write_fixed(hw.counter - FIXED_BASE, _FIXED_ON[hw.modes])
        else:
            self._wrmsr(hw.config_base, hw.event.selector | _EVTSEL_ON[hw.modes])

    def stop(self, hw: HwEvent, *, update: bool) -> None:
        """x86_pmu_stop: disable it and, if asked, take its count."""
        if hw.counter is None:
            return
        if hw.active:
            hw.active = False
            if hw.counter >= FIXED_BASE:
                self._write_fixed(hw.counter - FIXED_BASE, 0)
            else:
                self._wrmsr(hw.config_base, hw.event.selector | _EVTSEL_ON[hw.modes] & ~EVTSEL_EN)
        if update and not hw.up_to_date:
            self.update(hw)
            hw.up_to_date = True

    def update(self, hw: HwEvent) -> None:
        """x86_perf_event_update: add what was counted; safe against a nested PMI."""
        rdpmc = self._rdpmc
        while True:
            prev = hw.prev
            new = rdpmc(hw.event_base_rdpmc)
            if hw.prev == prev:
                break
        hw.prev = new
        delta = (new - prev) & hw.mask
        hw.count += delta
        hw.left -= delta

    def set_period(self, hw: HwEvent) -> bool:
        """x86_perf_event_set_period: program the next overflow.

        Returns whether the period had elapsed, that is, whether an overflow is a sample.
        """
        period, left, elapsed = hw.sample_period, hw.left, False
        if left <= -period:
            left, elapsed = period, True
        elif left <= 0:
            left, elapsed = left + period, True
        if elapsed:
            hw.left = left
            hw.last_period = period
        if left < _MIN_LEFT:
            left = _MIN_LEFT
        elif left > self.max_period:
            left = self.max_period
        hw.prev = -left & hw.mask
        self._wrmsr(hw.event_base, hw.prev)
        return elapsed

    # The PMI handler -------------------------------------------------------------------------

    def handle_pmi(self, on_sample: Callable[[HwEvent], bool]) -> int:
        """intel_pmu_handle_irq; returns the number of status bits handled (0: spurious).

        ``on_sample`` is perf_event_overflow: it records a sample and returns whether to throttle.
        """
        rdmsr, wrmsr = self._rdmsr, self._wrmsr
        was_enabled = self.enabled
        self.enabled = False
        wrmsr(msr.GLOBAL_CTRL, 0)
        handled = 0
        status = rdmsr(msr.GLOBAL_STATUS)
        for _ in range(_MAX_LOOPS):
            if not status:
                break
            wrmsr(msr.OVF_CTRL, status)
            handled += self._handle_status(status, on_sample)
            status = rdmsr(msr.GLOBAL_STATUS)
        self.enabled = was_enabled
        if was_enabled:
            self._enable_all()
        wrmsr(msr.LVTPC, LVT_NMI)
        return handled

    def _handle_status(self, status: int, on_sample: Callable[[HwEvent], bool]) -> int:
        handled = 0
        while status:
            index = (status & -status).bit_length() - 1
            status &= status - 1
            handled += 1
            hw = self._by_counter.get(index)
            if hw is None or not hw.active:
                continue
            self.update(hw)
            if self.set_period(hw) and on_sample(hw):
                self.stop(hw, update=False)
        return handled

    def _take(self, hw: HwEvent, index: int) -> bool:
        """x86_assign_hw_event."""
        hw.counter = index
        self._by_counter[index] = hw
        if index >= FIXED_BASE:
            number = index - FIXED_BASE
            hw.config_base = msr.FIXED_CTR_CTRL
            hw.event_base = msr.address_of(Role.FIXED_CTR, number)
            hw.event_base_rdpmc = msr.RDPMC_FIXED | number
            hw.mask = self._cpuid.fixed_mask
        else:
            hw.config_base = msr.address_of(Role.EVTSEL, index)
            hw.event_base = msr.address_of(self._counter_role, index)
            hw.event_base_rdpmc = index
            hw.mask = self._cpuid.gp_mask
        return True

    def _write_fixed(self, number: int, nibble: int) -> None:
        if self._caches_fixed:
            self._fixed_ctrl = self._fixed_ctrl & ~(0xF << 4 * number) | nibble << 4 * number
            return
        control = self._rdmsr(msr.FIXED_CTR_CTRL)
        control = control & ~(0xF << 4 * number) | nibble << 4 * number
        self._wrmsr(msr.FIXED_CTR_CTRL, control)
