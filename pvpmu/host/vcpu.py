"""One vCPU on the host: serve a VM-exit, prepare the entry, reply. Pure: no clock, no process.

Source: ``vmx_handle_exit``; what ``vcpu_enter_guest`` does is :mod:`pvpmu.host.entry`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pvpmu.host.entry import EntryLoop
from pvpmu.host.filter import EventFilter
from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.hostevents import CpuContext
from pvpmu.host.lean import vpmu_of
from pvpmu.host.mediated import (
    AsideContext,
    GuestContext,
    GuestPmu,
    MediatedVpmu,
    passed_accesses,
)
from pvpmu.host.perf import PerfContext, SharedLockContext
from pvpmu.host.pmi import (
    REQUEST_PMU,
    PmiCounts,
    PmiDelivery,
)
from pvpmu.host.pvpage import HostPage
from pvpmu.host.stats import KIND_MASK, HostStats
from pvpmu.shared import exits
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.events import KINDS
from pvpmu.shared.exits import Control, ExitReason, SlotWords, load_words, store_words
from pvpmu.shared.hostload import NO_LOAD, HostLoad
from pvpmu.shared.profile import KVM_5_14, Profile
from pvpmu.shared.units import MsrAddress

# Plain ints, and names of this module: an IntEnum member, or a look-up in another module, costs
# as much as the rest of a short exit.
_EXCEPTION_NMI = int(ExitReason.EXCEPTION_NMI)
_NMI_WINDOW = int(ExitReason.NMI_WINDOW)
_MSR_READ = int(ExitReason.MSR_READ)
_MSR_WRITE = int(ExitReason.MSR_WRITE)
_RDPMC = int(ExitReason.RDPMC)
_FLOOR = int(ExitReason.FLOOR)
_PASSED_READ = int(ExitReason.PASSED_READ)
_PASSED_WRITE = int(ExitReason.PASSED_WRITE)
_PASSED_RDPMC = int(ExitReason.PASSED_RDPMC)
_BY_SILICON = (_PASSED_READ, _PASSED_WRITE, _PASSED_RDPMC, int(ExitReason.OVERFLOW))
_RETIRED = exits.RETIRED_USER | exits.RETIRED_KERNEL
_REASON_MASK, _NMI_BLOCKED = exits.REASON_MASK, exits.NMI_BLOCKED
_FAULT_GP = exits.FAULT_GP
_REQUEST, _ADDRESS, _VALUE = exits.REQUEST, exits.ADDRESS, exits.VALUE
_REPLY, _RESULT = exits.REPLY, exits.RESULT
_LIVE_AT, _LIVE_COUNT, _LIVE_VERSION = exits.LIVE_AT, exits.LIVE_COUNT, exits.LIVE_VERSION
_PV_REGISTERS = frozenset((msr.PV_PAGE, msr.PV_STATUS))
_OfKind: TypeAlias = tuple[Callable[[int], int], dict[int, int], list[int]]
"""What an exit of a kind needs: who handles it, its counts by address, its place's tally."""


def _context_of(hardware: PhysicalPmu) -> PerfContext:
    return GuestContext(hardware) if isinstance(hardware, GuestPmu) else PerfContext(hardware)


def _refused(_: int) -> int:
    # An unknown reason can only come from a broken guest; it gets a fault and lives on.
    return _FAULT_GP


def _refuse(_: int) -> bool:
    # No such register.
    return False


class HostVcpu(EntryLoop):
    """The host side of one vCPU.

    ``slot`` is the exit slot's window, ``memory`` the guest's whole memory as 64-bit words.
    ``on_call``: serves CONTROL's CALL and returns whether it could; None: #GP (no test port).
    ``own_events``: the context of the host's own perf events, which compete; they belong to the
    physical CPU that the vCPU is on, whose PMU is ``hardware``. ``load``: those there from the
    start, and that PMU's shape. ``event_filter``: the VM's.
    """

    __slots__ = (
        "_cpus",
        "_handlers",
        "_has_run",
        "_live_version",
        "_load",
        "_mediated",
        "_of_kind",
        "_readers",
        "_shared_lock",
        "_slot",
        "_work_told",
        "_wrapped",
        "_writers",
        "delivery",
        "event_filter",
        "hardware",
        "on_call",
        "own_events",
        "perf",
        "result",
        "stats",
        "vpmu",
    )

    def __init__(
        self,
        slot: SlotWords,
        memory: memoryview[int],
        design: Design,
        cpuid: PmuCpuid,
        profile: Profile = KVM_5_14,
        load: HostLoad = NO_LOAD,
    ) -> None:
        super().__init__(memory, design, cpuid, profile)
        self._slot = slot
        self._load = load
        self.event_filter: EventFilter | None = None
        self._has_run = False
        self.on_call: Callable[[], bool] | None = None
        self.result: HostStats | None = None
        self._live_version = 0
        self._handlers: dict[int, Callable[[int], int]] = {
            _MSR_READ: self._msr_read,
            _MSR_WRITE: self._msr_write,
            _RDPMC: self._rdpmc,
            _EXCEPTION_NMI: self._exception_nmi,
            _NMI_WINDOW: self._nothing,
            int(ExitReason.INTERRUPT_WINDOW): self._nothing,
            int(ExitReason.HLT): self._nothing,
            int(ExitReason.EXTERNAL_INTERRUPT): self._external_interrupt,
            int(ExitReason.CPUID): self._cpuid,
        }
        self.power_on()

    def power_on(self, generation: int | None = None) -> None:
        """A new vPMU, nothing pending; a registered page is discarded.

        ``generation``: the last one of this vCPU, where it lived on another host before.
        """
        self.discard_registration()
        if generation is not None:
            self.generation = generation
        # Another number than the guest has seen, also of the host that served it before.
        version = (self._slot[exits.LIVE_VERSION] & 0xFFFF_FFFF) + 1
        passes = self._design.vpmu == "mediated"
        own = AsideContext if passes else CpuContext
        self._cpus = [own(self._physical_pmu(each), self._load) for each in (version, 1)]
        self.own_events = self._cpus[0]
        self.hardware = GuestPmu(self.cpuid, version) if passes else self.own_events.pmu
        shared = SharedLockContext(self.hardware) if self._design.shares_lock else None
        self._shared_lock = shared
        self.perf = self.watched(shared or _context_of(self.hardware))
        self.perf.beside = self._beside()
        self.delivery = PmiDelivery(masks=self.profile.lvtpc_masked)
        self.vpmu = vpmu_of(
            self._design,
            self.cpuid,
            self.perf,
            self.delivery,
            profile=self.profile,
            event_filter=self.event_filter,
        )
        self._mediated = self.vpmu if isinstance(self.vpmu, MediatedVpmu) else None
        self._work_told: int | None = None
        self._wrapped = self._mediated is not None or shared is not None
        self._count_anew()
        self.make_tables()

    def start_over(self, design: Design, cpuid: PmuCpuid, profile: Profile) -> None:
        """Become the new vCPU of another host for the same guest.

        What was here is gone as with its process: it stores nothing more to the guest's page.
        """
        self.page = None
        self.pv_page = 0
        self._design = design
        self.cpuid = cpuid
        self.profile = profile
        self.event_filter = None
        self.dirty_frames.clear()
        self.generation = self.takeovers = 0
        self._has_run = False
        self.result = None
        self.power_on()

    def watched(self, perf: PerfContext) -> PerfContext:
        """The perf context of a new vPMU; for a subclass that watches its calls."""
        return perf

    def serve(self) -> int:
        """Handle the exit in the slot, prepare the entry, store the reply.

        Returns the exit reason, so that the shell can act on FLOOR.
        """
        slot = self._slot
        request = slot[_REQUEST]
        address = slot[_ADDRESS]
        kind = request & KIND_MASK
        handle, counts, tally = self._of_kind[kind] or self._first_of(kind)
        try:
            counts[address] += 1
        except KeyError:
            if request & _REASON_MASK >= _FLOOR:
                return self._measure(request)
            self.stats.count_unknown(kind)
        self.perf.tally = tally
        if self.page is not None:
            self.page.load_status()
        if request & _RETIRED:
            self._retire(request, in_guest=request & _REASON_MASK == _EXCEPTION_NMI)
        wrapped = self._wrapped
        if wrapped:
            self._begin(tally)
        flags = handle(address)
        delivery = self.delivery
        if delivery.requests or delivery.pending or delivery.irr:
            flags |= self._deliver(blocked=bool(request & _NMI_BLOCKED))
        if wrapped:
            self._end()
        elif self.page is not None:
            self._publish()
        elif self.hardware.version != self._live_version:
            self._publish_live()
        slot[_REPLY] = flags
        return request & _REASON_MASK

    def _begin(self, tally: list[int]) -> None:
        """What few designs and measurements do before each exit is handled."""
        if self._shared_lock is not None:
            self._shared_lock.begin()
        if self._mediated is not None:
            self._mediated.put(tally)

    def _end(self) -> None:
        """And after it."""
        if self._shared_lock is not None:
            self._shared_lock.end()
        self._publish()
        if self._work_told is not None:
            self._tell_work()

    def _measure(self, request: int) -> int:
        """FLOOR and CONTROL: not exits of the model, so nothing is counted and nothing enters."""
        reason = request & _REASON_MASK
        if self._mediated is not None and reason in _BY_SILICON:
            return self._serve_by_silicon(self._mediated, request)
        if self.page is not None:
            self.page.load_status()
        if request & _RETIRED:
            self._retire(request, in_guest=False)
            if self.page is not None:
                self.page.dirty = True
        known = reason == _FLOOR or (
            reason == ExitReason.CONTROL and self._control(self._slot[_VALUE])
        )
        self._slot[_REPLY] = 0 if known else _FAULT_GP
        if self.delivery.requests & REQUEST_PMU:
            # The guest runs on: what a VMM's call started or stopped must count or not by then.
            self._handle_pmu_request(pause_only=False)
        self._publish()
        return reason

    def _serve_by_silicon(self, vpmu: MediatedVpmu, request: int) -> int:
        """What a guest does without an exit, to the counters that are loaded for it."""
        slot, reason = self._slot, request & _REASON_MASK
        address = slot[_ADDRESS]
        self._has_run = True
        if request & _RETIRED:
            self._retire(request, in_guest=True)
        flags = 0
        if reason == _PASSED_READ:
            flags = self._msr_read(address)
        elif reason == _PASSED_RDPMC:
            flags = self._rdpmc(address)
        elif reason == _PASSED_WRITE:
            flags = self._msr_write(address)
        elif vpmu.pins:
            flags = exits.PMI_RAISED
        slot[_REPLY] = flags
        self._publish()
        return reason

    def _publish(self) -> None:
        """Store what changed for the guest: its page, and what the silicon counts."""
        if self._mediated is not None:
            self._mediated.load()
        if self.page is not None and self.page.dirty:
            self.page.publish()
            self.dirty_frames.add(self.page.frame)
        if self.hardware.version != self._live_version:
            self._publish_live()

    def _control(self, control: int) -> bool:
        if control == Control.RESET:
            self.power_on()
        elif control == Control.CALL:
            return self.on_call is not None and self.on_call()
        elif control == Control.WORK:
            self._work_told = -1
            self._wrapped = True
        elif control in (Control.START, Control.STOP):
            if self._work_told is not None:
                self._work_told = -1
            self._has_run = self.has_run
            if control == Control.STOP:
                self.stats.undelivered = self.delivery.undelivered
                if self.perf.beside is not None:
                    self.stats.load = self.own_events.stats(self.perf.refused)
                self.result = self.stats
            self.own_events.restart()
            self.perf.refused = 0
            self.delivery.counts = PmiCounts()
            self._count_anew()
        else:
            return False
        return True

    # For a VMM's calls while the vCPU is stopped (pvpmu.host.vmm) ---------------------------------

    def queue_nmi(self) -> None:
        """Queue an NMI that is no PMI (a watchdog's, an IPI's)."""
        self.delivery.queue_nmi(pmi=False)

    def rdmsr(self, address: MsrAddress) -> int | None:
        """A register as a trapped RDMSR has it, but no import; None for #GP."""
        reader = self._readers.get(address)
        return reader() if reader is not None else None

    def wrmsr(self, address: MsrAddress, value: int) -> bool:
        """A paravirtual register as a trapped WRMSR has it; False for #GP."""
        writer = self._pv_writers().get(address)
        return writer is not None and writer(value)

    def next_cpu(self) -> None:
        """Go to another physical CPU, with a PMU and host events of its own."""
        self._cpus.reverse()
        self.own_events = self._cpus[0]
        if self._mediated is not None:
            # What is loaded for the guest goes with it.
            self.perf.beside = self._beside()
            return
        version = self.hardware.version
        self.hardware = self.own_events.pmu
        self.perf.beside = self._beside()
        # The live entries of both are told apart by one number.
        self.hardware.version = max(version, self.hardware.version) + 1

    @property
    def has_run(self) -> bool:
        """Whether the vCPU has entered the guest: made an exit that is one of the model's."""
        return self._has_run or self.stats.any_exit

    def make_tables(self) -> None:
        """The guest's registers by address, the paravirtual ones among them."""
        self._readers = self.vpmu.readers | self._pv_readers()
        self._writers = self.vpmu.writers | self._pv_writers()
        passed = passed_accesses(self.cpuid, self._load) if self._mediated is not None else 0
        self._slot[exits.PASSED] = passed

    # Exit handlers: reply flags ---------------------------------------------------------------

    def _nothing(self, _: int) -> int:
        if self._design.commit == "natural" and self.page is not None and not self.page.running:
            self._commit_naturally(self.page)
        return 0

    def _commit_naturally(self, page_half: HostPage) -> None:
        """Start what the guest left in its page, where its design has no COMMIT (IMP-6 aside)."""
        if page_half.import_words() and page_half.released:
            self.vpmu.held = False
            page_half.end_hold()
            if page_half.running:
                page_half.commit()
                self.vpmu.start_paused()
                page_half.registers_changed()

    def _external_interrupt(self, address: int) -> int:
        return self._nothing(address) | self._exception_nmi(address)

    def _exception_nmi(self, _: int) -> int:
        if self._slot[_REQUEST] & exits.STRAY_PMI:
            self.delivery.counts.stray += 1
            self.delivery.queue_nmi(pmi=True)
        return 0

    def _msr_read(self, address: int) -> int:
        if self.page is not None and address not in _PV_REGISTERS:
            self._import(self.page)
        reader = self._readers.get(address)
        if reader is None:
            return _FAULT_GP
        self._slot[_RESULT] = reader()
        return 0

    def _rdpmc(self, ecx: int) -> int:
        if self.page is not None:
            self._import(self.page)
        value = self.vpmu.rdpmc(ecx)
        if value is None:
            return _FAULT_GP
        self._slot[_RESULT] = value
        return 0

    def _msr_write(self, address: int) -> int:
        value = self._slot[_VALUE]
        page_half = self.page
        if page_half is None or address in _PV_REGISTERS:
            done = self._writers.get(address, _refuse)(value)
        else:
            was_running = page_half.running
            done = (was_running or page_half.import_words()) and self._write_with_page(
                page_half, address, value, was_running=was_running
            )
        return 0 if done else _FAULT_GP

    def _write_with_page(
        self, page_half: HostPage, address: int, value: int, *, was_running: bool
    ) -> bool:
        held = self.vpmu.held
        if address == msr.GLOBAL_CTRL:
            # The first GLOBAL_CTRL write after a freeze ends the hold; a refused one does not.
            self.vpmu.held = False
        if not self.vpmu.wrmsr(address, value):
            self.vpmu.held = held
            return False
        page_half.register_written(address, value, was_running=was_running)
        if address == msr.OVF_CTRL:
            # Not by the protocol (STA-6); a design that traps it may also write it in the page.
            page_half.ovf_ctrl_written()
        if held and not self.vpmu.held:
            page_half.end_hold()
        if page_half.running:
            if not was_running:
                page_half.commit()
            self.vpmu.start_paused()
        return True

    def _cpuid(self, leaf: int) -> int:
        eax, ebx, ecx, edx = self.leaf(leaf)
        self._slot[exits.RESULT] = eax | ebx << 32
        self._slot[exits.RESULT_HIGH] = ecx | edx << 32
        return 0

    # For the guest ----------------------------------------------------------------------------

    def _publish_live(self) -> None:
        # Word by word: they are few, and to make something that is copied at once costs as much.
        slot, hardware, at = self._slot, self.hardware, _LIVE_AT
        for counter in hardware.started:
            slot[at] = counter.descriptor
            slot[at + 1] = counter.left
            at += 2
        slot[_LIVE_COUNT] = (at - _LIVE_AT) // 2
        self._live_version = slot[_LIVE_VERSION] = hardware.version

    def _tell_work(self) -> None:
        """Say what the host has done, if that is more than at the last exit."""
        done = sum(map(sum, self.stats.tallies))
        if done != self._work_told:
            self._work_told = done
            store_words(self._slot, exits.WORK_AT, self.stats.work)

    # Helpers ----------------------------------------------------------------------------------

    def _count_anew(self) -> None:
        self.stats = HostStats(self.delivery.counts, vectored=self._mediated is not None)
        self._of_kind: list[_OfKind | None] = [None] * (KIND_MASK + 1)

    def _first_of(self, kind: int) -> _OfKind:
        """The first exit of a kind: what those of its kind need."""
        handle = self._handlers.get(kind & _REASON_MASK, _refused)
        needs = self._of_kind[kind] = handle, *self.stats.of_kind(kind)
        return needs

    def _physical_pmu(self, version: int) -> PhysicalPmu:
        return PhysicalPmu(self._load.gp, self._load.fixed, version=version)

    def _beside(self) -> CpuContext | None:
        """The host's own events, if there are any to care about at each exit."""
        return self.own_events if self.own_events.load else None

    def _compete(self, user: list[int] | None, kernel: list[int] | None) -> None:
        """What the host's own events did to the guest's while this was retired."""
        if not self.vpmu.held:
            for kind, modes in self.vpmu.uncounted():
                self.own_events.miss(kind, modes, user, kernel)
        self.own_events.retired(user, kernel)

    def _retire(self, request: int, *, in_guest: bool) -> None:
        user = kernel = None
        if request & exits.RETIRED_USER:
            user = load_words(self._slot, exits.RETIRED_USER_AT, KINDS)
        if request & exits.RETIRED_KERNEL:
            kernel = load_words(self._slot, exits.RETIRED_KERNEL_AT, KINDS)
        if self.perf.beside is not None:
            self._compete(user, kernel)
        self.hardware.retire(user, kernel)
        if self.hardware.status:
            self.take_overflows(in_guest=in_guest)

    def take_overflows(self, *, in_guest: bool) -> None:
        """The host's NMI handler: find what overflowed, set status, ask for PMIs."""
        # A PMI that is due at an exit is taken before the exit is handled; unless the exit
        # is the PMI itself, KVM's callback sees it outside the guest.
        self.vpmu.in_guest = in_guest
        self.perf.handle_nmi()
        if self.page is not None:
            self.page.dirty = True
        if self.delivery.irq_work:
            # Its interrupt comes as soon as the host enables interrupts, which is before it
            # handles the exit: LVTPC is what it was when the guest exited.
            self._deliver_pmi()
            self.delivery.irq_work = False
