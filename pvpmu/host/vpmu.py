"""KVM's vPMU: the registers a guest sees, emulated with host perf events.

Same state, same order of perf calls and same early returns as KVM 5.14 (``pmu.c``,
``pmu_intel.c``): ``skip_paused`` off is the code before ``pmc->is_paused``, on is after it.

**Invariants**: a refused write (#GP) leaves the state untouched; a same-value write of a control
register does nothing, not even a pause; a counter counts only if its own enable, its global
enable and ``not held`` all hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pvpmu.host.perf import PerfContext, PerfEvent
from pvpmu.host.pmc import Pmc, sample_period, sign_extended, wanted_event
from pvpmu.host.pmi import REQUEST_PMU, PmiDelivery
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import EVTSEL_EN, FIXED_BASE, FIXED_EN, PmuCpuid
from pvpmu.shared.registers import BY_ADDRESS, Role
from pvpmu.shared.tally import REDUNDANT
from pvpmu.shared.units import U64_MASK, MsrAddress

_PMC, _PERFCTR = Role.PMC, Role.PERFCTR
_P6_TOLERATED = (0xC1, 0xC2, 0x186, 0x187)


class Vpmu:
    """One vCPU's PMU.

    ``held``: the page's host half froze the counters; nothing starts until it is cleared.
    ``in_guest``: the overflow being reported hit in guest mode (set by the caller around the host
    NMI handler).
    """

    def __init__(
        self, cpuid: PmuCpuid, perf: PerfContext, delivery: PmiDelivery, *, skip_paused: bool
    ) -> None:
        self.cpuid = cpuid
        self._perf = perf
        self._delivery = delivery
        self._skip_paused = skip_paused
        # Reserved masks follow from CPUID: derived once, not at every write.
        self._evtsel_reserved = cpuid.evtsel_reserved
        self._fixed_ctrl_reserved = cpuid.fixed_ctrl_reserved
        self._global_ctrl_reserved = cpuid.global_ctrl_reserved
        self._ovf_ctrl_reserved = cpuid.ovf_ctrl_reserved
        self._lvtpc_reserved = cpuid.lvtpc_reserved
        self.gp = [Pmc(i, cpuid.gp_mask) for i in range(cpuid.gp)]
        self.fixed = [Pmc(FIXED_BASE + j, cpuid.fixed_mask) for j in range(cpuid.fixed)]
        self._all = (*self.gp, *self.fixed)
        self._sets: dict[int, tuple[Pmc, ...]] = {}
        self._with_event = 0
        self.global_ctrl = cpuid.counters
        self.global_status = 0
        self.ovf_ctrl = 0
        self.fixed_ctr_ctrl = 0
        self.own_enable = 0
        self.held = False
        self.in_guest = True
        self.reprogram_pmi = 0
        self.in_use = 0
        self.readers = self._make_readers()
        self.writers = self._make_writers()

    @property
    def live(self) -> int:
        """Bitmap of enabled counters: GLOBAL_CTRL and own enable bits."""
        return self.global_ctrl & self.own_enable

    @property
    def not_counting(self) -> int:
        """Enabled counters without a running host event."""
        missing = 0
        for pmc in self._among(self.live):
            if pmc.event is None or not pmc.event.counting:
                missing |= pmc.bit
        return missing

    # Register access -------------------------------------------------------------------------

    def rdmsr(self, address: MsrAddress) -> int | None:
        """intel_pmu_get_msr: 64-bit value, or None for #GP."""
        reader = self.readers.get(address)
        return reader() if reader is not None else None

    def wrmsr(self, address: MsrAddress, value: int) -> bool:
        """intel_pmu_set_msr: False for #GP."""
        writer = self.writers.get(address)
        return writer is not None and writer(value)

    def rdpmc(self, ecx: int) -> int | None:
        """kvm_pmu_rdpmc: 64-bit value (32 bits in fast mode), or None for #GP."""
        number = ecx & ~(msr.RDPMC_FIXED | msr.RDPMC_FAST)
        bank = self.fixed if ecx & msr.RDPMC_FIXED else self.gp
        if number >= len(bank):
            return None
        value = self.read(bank[number])
        return value & 0xFFFF_FFFF if ecx & msr.RDPMC_FAST else value

    def _make_readers(self) -> dict[int, Callable[[], int]]:
        readers: dict[int, Callable[[], int]] = {
            **dict.fromkeys(_P6_TOLERATED, _zero),
            msr.FIXED_CTR_CTRL: lambda: self.fixed_ctr_ctrl,
            msr.GLOBAL_STATUS: lambda: self.global_status,
            msr.GLOBAL_CTRL: lambda: self.global_ctrl,
            msr.OVF_CTRL: lambda: self.ovf_ctrl,
            msr.CAPABILITIES: lambda: msr.FULL_WIDTH_WRITES,
            msr.LVTPC: lambda: self._delivery.lvtpc,
        }
        for address, pmc in self._counter_registers():
            readers[address] = partial(self.read, pmc)
        for pmc in self.gp:
            address = msr.address_of(Role.EVTSEL, pmc.number)
            readers[address] = partial(getattr, pmc, "eventsel")
        return readers

    def _make_writers(self) -> dict[int, Callable[[int], bool]]:
        writers: dict[int, Callable[[int], bool]] = {
            **dict.fromkeys(_P6_TOLERATED, _drop),
            msr.FIXED_CTR_CTRL: self._write_fixed_ctr_ctrl,
            msr.GLOBAL_CTRL: self._write_global_ctrl,
            msr.OVF_CTRL: self._write_ovf_ctrl,
            msr.LVTPC: self._write_lvtpc,
            msr.GLOBAL_STATUS: _refuse,
            msr.CAPABILITIES: _refuse,
        }
        for address, pmc in self._counter_registers():
            writers[address] = partial(self._write_counter, BY_ADDRESS[address].role, pmc)
        for pmc in self.gp:
            address = msr.address_of(Role.EVTSEL, pmc.number)
            writers[address] = partial(self._write_eventsel, pmc)
        return writers

    def _counter_registers(self) -> list[tuple[int, Pmc]]:
        legacy = [(msr.address_of(Role.PERFCTR, pmc.number), pmc) for pmc in self.gp]
        full = [(msr.address_of(Role.PMC, pmc.number), pmc) for pmc in self.gp]
        fixed = [(msr.address_of(Role.FIXED_CTR, pmc.number), pmc) for pmc in self.fixed]
        return legacy + full + fixed

    def _write_counter(self, role: Role, pmc: Pmc, value: int) -> bool:
        if role is _PMC:
            if value & ~pmc.mask:
                return False
        else:
            if role is _PERFCTR:
                value = sign_extended(value)
            self.in_use |= pmc.bit
        pmc.accumulator = pmc.accumulator + value - self.read(pmc) & U64_MASK
        if pmc.event is not None:
            if pmc.is_paused:
                if self._skip_paused:
                    return True
                self._perf.tally[REDUNDANT] += 1
            # The written value, not the accumulator: a running event's count is not reset, so the
            # accumulator is the written value less what the event has counted so far.
            self._perf.period(pmc.event, sample_period(pmc, value))
        return True

    def _write_eventsel(self, pmc: Pmc, value: int) -> bool:
        self.in_use |= pmc.bit
        if value == pmc.eventsel:
            return True
        if value & self._evtsel_reserved:
            return False
        self.store_eventsel(pmc, value)
        self.reprogram(pmc)
        return True

    def _write_fixed_ctr_ctrl(self, value: int) -> bool:
        if value == self.fixed_ctr_ctrl:
            return True
        if value & self._fixed_ctrl_reserved:
            return False
        changed = value ^ self.fixed_ctr_ctrl
        self.store_fixed_ctr_ctrl(value)
        for pmc in self.fixed:
            if changed >> 4 * pmc.number & 0xF:
                self.in_use |= pmc.bit
                self.reprogram(pmc)
        return True

    def _write_global_ctrl(self, value: int) -> bool:
        if value == self.global_ctrl:
            return True
        if value & self._global_ctrl_reserved:
            return False
        toggled = value ^ self.global_ctrl
        self.global_ctrl = value
        toggled_on = toggled & self.live
        # For a counter without a host event that does not get enabled there is nothing to do.
        for pmc in self._among(toggled & self._with_event | toggled_on):
            if value & pmc.bit:
                self.reprogram(pmc)
            else:
                self.pause(pmc)
        return True

    def _write_ovf_ctrl(self, value: int) -> bool:
        if value & self._ovf_ctrl_reserved:
            return False
        self.global_status &= ~value
        self.ovf_ctrl = value
        return True

    def _write_lvtpc(self, value: int) -> bool:
        if value & self._lvtpc_reserved:
            return False
        self._delivery.write_lvtpc(value & self.cpuid.lvtpc_kept)
        return True

    # Building blocks, named as in pmu.c --------------------------------------------------------

    def store_eventsel(self, pmc: Pmc, value: int) -> None:
        """Set a GP counter's selector without starting or stopping anything."""
        pmc.eventsel = value
        self.own_enable = self.own_enable & ~pmc.bit | (pmc.bit if value & EVTSEL_EN else 0)

    def store_fixed_ctr_ctrl(self, value: int) -> None:
        """Set the fixed counters' control word without starting or stopping anything."""
        self.fixed_ctr_ctrl = value
        for pmc in self.fixed:
            pmc.eventsel = value >> 4 * pmc.number & 0xF
            enabled = pmc.bit if pmc.eventsel & FIXED_EN else 0
            self.own_enable = self.own_enable & ~pmc.bit | enabled

    def read(self, pmc: Pmc) -> int:
        """pmc_read_counter: the value, cut to the counter's width."""
        value = pmc.accumulator
        if pmc.event is not None:
            if not pmc.is_paused:
                value += self._perf.read_value(pmc.event)
            elif not self._skip_paused:
                self._perf.tally[REDUNDANT] += 1
                value += self._perf.read_value(pmc.event)
        return value & pmc.mask

    def pause(self, pmc: Pmc) -> None:
        """pmc_pause_counter."""
        event = pmc.event
        if event is None:
            return
        if pmc.is_paused:
            if self._skip_paused:
                return
            self._perf.tally[REDUNDANT] += 1
        pmc.accumulator = pmc.accumulator + self._perf.pause(event) & pmc.mask
        pmc.is_paused = True

    def reprogram(self, pmc: Pmc) -> None:
        """reprogram_gp_counter, reprogram_fixed_counter: pause, then start if enabled.

        Starting is pmc_resume_counter where the event still fits, else a new event.
        """
        if not (pmc.is_paused and self._skip_paused):
            self.pause(pmc)
        if not self.global_ctrl & self.own_enable & pmc.bit or self.held:
            return
        perf, event = self._perf, pmc.event
        if (
            event is not None
            and pmc.config == pmc.eventsel
            and perf.period(event, pmc.wrap - (pmc.accumulator & pmc.mask))
        ):
            perf.enable(event)
        else:
            self._release(pmc)
            pmc.config = pmc.eventsel
            pmc.event = self._create(pmc)
            if pmc.event is not None:
                self._with_event |= pmc.bit
        pmc.is_paused = False
        if self.reprogram_pmi:
            self.reprogram_pmi &= ~pmc.bit

    def start_paused(self) -> None:
        """Start every enabled counter that does not run (COMMIT, after its write took effect)."""
        for pmc in self._among(self.live):
            if pmc.is_paused or pmc.event is None:
                self.reprogram(pmc)

    def pause_live(self) -> None:
        """Stop every enabled counter (freeze)."""
        for pmc in self._among(self.live):
            self.pause(pmc)

    def handle_pmu_request(self, *, pause_only: bool) -> None:
        """kvm_pmu_handle_event: reprogram what overflowed.

        ``pause_only``: the counters are about to be frozen, so that restarting is wasted.
        """
        for pmc in self._among(self.reprogram_pmi):
            if pmc.event is None or pause_only:
                self.reprogram_pmi &= ~pmc.bit
            if pmc.event is not None:
                if pause_only:
                    self.pause(pmc)
                else:
                    self.reprogram(pmc)

    def cleanup(self) -> None:
        """kvm_pmu_cleanup: release events of counters unused and disabled since the last time."""
        for pmc in self._among(self._with_event & ~(self.in_use | self.own_enable)):
            pmc.accumulator = self.read(pmc)
            self._release(pmc)
        self.in_use = 0

    def _among(self, bitmap: int) -> tuple[Pmc, ...]:
        """The counters of a bitmap, ascending; each bitmap's are looked up once."""
        found = self._sets.get(bitmap)
        if found is None:
            found = tuple(pmc for pmc in self._all if bitmap & pmc.bit)
            self._sets[bitmap] = found
        return found

    def _release(self, pmc: Pmc) -> None:
        if pmc.event is not None:
            self._perf.release(pmc.event)
            pmc.event = None
            self._with_event &= ~pmc.bit
            pmc.config = None
            pmc.is_paused = False

    def _create(self, pmc: Pmc) -> PerfEvent | None:
        attr, interrupts = wanted_event(pmc)

        def on_overflow() -> None:
            self._overflow(pmc, interrupts=interrupts)

        return self._perf.create(attr, sample_period(pmc, pmc.accumulator), on_overflow)

    def _overflow(self, pmc: Pmc, *, interrupts: bool) -> None:
        """kvm_perf_overflow and kvm_perf_overflow_intr, in NMI context."""
        if self.reprogram_pmi & pmc.bit:
            return
        self.reprogram_pmi |= pmc.bit
        self.global_status |= pmc.bit
        self._delivery.requests |= REQUEST_PMU
        if interrupts:
            self._delivery.raise_pmi(in_guest=self.in_guest)


def _refuse(_: int) -> bool:
    return False


def _drop(_: int) -> bool:
    return True


def _zero() -> int:
    return 0
