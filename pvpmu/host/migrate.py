"""Save, restore and takeover of one vCPU's PMU, its page included.

Source: docs/protocol.md, section 14; KVM's MSR and LAPIC state of a migration.

**Invariants**: a save leaves the vCPU as it was; a restore that is refused leaves it as it was; a
PMI on its way at the save is delivered once after the restore.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.perf import PerfContext
from pvpmu.host.pmi import REQUEST_PMI, PmiDelivery
from pvpmu.host.pvpage import Hold
from pvpmu.host.vcpu import HostVcpu
from pvpmu.host.vpmu import Vpmu
from pvpmu.shared import registers as msr
from pvpmu.shared.errors import UsageError
from pvpmu.shared.registers import BY_ADDRESS, Role
from pvpmu.shared.registration import Registration, Request, check

STATE_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuState:
    """One vCPU's PMU state, of plain values.

    ``registers``: by MSR address, 64 bits. ``page``: MSR_PVPMU_PAGE. ``masked_here``: the LVTPC
    mask is a delivery's. ``nmis``: those that wait, in order, True for a PMI's. ``vectors``: the
    IRR's. ``pmi_requested``: a PMI was raised and has not met LVTPC yet.
    """

    version: int
    registers: dict[int, int]
    page: int
    generation: int
    held: bool
    freeze_seq: int
    pmi_seq: int
    masked_here: bool
    nmis: list[bool]
    vectors: list[int]
    pmi_requested: bool


def save(host: HostVcpu) -> VcpuState:
    """Take a stopped vCPU's state; the page's newer words are imported first."""
    host.import_page()
    delivery = host.delivery
    hold = host.page.hold if host.page is not None else Hold(lasts=False, freeze_seq=0, pmi_seq=0)
    return VcpuState(
        version=STATE_VERSION,
        registers=dict(_registers(host.vpmu, delivery)),
        page=host.pv_page,
        generation=host.generation,
        held=hold.lasts,
        freeze_seq=hold.freeze_seq,
        pmi_seq=hold.pmi_seq,
        masked_here=delivery.masked_here,
        nmis=delivery.waiting,
        vectors=[vector for vector in range(256) if delivery.irr >> vector & 1],
        pmi_requested=bool(delivery.requests & REQUEST_PMI) or delivery.irq_work,
    )


def restore(host: HostVcpu, state: VcpuState) -> None:
    """Bring a vCPU, after power-on, into a saved state; its memory has been restored already.

    A page whose version or features this host does not offer is given up: everything traps. Raises
    :class:`UsageError` for a state that this PMU cannot have; then nothing has changed.
    """
    if state.version != STATE_VERSION:
        raise UsageError(f"saved state: version {state.version}, this host reads {STATE_VERSION}")
    trial = PmiDelivery(masks=host.profile.lvtpc_masked)
    vpmu = Vpmu(
        host.cpuid, PerfContext(PhysicalPmu()), trial, skip_paused=True, profile=host.profile
    )
    _apply(vpmu, trial, state)
    host.power_on(generation=state.generation)
    request = Request.decode(state.page)
    accepted = request is not None and _offered(host, request)
    host.vpmu.held = state.held and accepted
    _apply(host.vpmu, host.delivery, state)
    host.delivery.masked_here = state.masked_here
    for pmi in state.nmis:
        host.delivery.queue_nmi(pmi=pmi)
    for vector in state.vectors:
        host.delivery.irr |= 1 << vector
    if state.pmi_requested:
        host.delivery.requests |= REQUEST_PMI
    # They were raised elsewhere; here they count as raised, so that the sum comes out.
    host.delivery.counts.raised += sum(state.nmis) + len(state.vectors) + state.pmi_requested
    if request is not None:
        if accepted:
            hold = Hold(lasts=state.held, freeze_seq=state.freeze_seq, pmi_seq=state.pmi_seq)
            host.register(request, hold)
        else:
            host.disown(request)


def take_over(host: HostVcpu, request: Request) -> bool:
    """A host that lost its state goes on with what the guest owns (rule SAV-8).

    Returns whether the page could be taken; else it is given up. Status, and what live counters
    had counted since their last stop, are lost.
    """
    host.power_on(generation=host.generation)
    host.takeovers += 1
    if _offered(host, request):
        taken = host.register(request)
        taken.adopt_ovf_ctrl()
        if taken.import_words():
            host.vpmu.start_paused()
            return True
    host.disown(request)
    return False


def _offered(host: HostVcpu, request: Request) -> bool:
    return check(request, memory_bytes=host.memory_bytes, offered=host.offered) is Registration.OK


def _registers(vpmu: Vpmu, delivery: PmiDelivery) -> Iterator[tuple[int, int]]:
    """Every register with its value; GP counters under the address that they always have."""
    for pmc in vpmu.gp:
        yield msr.address_of(Role.PERFCTR, pmc.number), vpmu.read(pmc)
        yield msr.address_of(Role.EVTSEL, pmc.number), pmc.eventsel
    for pmc in vpmu.fixed:
        yield msr.address_of(Role.FIXED_CTR, pmc.number), vpmu.read(pmc)
    if vpmu.cpuid.has_globals:
        yield msr.FIXED_CTR_CTRL, vpmu.fixed_ctr_ctrl
        yield msr.GLOBAL_STATUS, vpmu.global_status
        yield msr.OVF_CTRL, vpmu.ovf_ctrl
        yield msr.GLOBAL_CTRL, vpmu.global_ctrl
    yield msr.LVTPC, delivery.lvtpc


def _apply(vpmu: Vpmu, delivery: PmiDelivery, state: VcpuState) -> None:
    """Write saved registers, counters first and the global enable last.

    Raises :class:`UsageError` at the first value that a trapped write would refuse.
    """
    expected = dict(_registers(vpmu, delivery))
    if state.registers.keys() != expected.keys():
        odd = min(state.registers.keys() ^ expected.keys())
        raise UsageError(f"saved state: register {odd:#x} is missing or not of this PMU")
    values = dict(state.registers)
    last, status = {}, 0
    if vpmu.cpuid.has_globals:
        vpmu.store_global_ctrl(0)
        last[msr.GLOBAL_CTRL] = values.pop(msr.GLOBAL_CTRL)
        status = values.pop(msr.GLOBAL_STATUS)
    for pmc in (*vpmu.gp, *vpmu.fixed):
        role = Role.FIXED_CTR if pmc.fixed else Role.PERFCTR
        address = msr.address_of(role, pmc.number)
        value = values.pop(address)
        if value & ~pmc.mask:
            raise _refused(address, value)
        vpmu.set_value(pmc, value)
    if status & ~vpmu.cpuid.counters:
        raise _refused(msr.GLOBAL_STATUS, status)
    for address, value in (values | last).items():
        if not vpmu.wrmsr(address, value):
            raise _refused(address, value)
    vpmu.global_status = status


def _refused(address: int, value: int) -> UsageError:
    name = BY_ADDRESS[address].name
    return UsageError(f"saved state: {name} ({address:#x}) cannot be {value:#x}")
