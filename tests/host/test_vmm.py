"""A VMM's calls: each acts on what the guest sees, and is published at the next VM-entry."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.host import vmm
from pvpmu.host.filter import Action, EventFilter
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.events import BRANCHES, CYCLES
from pvpmu.shared.exits import INJECT_NMI, ExitReason

New, Paged = Callable[..., Any], Any
ALL_ON, FOUR = 0x7_0000_00FF, 0x3_0000_0003
START = (1 << 48) - 1000
NMI_MODE, MASKED = 0x400, 1 << 16
NOT_BRANCHES = EventFilter(Action.DENY, (0x00C4,))


def enter(machine: Any) -> None:
    """The VM-entry that follows a call from outside."""
    machine.exit(ExitReason.FLOOR)


def status(paged: Paged) -> int:
    return (paged.page[page.RAISED] ^ paged.page[page.ACKED]) & paged.page[page.STATUS_MASK]


@pytest.mark.rule("IMP-1", "IMP-12")
def test_a_read_from_outside_sees_what_the_guest_stored(paged: Paged) -> None:
    paged.stop()
    paged.page[page.PMC] = 77
    assert vmm.get_msr(paged.host, 0xC1) == 77
    assert vmm.get_msr(paged.host, 0x1234) is None
    assert vmm.get_msr(paged.host, msr.PV_STATUS) == 1


@pytest.mark.rule("IMP-1", "IMP-6")
def test_a_write_from_outside_keeps_what_the_guest_stored_and_is_published(paged: Paged) -> None:
    paged.stop()
    paged.page[page.PMC] = 77
    assert vmm.set_msr(paged.host, 0x309, 5)
    enter(paged)
    assert paged.page[page.PMC], paged.page[page.FIXED_CTR] == (77, 5)
    assert not vmm.set_msr(paged.host, 0x186, 1 << 21)
    assert vmm.get_msr(paged.host, 0xC1) == 77


@pytest.mark.rule("STA-7")
@pytest.mark.parametrize("value", [0, 1, 0b11])
def test_a_status_write_from_outside_stores_both_words_with_a_new_count(
    paged: Paged, value: int
) -> None:
    paged.nmi(branches=1000)
    acked = paged.page[page.ACKED]
    assert vmm.set_msr(paged.host, msr.GLOBAL_STATUS, value)
    enter(paged)
    assert status(paged) == value
    assert paged.page[page.ACKED] == acked + page.ACK_COUNT_ONE
    assert paged.read(msr.GLOBAL_STATUS) == value


@pytest.mark.rule("IMP-1", "SEC-3")
@pytest.mark.parametrize("stopped", [False, True])
def test_a_filter_change_imports_and_holds_on_both_paths(paged: Paged, stopped: bool) -> None:
    if stopped:
        paged.stop()
        paged.page[page.FIXED_CTR] = 8
    vmm.set_filter(paged.host, NOT_BRANCHES)
    enter(paged)
    if stopped:
        assert paged.commit() == 0
    assert paged.page[page.LIVE] == FOUR
    assert paged.page[page.NOT_COUNTING] == 1
    assert paged.nmi(branches=5000, instructions=3) == 0
    assert paged.rdpmc(0) == START
    assert paged.rdpmc(1 << 30) == (8 if stopped else START) + 3
    assert paged.read(0x186) == 0x53_00C4
    vmm.set_filter(paged.host, None)
    enter(paged)
    assert paged.page[page.NOT_COUNTING] == 0
    assert paged.nmi(branches=1000) == INJECT_NMI


@pytest.mark.rule("END-1", "END-3", "ERR-1", "IMP-1")
def test_init_imports_ends_the_registration_and_resets_the_apic(paged: Paged) -> None:
    paged.nmi(branches=1000)
    paged.page[page.PMC + 1] = 99
    paged.host.queue_nmi()
    vmm.init(paged.host)
    enter(paged)
    assert (paged.page[page.VERSION], paged.page[page.GENERATION]) == (0, 0)
    assert (paged.read(msr.PV_STATUS), paged.read(msr.PV_PAGE)) == (0, 0)
    assert paged.nmi() == 0, "no NMI waits"
    assert paged.read(msr.LVTPC) == MASKED
    assert paged.read(msr.GLOBAL_STATUS) == 1
    assert paged.read(0x4C2) == 99
    assert paged.counting == 4, "what is live counts on"


@pytest.mark.rule("END-1", "END-3", "ERR-1")
def test_reset_discards_the_page_and_what_waits(paged: Paged) -> None:
    paged.host.delivery.raise_pmi(in_guest=True)
    paged.page[page.PMC] = 99
    vmm.reset(paged.host)
    enter(paged)
    assert (paged.page[page.VERSION], paged.page[page.GENERATION]) == (0, 0)
    assert paged.nmi(branches=5000) == 0
    for address in (0x4C1, 0x186, msr.FIXED_CTR_CTRL, msr.GLOBAL_STATUS, msr.GLOBAL_CTRL):
        assert paged.read(address) == 0
    assert (paged.read(msr.PV_STATUS), paged.read(msr.LVTPC)) == (0, MASKED)
    vmm.reset(paged.host)
    assert paged.read(msr.GLOBAL_CTRL) == 0


@pytest.mark.rule("END-1")
def test_another_shape_is_taken_only_before_the_vcpu_has_run(new_machine: New) -> None:
    machine = new_machine()
    assert vmm.set_cpuid(machine.host, PmuCpuid(gp=2))
    assert machine.read(0x4C1 + 2) is None
    assert vmm.set_cpuid(machine.host, PmuCpuid(gp=2))
    assert not vmm.set_cpuid(machine.host, PmuCpuid(gp=4))


@pytest.mark.rule("END-1")
def test_a_change_of_shape_ends_the_registration(new_machine: New) -> None:
    machine = new_machine()
    window = machine.register()
    machine.host.power_on()
    assert (window[page.VERSION], window[page.GENERATION]) == (0, 0)


@pytest.mark.rule("IMP-1", "IMP-10")
def test_lazy_release_imports_first_and_spares_what_the_guest_changed(paged: Paged) -> None:
    paged.stop()
    vmm.preempt(paged.host)
    paged.page[page.EVTSEL] = 0
    paged.page[page.EVTSEL + 1] = 0
    paged.page[page.PMC] = 77
    vmm.preempt(paged.host)
    assert paged.host.vpmu.gp[0].event is not None, "written since the last time"
    vmm.preempt(paged.host)
    assert paged.host.vpmu.gp[0].event is None
    assert vmm.get_msr(paged.host, 0xC1) == 77


@pytest.mark.rule("FRE-7")
def test_the_hosts_own_events_can_leave_a_guest_counter_without_one(new_machine: New) -> None:
    machine = new_machine()
    assert vmm.load(machine.host, [BRANCHES] * 8 + [CYCLES] * 3) == 9
    machine.run_four()
    window = machine.register()
    assert window[page.NOT_COUNTING] == 0b11 | 1 << 33
    assert vmm.load(machine.host, []) == 0
    machine.write(msr.GLOBAL_CTRL, 0)
    machine.write(msr.GLOBAL_CTRL, ALL_ON)
    assert window[page.NOT_COUNTING] == 0


def live(machine: Any) -> dict[int, int]:
    """Distances of the live entries by event kind, as the guest loads them."""
    slot, at = machine.slot, exits.LIVE_AT
    pairs = range(at, at + 2 * slot[exits.LIVE_COUNT], 2)
    return {slot[place] & 0xFF: slot[place + 1] for place in pairs}


def test_a_vcpu_counts_on_exactly_on_another_physical_cpu(new_machine: New) -> None:
    machine = new_machine(paged=False)
    machine.run_four()
    machine.nmi(branches=10, cycles=20)
    for _ in range(3):
        old, version = machine.host.hardware, machine.slot[exits.LIVE_VERSION]
        vmm.move(machine.host)
        enter(machine)
        assert machine.host.hardware is not old
        assert (old.started, len(machine.host.hardware.started)) == ([], 4)
        assert machine.slot[exits.LIVE_VERSION] != version
    assert (live(machine)[BRANCHES], live(machine)[CYCLES]) == (990, 980)
    assert machine.nmi(branches=990) == INJECT_NMI
    assert machine.read(msr.GLOBAL_STATUS) == 1
    assert machine.read(0x4C1) == 0


def test_the_hosts_own_events_stay_on_their_cpu(new_machine: New) -> None:
    machine = new_machine()
    assert vmm.load(machine.host, [BRANCHES] * 8 + [CYCLES] * 3) == 9
    machine.run_four()
    window = machine.register()
    assert window[page.NOT_COUNTING] == 0b11 | 1 << 33
    vmm.move(machine.host)
    machine.write(msr.GLOBAL_CTRL, 0)
    machine.write(msr.GLOBAL_CTRL, ALL_ON)
    assert window[page.NOT_COUNTING] == 0
    vmm.move(machine.host)
    enter(machine)
    assert window[page.NOT_COUNTING] == 0b11 | 1 << 33, "pinned events that found no counter"


def test_lazy_release_looks_when_the_thread_moves(paged: Paged) -> None:
    paged.stop()
    paged.page[page.EVTSEL] = 0
    for _ in range(2):
        vmm.move(paged.host)
    assert paged.host.vpmu.gp[0].event is None
    assert paged.host.vpmu.gp[1].event is not None


def test_neither_the_hosts_work_nor_idle_time_counts_in_the_guest(new_machine: New) -> None:
    machine = new_machine(paged=False)
    assert vmm.load(machine.host, [CYCLES, BRANCHES]) == 2
    machine.run_four()
    own = [event.counter for event in machine.host.own_events.events]
    before = [counter.value for counter in own]
    vmm.work(machine.host, [500] * 7)
    vmm.idle(machine.host, 100)
    assert [counter.value - value for counter, value in zip(own, before, strict=True)] == [600, 500]
    assert [machine.read(address) for address in (0x4C1, 0x4C2, 0x309, 0x30A)] == [START] * 4


@pytest.mark.rule("SAV-7")
def test_dirty_frames_are_told_once(paged: Paged) -> None:
    assert vmm.take_dirty(paged.host) == [0]
    assert vmm.take_dirty(paged.host) == []


def test_a_description_is_of_plain_values_and_changes_nothing(paged: Paged) -> None:
    paged.nmi(branches=1000)
    first = vmm.describe(paged.host)
    assert first == vmm.describe(paged.host)
    assert (first["held"], first["live"]) == (True, FOUR)
    assert [event["state"] for event in first["events"]] == ["off"] * 4  # type: ignore[attr-defined]


@pytest.mark.rule("GEN-2", "FRE-2")
def test_the_generation_stands_until_the_registration_ends(paged: Paged) -> None:
    generation = paged.page[page.GENERATION]
    assert generation
    paged.nmi(branches=1000)
    paged.commit(blocked=True)
    paged.stop()
    vmm.set_msr(paged.host, 0xC1, 5)
    vmm.set_filter(paged.host, NOT_BRANCHES)
    enter(paged)
    assert (paged.page[page.GENERATION], paged.page[page.VERSION]) == (generation, 1)
    paged.write(msr.PV_PAGE, 0)
    assert (paged.page[page.GENERATION], paged.page[page.VERSION]) == (0, 0)
    paged.register()
    assert (paged.page[page.GENERATION], paged.page[page.VERSION]) == (generation + 1, 1)


@pytest.mark.rule("ACC-10", "END-1")
def test_perf_capabilities_from_outside_take_the_full_width_registers_away(
    new_machine: New,
) -> None:
    machine = new_machine()
    assert vmm.set_msr(machine.host, msr.CAPABILITIES, 0)
    assert not machine.host.cpuid.full_width
    assert machine.read(0x4C1) is None
    assert machine.read(0xC1) == 0
    assert not vmm.set_msr(machine.host, msr.CAPABILITIES, 1 << 13), "it has run"
