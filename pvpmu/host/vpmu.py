"""KVM's vPMU: the registers a guest and its VMM see, over :class:`Counters`.

Source: KVM 5.14 ``pmu_intel.c`` and ``pmu.c``; where a :class:`Profile` says so, later kernels.
Tables from address to handler are built with the vPMU: CPUID decides what exists, the profile what
the sources disagree about, so that an access only looks up and calls.

**Invariants**: a refused write (#GP) leaves the state untouched; a same-value write of a control
register does nothing, not even a pause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

from pvpmu.host.counters import Counters
from pvpmu.host.filter import EventFilter
from pvpmu.host.perf import PerfContext
from pvpmu.host.pmc import Pmc, sample_period, sign_extended
from pvpmu.host.pmi import PmiDelivery
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.profile import KVM_5_14, Profile
from pvpmu.shared.registers import BY_ADDRESS, Register, Role
from pvpmu.shared.tally import REDUNDANT
from pvpmu.shared.units import U64_MASK, MsrAddress

_P6_TOLERATED = (0xC1, 0xC2, 0x186, 0x187)
_SAVED_ROLES = (
    Role.PERFCTR,
    Role.EVTSEL,
    Role.FIXED_CTR,
    Role.CAPABILITIES,
    Role.FIXED_CTR_CTRL,
    Role.GLOBAL_STATUS,
    Role.GLOBAL_CTRL,
)
_SAVED = [register for register in msr.REGISTERS if register.role in _SAVED_ROLES]
_ADVERTISED = frozenset(register.address for register in _SAVED)
Reader = Callable[[], int]
Writer = Callable[[int], bool]


class Vpmu(Counters):
    """One vCPU's PMU.

    ``has_run``: the vCPU has entered the guest; set by its owner, once. PERF_CAPABILITIES cannot
    change from then on. ``readers`` and ``writers`` are the guest's registers by address; a change
    of PERF_CAPABILITIES changes these dictionaries in place, and ``cpuid``.
    """

    __slots__ = (
        "_evtsel_reserved",
        "_fixed_ctrl_reserved",
        "_global_ctrl_reserved",
        "_lvtpc_reserved",
        "_ovf_ctrl_reserved",
        "_rdpmc",
        "has_run",
        "ovf_ctrl",
        "readers",
        "writers",
    )

    def __init__(
        self,
        cpuid: PmuCpuid,
        perf: PerfContext,
        delivery: PmiDelivery,
        *,
        skip_paused: bool,
        profile: Profile = KVM_5_14,
        event_filter: EventFilter | None = None,
    ) -> None:
        super().__init__(
            cpuid,
            perf,
            delivery,
            skip_paused=skip_paused,
            profile=profile,
            event_filter=event_filter,
        )
        # Reserved masks follow from CPUID: derived once, not at every write.
        self._evtsel_reserved = cpuid.evtsel_reserved
        self._fixed_ctrl_reserved = cpuid.fixed_ctrl_reserved
        self._global_ctrl_reserved = cpuid.global_ctrl_reserved
        self._ovf_ctrl_reserved = cpuid.ovf_ctrl_reserved
        self._lvtpc_reserved = cpuid.lvtpc_reserved
        self.ovf_ctrl = 0
        self.has_run = False
        self.readers: dict[int, Reader] = {}
        self.writers: dict[int, Writer] = {}
        self._make_tables()
        self._rdpmc = self._make_rdpmc()

    def reset(self) -> None:
        """RESET (kvm_pmu_reset): no events, all registers 0 but GLOBAL_CTRL, as the profile says.

        PERF_CAPABILITIES, the filter and ``has_run`` stay. LVTPC, requests and NMIs are the
        delivery's, a page its owner's.
        """
        for pmc in self._all:
            self._release(pmc)
            pmc.accumulator = 0
            pmc.eventsel = 0
        self.global_status = self.ovf_ctrl = self.fixed_ctr_ctrl = 0
        self.own_enable = self.reprogram_pmi = self.in_use = 0
        self.store_global_ctrl(self.profile.reset_global_ctrl(self.cpuid))
        self.held = False

    # The guest's accesses --------------------------------------------------------------------

    def rdmsr(self, address: MsrAddress) -> int | None:
        """intel_pmu_get_msr: 64-bit value, or None for #GP."""
        reader = self.readers.get(address)
        return reader() if reader is not None else None

    def wrmsr(self, address: MsrAddress, value: int) -> bool:
        """intel_pmu_set_msr: False for #GP."""
        writer = self.writers.get(address)
        return writer is not None and writer(value)

    def rdpmc(self, ecx: int, *, user_denied: bool = False) -> int | None:
        """kvm_pmu_rdpmc: 64-bit value (32 bits in fast mode), or None for #GP.

        ``user_denied``: at CPL > 0 in protected mode with CR4.PCE clear.
        """
        reader = self._rdpmc.get(ecx)
        return None if reader is None or user_denied else reader()

    # The VMM's accesses ----------------------------------------------------------------------

    def msr_list(self) -> list[MsrAddress]:
        """The registers to save and restore (KVM_GET_MSR_INDEX_LIST), ascending: what exists.

        GP counters are listed by their legacy address only. OVF_CTRL is a command and is not
        listed, nor is LVTPC, which is the APIC's; both can be read and written all the same.
        """
        return [register.address for register in _SAVED if register.exists(self.cpuid)]

    def host_rdmsr(self, address: MsrAddress) -> int | None:
        """KVM_GET_MSRS: the value; 0 if only a larger PMU has the register; None for an error."""
        reader = self.readers.get(address)
        if reader is not None:
            return reader()
        return 0 if address in _ADVERTISED else None

    def host_wrmsr(self, address: MsrAddress, value: int) -> bool:
        """KVM_SET_MSRS: False for an error, which changes nothing.

        As the guest's WRMSR, but: a legacy counter takes the whole width, without sign extension;
        GLOBAL_STATUS can be set; OVF_CTRL only remembers its value and clears no status; a register
        that only a larger PMU has takes 0, and so do the P6 registers; PERF_CAPABILITIES can be
        set until ``has_run``, and to its present value always.
        """
        register = BY_ADDRESS.get(address)
        if register is None or not register.pmu or not 0 <= value <= U64_MASK:
            return False
        if not register.exists(self.cpuid):
            return address in _ADVERTISED and value == 0
        writer = self._host_writer(register.role, register.index) or self.writers[address]
        return writer(value)

    # Tables ----------------------------------------------------------------------------------

    def _make_tables(self) -> None:
        exists = _registers_of(self.cpuid)
        p6: tuple[int, ...] = _P6_TOLERATED if self.profile.p6_tolerated else ()
        readers = {address: self._reader(r.role, r.index) for address, r in exists.items()}
        writers = {address: self._writer(r.role, r.index) for address, r in exists.items()}
        # In place: the vCPU's tables may be these.
        self.readers.clear()
        self.readers.update({**dict.fromkeys(p6, _zero), **readers})
        self.writers.clear()
        self.writers.update({**dict.fromkeys(p6, _drop), **writers})

    def _reader(self, role: Role, index: int) -> Reader:
        if role is Role.EVTSEL:
            return partial(getattr, self.gp[index], "eventsel")
        if role in (Role.PERFCTR, Role.PMC):
            return partial(self.read, self.gp[index])
        if role is Role.FIXED_CTR:
            return partial(self.read, self.fixed[index])
        singles: dict[Role, Reader] = {
            Role.FIXED_CTR_CTRL: lambda: self.fixed_ctr_ctrl,
            Role.GLOBAL_STATUS: lambda: self.global_status,
            Role.GLOBAL_CTRL: lambda: self.global_ctrl,
            Role.OVF_CTRL: (lambda: self.ovf_ctrl) if self.profile.ovf_ctrl_reads_back else _zero,
            Role.CAPABILITIES: lambda: msr.FULL_WIDTH_WRITES if self.cpuid.full_width else 0,
            Role.LVTPC: lambda: self._delivery.lvtpc,
        }
        return singles[role]

    def _writer(self, role: Role, index: int) -> Writer:
        if role is Role.EVTSEL:
            return partial(self._write_eventsel, self.gp[index])
        if role is Role.PMC:
            # The full-width alias is the one address that does not mark its counter in use.
            return self._counter_writer(self.gp[index], checked=True, marks=False)
        if role is Role.PERFCTR:
            return partial(self._write_legacy, self.gp[index])
        if role is Role.FIXED_CTR:
            checked = self.profile.fixed_overwidth_faults
            return self._counter_writer(self.fixed[index], checked=checked)
        singles: dict[Role, Writer] = {
            Role.FIXED_CTR_CTRL: self._write_fixed_ctr_ctrl,
            Role.GLOBAL_CTRL: self._write_global_ctrl,
            Role.OVF_CTRL: self._write_ovf_ctrl,
            Role.LVTPC: self._write_lvtpc,
            Role.GLOBAL_STATUS: _refuse,
            Role.CAPABILITIES: _refuse,
        }
        return singles[role]

    def _host_writer(self, role: Role, index: int) -> Writer | None:
        """What differs from the guest's."""
        if role is Role.PERFCTR:
            return self._counter_writer(self.gp[index])
        others: dict[Role, Writer] = {
            Role.GLOBAL_STATUS: self._set_global_status,
            Role.OVF_CTRL: self._set_ovf_ctrl,
            Role.CAPABILITIES: self._set_capabilities,
        }
        return others.get(role)

    def _counter_writer(self, pmc: Pmc, *, checked: bool = False, marks: bool = True) -> Writer:
        """The writer of a counter: ``checked`` refuses what is above the width, else it is cut."""
        refused = ~pmc.mask if checked else 0
        return partial(self._write_counter, pmc, refused, pmc.bit if marks else 0)

    def _make_rdpmc(self) -> dict[int, Reader]:
        readers: dict[int, Reader] = {pmc.number: partial(self.read, pmc) for pmc in self.gp}
        for pmc in self.fixed:
            readers[msr.RDPMC_FIXED | pmc.number] = partial(self.read, pmc)
        if self.profile.rdpmc_fast:
            for ecx, reader in tuple(readers.items()):
                readers[msr.RDPMC_FAST | ecx] = partial(_low_32, reader)
        return readers

    # Writers ---------------------------------------------------------------------------------

    def _write_counter(self, pmc: Pmc, refused: int, marks: int, value: int) -> bool:
        if value & refused:
            return False
        self.in_use |= marks
        pmc.accumulator = pmc.accumulator + value - self.read(pmc) & U64_MASK
        if pmc.event is not None:
            if pmc.is_paused:
                if self._skip_paused:
                    return True
                self._perf.tally[REDUNDANT] += 1
            # A running event's count is not reset, so the accumulator is the written value less
            # what the event has counted so far.
            armed = value if self.profile.period_from_value else pmc.accumulator
            self._perf.period(pmc.event, sample_period(pmc, armed))
        return True

    def _write_legacy(self, pmc: Pmc, value: int) -> bool:
        return self._write_counter(pmc, 0, pmc.bit, sign_extended(value))

    def _write_eventsel(self, pmc: Pmc, value: int) -> bool:
        self.in_use |= pmc.bit
        if value == pmc.eventsel:
            return True
        if value & self._evtsel_reserved:
            return False
        self.store_eventsel(pmc, value)
        self.request_reprogram(pmc)
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
                self.request_reprogram(pmc)
        return True

    def _write_global_ctrl(self, value: int) -> bool:
        if value == self.global_ctrl:
            return True
        if value & self._global_ctrl_reserved:
            return False
        toggled = value ^ self.global_ctrl
        self.store_global_ctrl(value)
        toggled_on = toggled & self.live
        # For a counter without a host event that does not get enabled there is nothing to do.
        deferred = self.profile.deferred_reprogram
        for pmc in self._among(toggled & self._with_event | toggled_on):
            if deferred:
                self.request_reprogram(pmc)
            elif value & pmc.bit:
                self.reprogram(pmc)
            else:
                self.stop(pmc)
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

    def _set_global_status(self, value: int) -> bool:
        # Bits 62 and 63 can be cleared but never be set here: nothing that this PMU has sets them.
        if value & ~self.cpuid.counters:
            return False
        self.global_status = value
        return True

    def _set_ovf_ctrl(self, value: int) -> bool:
        if value & self._ovf_ctrl_reserved:
            return False
        self.ovf_ctrl = value
        return True

    def _set_capabilities(self, value: int) -> bool:
        if value & ~msr.FULL_WIDTH_WRITES:
            return False
        full_width = bool(value)
        if full_width != self.cpuid.full_width:
            if self.has_run:
                return False
            self.cpuid = replace(self.cpuid, full_width=full_width)
            self._make_tables()
        return True


def _refuse(_: int) -> bool:
    return False


def _drop(_: int) -> bool:
    return True


def _zero() -> int:
    return 0


def _low_32(reader: Reader) -> int:
    return reader() & 0xFFFF_FFFF


@lru_cache(maxsize=64)
def _registers_of(cpuid: PmuCpuid) -> dict[int, Register]:
    """The PMU's registers that such a PMU has, by address."""
    return {r.address: r for r in msr.REGISTERS if r.pmu and r.exists(cpuid)}
