"""One vCPU on the host: exits, the entry loop, injection, statistics."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.shared import exits
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.exits import FAULT_GP, INJECT_NMI, WANT_NMI_WINDOW, Control, ExitReason
from pvpmu.shared.tally import PLACEMENTS, REDUNDANT

New = Callable[..., Any]
ALL_ON = 0x7_0000_00FF
BRANCHES = 0x5300C4
START = (1 << 48) - 1000
NMI_MODE, MASKED = 0x400, 1 << 16
BOTH = INJECT_NMI | WANT_NMI_WINDOW


@pytest.fixture
def trap(new_machine: New) -> Any:
    machine = new_machine(paged=False)
    machine.run_four()
    machine.no_calls()
    return machine


def run_handler(machine: Any) -> None:
    """Linux's handler after one overflow of PMC0, with NMIs blocked."""
    machine.write(msr.GLOBAL_CTRL, 0, blocked=True)
    machine.write(msr.OVF_CTRL, 1, blocked=True)
    machine.exit(ExitReason.RDPMC, 0, flags=exits.NMI_BLOCKED)
    machine.write(0x4C1, START, blocked=True)
    machine.write(msr.GLOBAL_CTRL, ALL_ON, blocked=True)
    machine.write(msr.LVTPC, NMI_MODE, blocked=True)


def test_reads_and_writes_go_through_the_slot(trap: Any) -> None:
    assert trap.read(msr.GLOBAL_CTRL) == ALL_ON
    assert trap.write(0x4C1, 77) == 0
    assert trap.read(0x4C1) == trap.rdpmc(0) == 77


@pytest.mark.parametrize("address", [0x1234, 0x309 + 3, 1 << 40 | 0x38F, (1 << 64) - 1])
def test_an_access_to_no_register_faults(trap: Any, address: int) -> None:
    assert trap.read(address) is None
    assert trap.write(address, 0) == FAULT_GP


def test_a_refused_write_faults_and_a_bad_rdpmc_index_too(trap: Any) -> None:
    assert trap.write(msr.GLOBAL_CTRL, 1 << 60) == FAULT_GP
    assert trap.rdpmc(64) is None
    assert trap.read(msr.GLOBAL_CTRL) == ALL_ON


@pytest.mark.rule("BND-14", "ERR-5")
@pytest.mark.parametrize("reason", [2, 6, 31 + 2, 0x7F])
def test_an_unknown_exit_reason_faults_and_the_vcpu_lives_on(trap: Any, reason: int) -> None:
    assert trap.exit(reason) == FAULT_GP
    assert trap.read(msr.GLOBAL_CTRL) == ALL_ON


@pytest.mark.rule("PMI-9")
def test_a_pmi_costs_three_calls_outside_the_handler_and_one_extra_loop(trap: Any) -> None:
    assert trap.nmi(branches=1000) == INJECT_NMI
    assert trap.locks() == [0, 3, 0]
    counts = trap.host.delivery.counts
    assert (counts.raised, counts.delivered, counts.extra_loops) == (1, 1, 1)
    assert trap.read(msr.GLOBAL_STATUS) == 1


@pytest.mark.parametrize(("is_paused", "expected"), [(False, 19), (True, 12)])
def test_the_handlers_calls_are_counted_in_its_place(
    new_machine: New, is_paused: bool, expected: int
) -> None:
    machine = new_machine(paged=False, is_paused=is_paused)
    machine.run_four()
    machine.nmi(branches=1000)
    machine.no_calls()
    run_handler(machine)
    assert machine.locks() == [expected, 0, 0]


@pytest.mark.rule("PMI-2")
def test_k_overflows_in_one_exit_make_3k_calls_and_one_pmi(trap: Any) -> None:
    assert trap.nmi(branches=1000, misses=1000, cycles=1000) == INJECT_NMI
    assert trap.locks() == [0, 9, 0]
    assert trap.read(msr.GLOBAL_STATUS) == 3 | 1 << 33
    counts = trap.host.delivery.counts
    assert (counts.raised, counts.coalesced, counts.delivered) == (3, 2, 1)


def test_an_exception_nmi_exit_without_overflow_injects_nothing(trap: Any) -> None:
    assert trap.nmi(branches=999) == 0
    assert trap.locks() == [0, 0, 0]


@pytest.mark.rule("PMI-9")
def test_an_overflow_found_at_another_exit_arrives_by_irq_work_at_that_entry(trap: Any) -> None:
    reply = trap.exit(ExitReason.HLT, user=[0, 0, 0, 0, 0, 1000, 0])
    assert reply == INJECT_NMI
    counts = trap.host.delivery.counts
    assert (counts.raised, counts.delivered, counts.extra_loops) == (1, 1, 0)


def test_an_overflow_while_the_guest_stops_is_a_late_pmi(trap: Any) -> None:
    assert trap.write(msr.GLOBAL_CTRL, 0, branches=1000) == INJECT_NMI
    assert trap.read(msr.GLOBAL_STATUS) == 1
    assert trap.host.delivery.counts.late == 1


@pytest.mark.rule("PMI-1")
def test_with_lvtpc_masked_status_is_set_and_no_nmi_comes_then_or_on_unmask(trap: Any) -> None:
    trap.write(msr.LVTPC, NMI_MODE | MASKED)
    assert trap.nmi(branches=1000) == 0
    assert trap.read(msr.GLOBAL_STATUS) == 1
    assert trap.write(msr.LVTPC, NMI_MODE) == 0
    assert trap.exit(ExitReason.HLT) == 0


@pytest.mark.rule("PMI-1")
def test_without_int_status_is_set_and_no_nmi_comes(trap: Any) -> None:
    trap.write(0x186, BRANCHES & ~(1 << 20))
    trap.write(0x4C1, START)
    assert trap.nmi(branches=1000) == 0
    assert trap.read(msr.GLOBAL_STATUS) == 1


@pytest.mark.rule("PMI-5")
def test_two_nmis_are_injected_one_at_a_time_with_an_nmi_window_between(trap: Any) -> None:
    assert trap.nmi(stray=True, branches=1000) == BOTH
    run_handler(trap)
    assert trap.exit(ExitReason.NMI_WINDOW) == INJECT_NMI
    assert trap.exit(ExitReason.HLT) == 0
    counts = trap.host.delivery.counts
    assert (counts.stray, counts.delivered, counts.coalesced) == (1, 2, 0)


@pytest.mark.rule("PMI-5")
def test_while_nmis_are_blocked_one_waits_for_the_window_and_more_collapse(trap: Any) -> None:
    assert trap.nmi(blocked=True, stray=True, branches=1000) == WANT_NMI_WINDOW
    assert trap.host.delivery.pending == [True]
    assert trap.nmi(blocked=True, misses=1000) == WANT_NMI_WINDOW
    assert trap.host.delivery.pending == [True]
    assert trap.host.delivery.counts.coalesced == 2
    assert trap.exit(ExitReason.NMI_WINDOW) == INJECT_NMI
    assert trap.exit(ExitReason.NMI_WINDOW) == 0


def test_delivery_without_masking_gives_a_second_spurious_nmi(trap: Any) -> None:
    assert trap.nmi(branches=1000) == INJECT_NMI
    assert trap.nmi(blocked=True, misses=1000) == WANT_NMI_WINDOW
    assert trap.host.vpmu.global_status == 3
    trap.write(msr.OVF_CTRL, 3, blocked=True)
    assert trap.exit(ExitReason.NMI_WINDOW) == INJECT_NMI
    assert trap.read(msr.GLOBAL_STATUS) == 0


def test_a_foreign_nmi_is_injected_and_is_no_delivered_pmi(trap: Any) -> None:
    trap.host.queue_nmi()
    assert trap.exit(ExitReason.HLT) == INJECT_NMI
    assert trap.host.delivery.counts.delivered == 0


def test_retired_kernel_counts_reach_counters_with_the_os_bit_only(trap: Any) -> None:
    trap.write(0x187, 0x42412E)  # cache-misses, OS only
    trap.write(0x4C2, 0)
    trap.exit(ExitReason.HLT, user=[0, 0, 0, 0, 9, 0, 0], kernel=[0, 0, 0, 0, 5, 0, 0])
    assert trap.read(0x4C2) == 5


@pytest.mark.rule("BND-13")
def test_retired_words_without_their_flag_count_nothing(trap: Any) -> None:
    trap.slot[exits.RETIRED_USER_AT + 5] = 500
    trap.exit(ExitReason.HLT)
    assert trap.read(0x4C1) == START


# Live entries ----------------------------------------------------------------------------------


def live(machine: Any) -> dict[int, int]:
    slot = machine.slot
    count = slot[exits.LIVE_COUNT]
    words = slot[exits.LIVE_AT : exits.LIVE_AT + 2 * count].tolist()
    return {words[i] & 0xFF: words[i + 1] for i in range(0, 2 * count, 2)}


@pytest.mark.rule("BND-16")
def test_the_reply_lists_each_counters_distance_to_overflow(trap: Any) -> None:
    assert live(trap) == {0: 1000, 1: 1000, 4: 1000, 5: 1000}
    trap.write(0x4C1, (1 << 48) - 7)
    assert live(trap)[5] == 7
    trap.write(msr.GLOBAL_CTRL, 0)
    assert live(trap) == {}


@pytest.mark.rule("BND-16")
def test_the_live_version_changes_exactly_when_the_entries_do(trap: Any) -> None:
    version = trap.slot[exits.LIVE_VERSION]
    trap.read(0x4C1)
    trap.exit(ExitReason.HLT, user=[0, 0, 0, 0, 0, 5, 0])
    trap.write(msr.OVF_CTRL, 1)
    assert trap.slot[exits.LIVE_VERSION] == version
    trap.write(0x186, 0)
    assert trap.slot[exits.LIVE_VERSION] != version


# CPUID, control, statistics ---------------------------------------------------------------------


def cpuid(machine: Any, leaf: int) -> tuple[int, int, int, int]:
    assert machine.exit(ExitReason.CPUID, leaf) == 0
    low, high = machine.slot[exits.RESULT], machine.slot[exits.RESULT_HIGH]
    word = 0xFFFF_FFFF
    return low & word, low >> 32, high & word, high >> 32


def test_cpuid_leaf_0xa_describes_the_pmu(new_machine: New) -> None:
    machine = new_machine(cpuid=PmuCpuid(gp=4, fixed=2, unavailable=0x40))
    eax, ebx, ecx, edx = cpuid(machine, 0xA)
    assert (eax & 0xFF, eax >> 8 & 0xFF, eax >> 16 & 0xFF, eax >> 24) == (2, 4, 48, 7)
    assert (ebx, ecx) == (0x40, 0)
    assert (edx & 0x1F, edx >> 5 & 0xFF, edx >> 15 & 1) == (2, 48, 1)


@pytest.mark.rule("DSC-1", "DSC-2")
def test_the_page_is_announced_by_a_leaf_of_its_own(new_machine: New) -> None:
    machine = new_machine()
    eax, *signature = cpuid(machine, 0x4000_0100)
    assert b"".join(word.to_bytes(4, "little") for word in signature) == b"PVPMUPVPMUPV"
    assert cpuid(machine, eax) == (0x101, 2, msr.PV_PAGE, 4096)


def test_a_host_without_freeze_does_not_offer_it(new_machine: New) -> None:
    assert cpuid(new_machine(freeze=False), 0x4000_0101)[1] == 0


@pytest.mark.rule("FEA-10")
def test_a_pmu_without_global_ctrl_is_not_offered_freeze(new_machine: New) -> None:
    assert cpuid(new_machine(cpuid=PmuCpuid(version=1, fixed=0)), 0x4000_0101)[1] == 0


@pytest.mark.rule("DSC-3")
def test_a_host_without_the_page_announces_nothing_and_faults_on_its_registers(
    trap: Any,
) -> None:
    assert cpuid(trap, 0x4000_0100) == cpuid(trap, 0x4000_0101) == (0, 0, 0, 0)
    for address in (msr.PV_PAGE, msr.PV_STATUS):
        assert trap.read(address) is None
        assert trap.write(address, 1) == FAULT_GP


def control(machine: Any, what: Control) -> None:
    machine.exit(ExitReason.CONTROL, 0, what)


def test_statistics_cover_exactly_what_lies_between_start_and_stop(trap: Any) -> None:
    control(trap, Control.START)
    trap.nmi(branches=1000)
    run_handler(trap)
    trap.read(msr.GLOBAL_STATUS)
    control(trap, Control.STOP)
    trap.read(msr.GLOBAL_STATUS)
    stats = trap.host.result
    by_reason = dict(stats.exits)
    assert by_reason == {0: 1, 15: 1, 31: 1, 32: 5}
    assert stats.exits_by == [6, 1, 1]
    assert stats.accesses[32, msr.GLOBAL_CTRL] == 2
    assert stats.accesses[31, msr.GLOBAL_STATUS] == 1
    assert (stats.pmi.delivered, stats.undelivered) == (1, 0)


def work(machine: Any) -> list[int]:
    return machine.slot[exits.WORK_AT : exits.WORK_AT + exits.WORK_WORDS].tolist()


def test_the_work_words_say_what_the_host_did_since_start(new_machine: New) -> None:
    machine = new_machine(paged=False, is_paused=False)
    control(machine, Control.RESET)
    control(machine, Control.WORK)
    machine.run_four()
    control(machine, Control.START)
    machine.read(msr.GLOBAL_STATUS)
    assert work(machine) == [0] * exits.WORK_WORDS
    machine.nmi(branches=1000)
    # The PMU request after an overflow: pause, period, enable; the reload places one event.
    assert work(machine)[:3] == [3, 0, 3]
    run_handler(machine)
    calls = machine.locks()
    tallies = machine.host.stats.tallies
    redundant = sum(tally[REDUNDANT] for tally in tallies)
    placements = sum(tally[PLACEMENTS] for tally in tallies)
    assert redundant == 7
    assert work(machine) == [sum(calls) - redundant, redundant, sum(calls), placements, 0, 0]


def test_without_being_asked_the_host_says_nothing_of_its_work(trap: Any) -> None:
    control(trap, Control.START)
    trap.nmi(branches=1000)
    assert work(trap) == [0] * exits.WORK_WORDS
    control(trap, Control.WORK)
    trap.read(msr.GLOBAL_STATUS)
    told = work(trap)
    assert told[0] == 3
    control(trap, Control.RESET)
    trap.run_four()
    assert work(trap) == told


def test_a_pmi_on_its_way_at_stop_is_undelivered(trap: Any) -> None:
    control(trap, Control.START)
    trap.nmi(stray=True, branches=1000)
    control(trap, Control.STOP)
    assert trap.host.result.undelivered == 1


def test_floor_and_control_exits_are_not_counted(trap: Any) -> None:
    before = trap.host.stats.exits
    assert trap.exit(ExitReason.FLOOR, 0, 3) == 0
    control(trap, Control.STOP)
    assert trap.host.result.exits == before


def test_reset_gives_a_new_vpmu_with_nothing_pending_and_no_page(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    machine.register()
    machine.nmi(stray=True, branches=1000)
    version = machine.slot[exits.LIVE_VERSION]
    control(machine, Control.RESET)
    assert live(machine) == {}
    assert machine.slot[exits.LIVE_VERSION] != version
    assert machine.exit(ExitReason.HLT) == 0
    assert (machine.read(msr.PV_PAGE), machine.read(msr.PV_STATUS)) == (0, 0)
    assert machine.read(msr.GLOBAL_STATUS) == machine.read(0x186) == 0
    assert machine.read(msr.LVTPC) == MASKED


@pytest.mark.rule("END-8")
def test_unregistering_nothing_and_a_second_reset_change_nothing(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    assert machine.write(msr.PV_PAGE, 0) == machine.write(msr.PV_PAGE, 0) == 0
    assert machine.read(msr.GLOBAL_CTRL) == ALL_ON
    assert machine.nmi(branches=5) == 0
    assert machine.read(0x4C1) == START + 5
    registers = (msr.GLOBAL_CTRL, msr.LVTPC, 0x186, 0x4C1, msr.PV_PAGE, msr.PV_STATUS)
    control(machine, Control.RESET)
    once = [machine.read(address) for address in registers]
    control(machine, Control.RESET)
    assert [machine.read(address) for address in registers] == once
