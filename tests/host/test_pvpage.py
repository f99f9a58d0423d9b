"""The page's host half: import, COMMIT, refusal, status."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.host.pvpage import HostPage
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import FAULT_GP, INJECT_NMI, NMI_BLOCKED, ExitReason

New, Paged = Callable[..., Any], Any
ALL_ON, FOUR = 0x7_0000_00FF, 0x3_0000_0003
BRANCHES, MISSES = 0x5300C4, 0x53412E
EN = 1 << 22
START = (1 << 48) - 1000
NMI_MODE, MASKED = 0x400, 1 << 16


@pytest.mark.rule("CMT-3", "CMT-4")
def test_commit_takes_every_changed_word_and_its_value_from_the_exit(paged: Paged) -> None:
    paged.stop()
    paged.page[page.PMC] = 5
    paged.page[page.FIXED_CTR] = 6
    paged.page[page.EVTSEL + 1] = MISSES & ~EN
    paged.page[page.EVTSEL + 2] = BRANCHES
    paged.page[page.FIXED_CTR_CTRL] = 0x0B
    paged.page[page.LVTPC] = NMI_MODE | MASKED
    assert paged.commit(ALL_ON & ~2) == 0
    assert paged.page[page.LIVE] == 1 | 4 | 1 << 32
    assert paged.read(msr.GLOBAL_CTRL) == ALL_ON & ~2
    assert paged.read(msr.LVTPC) == NMI_MODE | MASKED
    assert paged.read(0x187) == MISSES & ~EN
    paged.nmi(branches=10, instructions=20, misses=30, cycles=40)
    assert [paged.rdpmc(i) for i in (0, 1, 2)] == [15, START, 10]
    assert [paged.rdpmc(1 << 30 | i) for i in (0, 1)] == [26, START]


@pytest.mark.rule("CMT-4")
def test_the_written_value_decides_the_next_overflow(paged: Paged) -> None:
    paged.stop()
    paged.page[page.PMC] = (1 << 48) - 5
    paged.commit()
    assert paged.nmi(branches=4) == 0
    assert paged.nmi(branches=1) == INJECT_NMI


@pytest.mark.rule("IMP-6", "IMP-9", "IMP-12")
@pytest.mark.parametrize(
    ("index", "address", "value"),
    [
        (page.PMC + 7, 0x4C8, 9),
        (page.FIXED_CTR + 2, 0x30B, 9),
        (page.EVTSEL + 7, 0x18D, BRANCHES),
        (page.FIXED_CTR_CTRL, 0x38D, 0x8),
        (page.GLOBAL_CTRL, 0x38F, 0),
        (page.LVTPC, 0x834, MASKED),
        (page.OVF_CTRL, 0x390, 3),
    ],
)
def test_a_trapped_read_while_frozen_sees_the_pages_newer_word(
    paged: Paged, index: int, address: int, value: int
) -> None:
    paged.nmi(branches=1000)
    paged.page[index] = value
    assert paged.read(address) == value
    assert paged.counting == 0


@pytest.mark.rule("ACC-8", "OWN-7")
def test_frozen_words_are_left_alone_by_exits_that_import_nothing(paged: Paged) -> None:
    paged.nmi(branches=1000)
    before = dict(enumerate(paged.page[page.TURN_FIRST : page.TURN_END].tolist()))
    for offset in before:
        paged.page[page.TURN_FIRST + offset] = offset
    paged.nmi(blocked=True, stray=True)
    paged.exit(ExitReason.HLT, flags=NMI_BLOCKED)
    paged.exit(ExitReason.NMI_WINDOW)
    turns = paged.page[page.TURN_FIRST : page.TURN_END].tolist()
    assert turns == list(range(len(turns)))


@pytest.mark.rule("OWN-8")
def test_a_running_host_never_reads_a_turn_word(paged: Paged) -> None:
    for index in range(page.TURN_FIRST, page.TURN_END):
        paged.page[index] = 0x5A5A
    paged.write(0x188, BRANCHES)
    paged.write(msr.LVTPC, MASKED)
    assert paged.read(0x186) == BRANCHES
    assert [i for i in paged.words.loads() if i >= page.TURN_FIRST] == []


@pytest.mark.rule("IMP-2", "SEC-2")
@pytest.mark.parametrize("garbage", [0, (1 << 64) - 1, 0x5A5A_5A5A_5A5A_5A5A])
def test_words_that_change_after_the_first_load_make_no_difference(
    paged: Paged, garbage: int
) -> None:
    paged.stop()
    paged.page[page.PMC] = 5
    paged.page[page.EVTSEL + 2] = BRANCHES

    def flip(index: int) -> None:
        paged.page[index] = garbage

    paged.words.on_load = flip
    assert paged.commit() == 0
    turns = [i for i in paged.words.loads() if i >= page.TURN_FIRST]
    assert len(turns) == len(set(turns)) > 0
    vpmu = paged.host.vpmu
    assert (vpmu.gp[0].accumulator, vpmu.gp[2].eventsel) == (5, BRANCHES)
    assert (vpmu.global_ctrl, vpmu.fixed_ctr_ctrl) == (ALL_ON, 0xBB)
    assert paged.host.delivery.lvtpc == NMI_MODE


BAD_WORDS = [
    (page.GLOBAL_CTRL, 1 << 35, msr.GLOBAL_CTRL, 1),
    (page.FIXED_CTR_CTRL, 0xBF, msr.FIXED_CTR_CTRL, 1),
    (page.LVTPC, NMI_MODE | 1 << 40, msr.LVTPC, 1),
    (page.LVTPC, NMI_MODE | 1 << 11, msr.LVTPC, 1),
    (page.EVTSEL, BRANCHES | 1 << 21, 0x186, 1),
    (page.EVTSEL + 7, 1 << 32, 0x18D, 1),
    (page.PMC, 1 << 48, 0x4C1, 2),
    (page.PMC + 7, 1 << 63, 0x4C8, 2),
    (page.FIXED_CTR + 2, 1 << 48, 0x30B, 2),
]


@pytest.mark.rule("CMT-5", "CMT-6", "ERR-2", "ERR-3", "IMP-4", "IMP-5")
@pytest.mark.parametrize(("index", "value", "address", "reason"), BAD_WORDS)
@pytest.mark.parametrize("held", [False, True])
def test_a_refused_commit_faults_and_changes_nothing(
    paged: Paged, held: bool, index: int, value: int, address: int, reason: int
) -> None:
    if held:
        paged.nmi(branches=1000)
    else:
        paged.stop()
    good = page.PMC + 1
    last = paged.page[index]
    vpmu = paged.host.vpmu
    before = [(pmc.accumulator, pmc.eventsel) for pmc in (*vpmu.gp, *vpmu.fixed)]
    controls = (vpmu.global_ctrl, vpmu.fixed_ctr_ctrl, paged.host.delivery.lvtpc, vpmu.held)
    paged.page[index] = value
    paged.page[good] = 99
    assert paged.write(msr.GLOBAL_CTRL, FOUR) == FAULT_GP
    assert [(pmc.accumulator, pmc.eventsel) for pmc in (*vpmu.gp, *vpmu.fixed)] == before
    assert controls == (
        vpmu.global_ctrl, vpmu.fixed_ctr_ctrl, paged.host.delivery.lvtpc, vpmu.held
    )  # fmt: skip
    assert (paged.page[page.LIVE], paged.counting) == (0, 0)
    assert paged.page[index] == last
    assert paged.page[good] == 99, "words that were not refused stay the guest's"
    assert paged.page[page.REJECTED] == 1 << index - page.TURN_FIRST
    assert paged.page[page.REJECT_REASON] == address << 32 | reason
    assert paged.commit() == 0
    assert paged.page[page.REJECTED] == paged.page[page.REJECT_REASON] == 0
    assert paged.rdpmc(1) == 99


@pytest.mark.rule("ERR-3")
def test_every_offender_is_reported_and_the_first_ones_reason(paged: Paged) -> None:
    paged.stop()
    paged.page[page.FIXED_CTR] = 1 << 50
    paged.page[page.EVTSEL + 1] = 1 << 40
    paged.page[page.PMC + 2] = 1 << 49
    assert paged.commit() == FAULT_GP
    bits = [index - page.TURN_FIRST for index in (page.EVTSEL + 1, page.PMC + 2, page.FIXED_CTR)]
    assert paged.page[page.REJECTED] == sum(1 << bit for bit in bits)
    assert paged.page[page.REJECT_REASON] == 0x187 << 32 | 1


@pytest.mark.rule("ERR-4")
def test_a_refused_word_is_restored_once_and_is_the_guests_again(paged: Paged) -> None:
    paged.stop()
    paged.page[page.PMC] = 1 << 60
    assert paged.commit() == FAULT_GP
    assert paged.page[page.PMC] == START
    paged.page[page.PMC] = 77
    assert paged.nmi(stray=True) == INJECT_NMI
    assert paged.page[page.PMC] == 77


@pytest.mark.rule("IMP-7")
def test_a_trapped_write_with_a_refused_page_word_faults_and_is_not_done(paged: Paged) -> None:
    paged.stop()
    paged.page[page.EVTSEL] = 1 << 50
    assert paged.write(0x4C1, 5) == FAULT_GP
    assert paged.read(0x4C1) == START


@pytest.mark.rule("IMP-3")
def test_lvtpc_taken_at_delivery_counts_as_seen(new_bench: New, new_traced_words: New) -> None:
    bench = new_bench()
    bench.write(msr.GLOBAL_CTRL, 0)
    bench.write(msr.LVTPC, NMI_MODE)
    words = new_traced_words(memoryview(bytearray(4096)).cast("Q"))
    half = HostPage(words, bench.vpmu, bench.delivery, frame=0, features=0, generation=1)
    half.publish()
    words.window[page.LVTPC] = NMI_MODE | MASKED
    half.deliver()
    assert bench.delivery.lvtpc == NMI_MODE | MASKED
    words.window[page.LVTPC] = NMI_MODE
    assert half.import_words()
    assert bench.delivery.lvtpc == NMI_MODE


@pytest.mark.rule("STP-5")
def test_a_write_that_leaves_something_live_is_no_stop_and_publishes_what_changed(
    paged: Paged,
) -> None:
    assert paged.write(0x187, MISSES & ~EN) == 0
    assert (paged.page[page.LIVE], paged.counting) == (FOUR & ~2, 3)
    assert paged.page[page.EVTSEL + 1] == MISSES & ~EN
    assert paged.write(msr.GLOBAL_CTRL, 1) == 0
    assert (paged.page[page.LIVE], paged.page[page.GLOBAL_CTRL], paged.counting) == (1, 1, 1)


@pytest.mark.rule("IMP-10")
@pytest.mark.parametrize(
    ("index", "value", "bit"),
    [
        (page.PMC + 5, 1, 1 << 5),
        (page.EVTSEL + 6, BRANCHES, 1 << 6),
        (page.FIXED_CTR + 2, 1, 1 << 34),
        (page.FIXED_CTR_CTRL, 0x3BB, 1 << 34),
    ],
)
def test_an_imported_change_marks_its_counter_in_use(
    paged: Paged, index: int, value: int, bit: int
) -> None:
    paged.stop()
    paged.host.vpmu.in_use = 0
    paged.page[index] = value
    paged.read(msr.GLOBAL_CTRL)
    assert paged.host.vpmu.in_use == bit


# Status ------------------------------------------------------------------------------------------


@pytest.mark.rule("STA-5")
def test_the_guests_acknowledgement_clears_status_at_any_exit(paged: Paged) -> None:
    paged.nmi(branches=1000, misses=1000)
    assert paged.status == 3
    paged.page[page.ACKED] ^= 1
    assert paged.read(msr.GLOBAL_STATUS) == 2
    assert paged.status == 2


@pytest.mark.rule("STA-1", "STA-2")
def test_a_second_overflow_of_an_acknowledged_bit_toggles_raised_again(paged: Paged) -> None:
    for _ in range(3):
        raised = paged.page[page.RAISED]
        assert paged.nmi(branches=1000) == INJECT_NMI
        assert paged.page[page.RAISED] == raised ^ 1
        paged.page[page.ACKED] ^= 1
        paged.page[page.PMC] = START
        assert paged.commit() == 0
        assert paged.status == 0


@pytest.mark.rule("STA-2")
def test_an_overflow_of_a_bit_that_is_set_toggles_nothing(paged: Paged) -> None:
    paged.nmi(branches=1000)
    paged.page[page.PMC] = START
    paged.commit(blocked=True)
    paged.nmi(blocked=True, branches=1000)
    assert (paged.status, paged.page[page.RAISED]) == (1, 1)


@pytest.mark.rule("STA-4")
def test_the_acknowledge_counts_spare_bits_are_no_status(paged: Paged) -> None:
    paged.nmi(branches=1000)
    paged.page[page.ACKED] = 1 | 7 << 40
    assert paged.read(msr.GLOBAL_STATUS) == 0
    assert paged.status == 0


@pytest.mark.rule("STA-6")
def test_a_trapped_ovf_ctrl_write_clears_status_in_the_page(paged: Paged) -> None:
    paged.nmi(branches=1000, misses=1000)
    assert paged.write(msr.OVF_CTRL, 1, blocked=True) == 0
    assert paged.status == 2
    assert paged.page[page.ACKED] == 0


@pytest.mark.rule("STP-4")
def test_an_overflow_that_preceded_the_stop_sets_status_while_frozen(paged: Paged) -> None:
    assert paged.write(msr.GLOBAL_CTRL, 0, branches=1000) == INJECT_NMI
    assert paged.page[page.LIVE] == 0
    assert paged.status == 1
    assert paged.host.delivery.counts.late == 1
    assert not paged.held
