"""Registering, publishing and unregistering a page."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.exits import FAULT_GP, ExitReason

New = Callable[..., Any]
ALL_ON, FOUR = 0x7_0000_00FF, 0x3_0000_0003
START = (1 << 48) - 1000
FREEZE = page.FEATURE_FREEZE
U64 = (1 << 64) - 1
V1 = page.PAGE_VERSION << 8


@pytest.mark.rule("FEA-2", "FRE-1", "REG-7", "VER-2")
def test_registration_publishes_header_masks_and_registers(new_machine: New) -> None:
    machine = new_machine(cpuid=PmuCpuid(gp=4, fixed=2, fixed_width=40))
    machine.run_four()
    words = machine.register()
    assert words[page.VERSION] == 1
    assert words[page.SIZE] == page.PAGE.used
    assert words[page.FEATURES] == FREEZE
    assert words[page.GENERATION] == 1
    assert words[page.EVTSEL_RESERVED] == 0xFFFF_FFFF_0020_0000
    assert words[page.FIXED_CTRL_RESERVED] == U64 & ~0xBB
    assert words[page.GLOBAL_CTRL_RESERVED] == U64 & ~0x3_0000_000F
    assert words[page.OVF_CTRL_RESERVED] == 0x3FFF_FFFC_FFFF_FFF0
    assert words[page.LVTPC_DROPPED] == U64 & ~0x1_17FF
    assert words[page.GP_MASK] == (1 << 48) - 1
    assert words[page.FIXED_MASK] == (1 << 40) - 1
    assert words[page.STATUS_MASK] == 0x3_0000_000F


@pytest.mark.rule("OWN-3", "REG-7", "REG-9")
def test_a_page_registered_while_counting_is_running(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    words = machine.register()
    assert words[page.LIVE] == FOUR
    assert words[page.GLOBAL_CTRL] == ALL_ON
    assert words[page.FIXED_CTR_CTRL] == 0xBB
    assert words[page.LVTPC] == 0x400
    assert words[page.EVTSEL : page.EVTSEL + 2].tolist() == [0x5300C4, 0x53412E]
    assert words[page.FREEZE_SEQ] == words[page.RELEASE_SEQ]


@pytest.mark.rule("OWN-3", "REG-7")
def test_a_page_registered_while_stopped_is_frozen_with_current_counters(
    new_machine: New,
) -> None:
    machine = new_machine()
    machine.program_four()
    words = machine.register()
    assert words[page.LIVE] == 0
    assert words[page.PMC : page.PMC + 2].tolist() == [START] * 2
    assert words[page.FIXED_CTR : page.FIXED_CTR + 3].tolist() == [START, START, 0]


@pytest.mark.rule("PG-5", "REG-7")
def test_garbage_in_the_guests_memory_is_overwritten_or_taken_as_the_guests_half(
    new_machine: New,
) -> None:
    machine = new_machine()
    machine.run_four()
    machine.write(0x4C1, (1 << 48) - 1)
    machine.nmi(branches=1)
    for index in range(512):
        machine.memory[index] = 0xDEAD_BEEF_0000_0001 + (index << 32)
    before = machine.memory[:512].tolist()
    words = machine.register()
    assert (words[page.RAISED] ^ words[page.ACKED]) & words[page.STATUS_MASK] == 1
    assert words[page.FREEZE_SEQ] == words[page.RELEASE_SEQ]
    assert words[page.PMI_SEQ] == words[page.PMI_ACK]
    assert words[page.SEQ] % 2 == 0
    guest = [page.ACKED, page.RELEASE_SEQ, page.PMI_ACK, page.OVF_CTRL]
    tail = range(page.PAGE.used // 8, 512)
    assert all(words[index] == before[index] for index in (*guest, *tail))
    assert words[page.NOT_COUNTING] == words[page.REJECTED] == words[page.REJECT_REASON] == 0


@pytest.mark.rule("PG-7")
def test_the_ready_word_is_stored_after_every_word_it_announces(new_machine: New) -> None:
    machine = new_machine()
    machine.register()
    stores = machine.traced.windows[-1].stores()
    assert (stores[0], stores[-1]) == (page.SEQ, page.SEQ)
    assert stores[-2] == page.VERSION
    assert stores.count(page.VERSION) == 1
    assert {page.SIZE, page.LIVE, page.GLOBAL_CTRL, page.PMC} <= set(stores[:-2])


@pytest.mark.rule("REG-1", "REG-3", "REG-4", "SEC-1")
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (4 * 4096 | V1 | 1, 2),
        (U64 & ~0xFFF | V1 | 1, 2),
        # The first check that fails names the code.
        (4 * 4096 | 1 << 4 | 1, 2),
        (1, 5),
        (0xF00 | 1 << 4 | 1, 5),
        (1 << 4 | V1 | 1, 3),
        (FREEZE | 1 << 7 | V1 | 1, 3),
        (0, 0),
        (4096 | V1 | FREEZE, 0),
    ],
)
def test_a_refused_or_empty_registration_leaves_a_code_and_everything_traps(
    new_machine: New, value: int, code: int
) -> None:
    machine = new_machine()
    machine.run_four()
    assert machine.write(msr.PV_PAGE, value) == 0
    assert (machine.read(msr.PV_STATUS), machine.read(msr.PV_PAGE)) == (code, 0)
    assert not any(machine.memory)
    assert machine.read(msr.GLOBAL_CTRL) == ALL_ON
    assert machine.traced.windows == []


def test_freeze_that_the_design_does_not_offer_is_an_unknown_feature(new_machine: New) -> None:
    machine = new_machine(freeze=False)
    machine.write(msr.PV_PAGE, FREEZE | V1 | 1)
    assert machine.read(msr.PV_STATUS) == 3
    machine.write(msr.PV_PAGE, V1 | 1)
    assert machine.read(msr.PV_STATUS) == 1


@pytest.mark.rule("REG-5")
def test_the_last_page_of_memory_can_be_registered(new_machine: New) -> None:
    machine = new_machine()
    words = machine.register(number=3)
    assert words[page.VERSION] == 1
    assert machine.read(msr.PV_PAGE) == 3 * 4096 | V1 | FREEZE | 1


@pytest.mark.rule("REG-1")
def test_the_status_register_is_read_only(new_machine: New) -> None:
    machine = new_machine()
    machine.register()
    assert machine.write(msr.PV_STATUS, 1) == FAULT_GP


# Publication -------------------------------------------------------------------------------------


@pytest.mark.rule("PG-9", "PG-12")
def test_an_exit_that_changes_nothing_stores_nothing(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    machine.register()
    words = machine.traced_page()
    machine.nmi(branches=10)
    machine.exit(ExitReason.HLT)
    machine.rdpmc(0)
    assert words.stores() == []


@pytest.mark.rule("PG-7", "PG-9")
def test_a_publication_stores_only_what_changed_between_two_stores_of_seq(
    new_machine: New,
) -> None:
    machine = new_machine()
    machine.run_four()
    window = machine.register()
    words, seq = machine.traced_page(), window[page.SEQ]
    machine.write(0x188, 0x5300C5)
    assert words.stores()[0] == words.stores()[-1] == page.SEQ
    assert sorted(words.stores()[1:-1]) == sorted([page.EVTSEL + 2, page.LIVE])
    assert window[page.SEQ] == seq + 2


@pytest.mark.rule("PG-8")
def test_the_host_loads_nothing_of_the_guests_after_its_first_store(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    machine.register()
    words = machine.traced_page()
    machine.write(msr.GLOBAL_CTRL, 0)
    machine.write(msr.GLOBAL_CTRL, ALL_ON)
    kinds = [kind for kind, index in words.log if index != page.ACKED]
    # STOP loads nothing but stores; COMMIT loads, then stores.
    first = kinds.index("load")
    assert kinds[:first] == ["store"] * first
    second = kinds.index("store", first)
    assert kinds[second:] == ["store"] * (len(kinds) - second)


@pytest.mark.rule("FRE-11", "STP-2", "STP-3")
def test_a_running_counters_word_is_left_stale_and_stop_publishes_it(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    window = machine.register()
    machine.write(msr.OVF_CTRL, 0, branches=10)
    assert window[page.PMC] == START
    machine.write(msr.GLOBAL_CTRL, 0, branches=5)
    assert window[page.PMC] == START + 15
    assert window[page.LIVE] == window[page.GLOBAL_CTRL] == 0


@pytest.mark.rule("FRE-7")
def test_enabled_counters_that_do_not_count_are_published(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    machine.write(0x187, 0x537777)
    window = machine.register()
    assert (window[page.LIVE], window[page.NOT_COUNTING]) == (FOUR, 2)


# Unregistering -----------------------------------------------------------------------------------


def test_unregistering_takes_the_ready_word_away_and_imports_first(new_machine: New) -> None:
    machine = new_machine()
    machine.program_four()
    window = machine.register()
    window[page.PMC] = 1234
    machine.write(msr.PV_PAGE, 0)
    assert window[page.VERSION] == 0
    assert machine.read(0x4C1) == 1234
    assert (machine.read(msr.PV_STATUS), machine.read(msr.PV_PAGE)) == (0, 0)
    words = machine.traced_page()
    machine.write(msr.GLOBAL_CTRL, ALL_ON)
    machine.nmi(branches=5)
    assert words.log == []


@pytest.mark.rule("END-4", "FRZ-9")
def test_unregistering_during_a_hold_starts_what_is_enabled(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    machine.register()
    machine.nmi(branches=1000)
    machine.write(msr.PV_PAGE, 0)
    machine.nmi(misses=3)
    assert machine.read(0x4C2) == START + 3


@pytest.mark.rule("REG-2")
def test_registering_again_moves_to_the_new_page_under_a_new_generation(
    new_machine: New,
) -> None:
    machine = new_machine()
    machine.run_four()
    old = machine.register(number=0)
    new = machine.register(number=2)
    assert (old[page.VERSION], new[page.VERSION]) == (0, 1)
    assert new[page.GENERATION] == 2
    before = old.tolist()
    machine.write(msr.GLOBAL_CTRL, 0)
    assert old.tolist() == before
    assert new[page.LIVE] == 0


@pytest.mark.rule("STA-8")
def test_status_survives_a_change_of_page(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    machine.register()
    machine.nmi(branches=1000)
    window = machine.register(number=1)
    assert (window[page.RAISED] ^ window[page.ACKED]) & FOUR == 1
    assert machine.read(msr.GLOBAL_STATUS) == 1
