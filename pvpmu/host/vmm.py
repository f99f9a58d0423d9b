"""What a VMM asks of a stopped vCPU, as KVM's ioctls do.

Each call acts on what the guest sees: a page in FROZEN is imported first, and published at the next
VM-entry (rule IMP-1). Source: ``KVM_GET_MSRS``, ``KVM_SET_MSRS``, ``KVM_GET_MSR_INDEX_LIST``,
``KVM_SET_CPUID2``, ``KVM_SET_PMU_EVENT_FILTER``, ``KVM_GET_DIRTY_LOG``, ``kvm_vcpu_reset``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from pvpmu.host.filter import EventFilter
from pvpmu.host.perf import Attr, PerfEvent
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.events import CYCLES, KINDS, REF_CYCLES
from pvpmu.shared.tally import CALL_KINDS
from pvpmu.shared.units import MsrAddress

_PV_REGISTERS = (msr.PV_PAGE, msr.PV_STATUS)


def get_msr(host: HostVcpu, address: MsrAddress) -> int | None:
    """KVM_GET_MSRS: 64 bits, None for an error."""
    host.import_page()
    if address in _PV_REGISTERS:
        return host.rdmsr(address)
    return host.vpmu.host_rdmsr(address)


def set_msr(host: HostVcpu, address: MsrAddress, value: int) -> bool:
    """KVM_SET_MSRS: False for an error, which changes nothing. A hold lasts."""
    if address in _PV_REGISTERS:
        return host.wrmsr(address, value)
    host.import_page()
    host.vpmu.has_run = host.has_run
    if not host.vpmu.host_wrmsr(address, value):
        return False
    if address == msr.CAPABILITIES:
        # 0x4C1 and up may have come or gone, and the page's header with them.
        host.end_registration()
        host.cpuid = host.vpmu.cpuid
        host.make_tables()
    elif host.page is not None:
        host.page.registers_changed()
        if address == msr.GLOBAL_STATUS:
            host.page.status_written()
        elif address == msr.OVF_CTRL:
            host.page.ovf_ctrl_written()
    return True


def set_cpuid(host: HostVcpu, cpuid: PmuCpuid) -> bool:
    """KVM_SET_CPUID2: another shape only before the vCPU has run; the same one always."""
    if cpuid == host.cpuid:
        return True
    if host.has_run:
        return False
    host.end_registration()
    host.cpuid = cpuid
    host.power_on()
    return True


def set_filter(host: HostVcpu, event_filter: EventFilter | None) -> None:
    """KVM_SET_PMU_EVENT_FILTER, which is the VM's: to be called for each of its vCPUs."""
    host.import_page()
    host.event_filter = event_filter
    host.vpmu.set_filter(event_filter)
    if host.page is not None:
        host.page.registers_changed()


def reset(host: HostVcpu) -> None:
    """RESET: the page is discarded, registers and APIC start anew, nothing waits."""
    host.discard_registration()
    host.vpmu.reset()
    host.delivery.reset()


def init(host: HostVcpu) -> None:
    """INIT: the registration ends, LVTPC is masked, nothing waits; the PMU's registers stay.

    Source: SDM vol. 3A, "Processor States Following Power-up, Reset, or INIT".
    """
    host.end_registration()
    host.forget_registration()
    host.delivery.reset()


def preempt(host: HostVcpu) -> None:
    """The vCPU was scheduled out and in again: events that are not in use are released."""
    host.import_page()
    _sched_in(host, host.perf.sched_out())


def move(host: HostVcpu) -> None:
    """The vCPU was scheduled out, and in on another physical CPU."""
    host.import_page()
    events = host.perf.sched_out()
    host.next_cpu()
    _sched_in(host, events)


def idle(host: HostVcpu, cycles: int) -> None:
    """The vCPU halts: its thread sleeps while others have ``cycles`` on its physical CPU."""
    host.import_page()
    events = host.perf.sched_out()
    work(host, [cycles * (kind in (CYCLES, REF_CYCLES)) for kind in range(KINDS)])
    _sched_in(host, events)


def work(host: HostVcpu, counts: Sequence[int]) -> None:
    """The vCPU's physical CPU retires ``counts``, by event kind, outside the guest."""
    host.hardware.retire(None, None, counts)


def _sched_in(host: HostVcpu, events: list[PerfEvent]) -> None:
    host.perf.sched_in(events, host.hardware)
    host.vpmu.cleanup()
    if host.page is not None:
        # Another CPU may have no counter left for an event: not_counting says so.
        host.page.dirty = True


def load(host: HostVcpu, kinds: Sequence[int]) -> int:
    """Let the host's own pinned events compete: one of each kind, in place of earlier ones.

    They count the host only, and belong to the physical CPU that the vCPU is on. Returns how many
    found a counter.
    """
    context = host.own_events
    for event in tuple(context.events):
        context.release(event)
    for kind in kinds:
        context.create(Attr(kind, modes=0, pinned=True), 1 << 40, _ignore)
    return sum(event.counting for event in context.events)


def emulate(host: HostVcpu, kind: int, count: int, cpl: int) -> bool:
    """The host emulated ``count`` instructions or branches; returns whether a counter changed."""
    host.import_page()
    changed = host.vpmu.count_emulated(kind, count, cpl)
    if changed and host.page is not None:
        host.page.registers_changed()
    return changed


def take_dirty(host: HostVcpu) -> list[int]:
    """KVM_GET_DIRTY_LOG: guest-physical page numbers stored to since the last call, ascending."""
    frames = sorted(host.dirty_frames)
    host.dirty_frames.clear()
    return frames


def describe(host: HostVcpu) -> dict[str, object]:
    """The vCPU's private state, as plain values; imports nothing and changes nothing."""
    vpmu, delivery, stats = host.vpmu, host.delivery, host.stats
    calls = [sum(tally[kind] for tally in stats.tallies) for kind in range(len(CALL_KINDS))]
    return {
        "registered": host.page is not None,
        "running": host.page is not None and host.page.running,
        "held": vpmu.held,
        "live": vpmu.live,
        "not_counting": vpmu.not_counting,
        "pmi": {name: getattr(delivery.counts, name) for name in delivery.counts.__slots__},
        "undelivered": delivery.undelivered,
        "calls": dict(zip(CALL_KINDS, calls, strict=True)),
        "exits": dict(stats.exits),
        "events": [
            {
                "index": pmc.index,
                **asdict(pmc.event.attr),
                "period": pmc.event.period,
                "state": pmc.event.state.value,
                "paused": pmc.is_paused,
            }
            for pmc in (*vpmu.gp, *vpmu.fixed)
            if pmc.event is not None
        ],
    }


def _ignore() -> None:
    return None
