"""Save, restore and takeover of a vCPU, its page included."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import msgpack
import pytest

from pvpmu.host.migrate import VcpuState, restore, save, take_over
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.errors import UsageError
from pvpmu.shared.exits import INJECT_NMI, ExitReason
from pvpmu.shared.profile import KVM_6_12
from pvpmu.shared.registration import Request

New, Paged = Callable[..., Any], Any
ALL_ON, FOUR = 0x7_0000_00FF, 0x3_0000_0003
START = (1 << 48) - 1000
NMI_MODE = 0x400
FREEZE = page.FEATURE_FREEZE
REGISTRATION = {page.GENERATION, page.SEQ}


def moved(new_machine: New, source: Any, **changes: Any) -> Any:
    """Another machine with the same memory and the saved state, after its first VM-entry."""
    state = save(source.host)
    target = new_machine(**changes)
    target.memory[:] = source.memory
    restore(target.host, state)
    enter(target)
    return target


def enter(machine: Any) -> None:
    """The VM-entry that follows a call from outside."""
    machine.exit(ExitReason.FLOOR)


def registers(machine: Any) -> dict[int, int]:
    return save(machine.host).registers


@pytest.mark.rule("SAV-1")
def test_a_save_imports_first_and_leaves_everything_as_it_was(paged: Paged) -> None:
    paged.stop()
    paged.page[page.PMC] = 77
    paged.page[page.EVTSEL + 5] = 0x43_00C4
    first = save(paged.host)
    assert first.registers[0xC1] == 77
    assert first.registers[0x186 + 5] == 0x43_00C4
    assert save(paged.host) == first
    assert paged.page[page.LIVE] == 0
    assert paged.commit() == 0
    assert paged.page[page.LIVE] == FOUR | 1 << 5


@pytest.mark.rule("SAV-2")
def test_a_saved_state_is_plain_data_with_every_register(paged: Paged) -> None:
    paged.nmi(branches=1000)
    state = save(paged.host)
    assert VcpuState(**msgpack.unpackb(msgpack.packb(asdict(state)), strict_map_key=False)) == state
    single = {0x38D, 0x38E, 0x38F, 0x390, 0x834}
    banks = {*range(0x186, 0x18E), *range(0xC1, 0xC9), 0x309, 0x30A, 0x30B}
    assert state.registers.keys() == single | banks
    assert (state.held, state.freeze_seq, state.pmi_seq) == (True, 1, 1)


@pytest.mark.rule("SAV-6")
def test_a_stopped_page_goes_on_elsewhere_word_for_word(new_machine: New, paged: Paged) -> None:
    paged.stop()
    paged.page[page.PMC] = 77
    target = moved(new_machine, paged)
    changed = {i for i in range(page.PAGE.used // 8) if target.memory[i] != paged.page[i]}
    assert changed <= REGISTRATION
    assert registers(target) == registers(paged)


@pytest.mark.rule("SAV-3", "SAV-6", "GEN-1")
def test_running_counters_go_on_from_their_values_and_no_pmi_comes_of_the_move(
    new_machine: New, paged: Paged
) -> None:
    paged.nmi(branches=400)
    target = moved(new_machine, paged)
    assert target.memory[page.LIVE] == FOUR
    assert target.memory[page.GENERATION] != paged.page[page.GENERATION]
    assert target.rdpmc(0) == START + 400
    assert target.nmi(branches=599) == 0
    assert target.nmi(branches=1) == INJECT_NMI
    assert target.host.delivery.counts.raised == 1


@pytest.mark.rule("SAV-3", "SAV-6", "STA-8")
def test_a_hold_with_its_status_lasts_over_the_move_and_ends_by_commit(
    new_machine: New, paged: Paged
) -> None:
    paged.nmi(branches=1000)
    target = moved(new_machine, paged)
    words = target.memory
    assert words[page.LIVE] == 0
    assert words[page.FREEZE_SEQ] != words[page.RELEASE_SEQ]
    assert (words[page.RAISED] ^ words[page.ACKED]) & words[page.STATUS_MASK] == 1
    words[page.RELEASE_SEQ] = words[page.FREEZE_SEQ]
    assert target.write(msr.GLOBAL_CTRL, ALL_ON) == 0
    assert words[page.LIVE] == FOUR


@pytest.mark.rule("SAV-5")
@pytest.mark.parametrize("blocked", [False, True], ids=["outside", "inside a handler"])
def test_a_pmi_on_its_way_is_delivered_once_after_the_move(
    new_machine: New, paged: Paged, blocked: bool
) -> None:
    if blocked:
        # The second PMI waits for the handler of the first to end.
        paged.machine.host.page.freeze = False
        paged.nmi(branches=1000)
        paged.nmi(blocked=True, cycles=1000)
    else:
        paged.host.delivery.raise_pmi(in_guest=True)
    target = moved(new_machine, paged)
    assert [target.nmi() for _ in range(4)] == [INJECT_NMI, 0, 0, 0]
    counts = target.host.delivery.counts
    assert (counts.raised, counts.delivered) == (1, 1)


@pytest.mark.rule("SAV-2", "FEA-7")
def test_the_right_to_clear_the_mask_moves_along(new_machine: New) -> None:
    machine = new_machine(profile=KVM_6_12)
    machine.run_four()
    machine.register(features=FREEZE | page.FEATURE_LVTPC_AUTO)
    machine.nmi(branches=1000)
    target = moved(new_machine, machine, profile=KVM_6_12)
    target.memory[page.RELEASE_SEQ] = target.memory[page.FREEZE_SEQ]
    target.write(msr.GLOBAL_CTRL, ALL_ON)
    assert target.memory[page.LVTPC] == NMI_MODE


@pytest.mark.rule("SAV-3")
@pytest.mark.parametrize(
    ("address", "value"),
    [
        (0xC1, 1 << 48),
        (0x309, 1 << 50),
        (0x186, 1 << 21),
        (0x38D, 4),
        (0x38E, 1 << 20),
        (0x38F, 1 << 60),
        (0x390, 1 << 20),
        (0x834, 1 << 40),
    ],
)
def test_a_state_that_this_pmu_cannot_have_is_refused_and_changes_nothing(
    new_machine: New, paged: Paged, address: int, value: int
) -> None:
    state = save(paged.host)
    bad = replace(state, registers={**state.registers, address: value})
    target = new_machine()
    target.write(0x4C1, 5)
    with pytest.raises(UsageError, match=rf"^saved state: .*{address:#x}.* cannot be {value:#x}$"):
        restore(target.host, bad)
    assert target.read(0x4C1) == 5


@pytest.mark.rule("SAV-3")
def test_a_missing_register_and_another_version_are_refused(new_machine: New, paged: Paged) -> None:
    state = save(paged.host)
    fewer = {address: value for address, value in state.registers.items() if address != 0x38F}
    with pytest.raises(UsageError, match=r"register 0x38f is missing"):
        restore(new_machine().host, replace(state, registers=fewer))
    with pytest.raises(UsageError, match=r"version 1, this host reads 2"):
        restore(new_machine().host, replace(state, version=1))


@pytest.mark.rule("SAV-4", "END-2")
def test_a_host_without_the_feature_gives_the_page_up_and_counts_on(
    new_machine: New, paged: Paged
) -> None:
    paged.nmi(branches=1000)
    target = moved(new_machine, paged, freeze=False)
    assert (target.memory[page.VERSION], target.memory[page.GENERATION]) == (0, 0)
    assert target.read(msr.PV_PAGE) == 0
    assert target.nmi(branches=10) == 0
    assert target.rdpmc(0) == 10, "the hold ended with the registration"
    assert target.read(msr.GLOBAL_STATUS) == 1


@pytest.mark.rule("SAV-6")
def test_restoring_twice_is_restoring_once(new_machine: New, paged: Paged) -> None:
    paged.nmi(branches=1000)
    state = save(paged.host)
    target = new_machine()
    target.memory[:] = paged.memory
    restore(target.host, state)
    restore(target.host, state)
    again = save(target.host)
    assert replace(again, generation=0) == replace(state, generation=0)


@pytest.mark.rule("SAV-8", "GEN-1")
def test_a_takeover_takes_what_the_guest_owns_and_counts_itself(
    new_machine: New, paged: Paged
) -> None:
    paged.stop()
    paged.page[page.PMC] = 77
    paged.page[page.OVF_CTRL] = 1
    target = new_machine()
    target.memory[:] = paged.memory
    request = Request(address=0, version=1, features=FREEZE)
    assert take_over(target.host, request)
    enter(target)
    assert target.host.takeovers == 1
    assert target.memory[page.GENERATION] not in (0, paged.page[page.GENERATION])
    expected = {**registers(paged), 0x390: 1}
    assert registers(target) == expected
    assert target.write(msr.GLOBAL_CTRL, ALL_ON) == 0
    assert target.memory[page.LIVE] == FOUR


@pytest.mark.rule("SAV-8")
def test_a_takeover_loses_status_and_refuses_what_a_commit_would(
    new_machine: New, paged: Paged
) -> None:
    paged.nmi(branches=1000)
    target = new_machine()
    target.memory[:] = paged.memory
    assert take_over(target.host, Request(address=0, version=1, features=FREEZE))
    assert target.read(msr.GLOBAL_STATUS) == 0
    target.memory[page.PMC] = 1 << 50
    assert not take_over(target.host, Request(address=0, version=1, features=FREEZE))
    assert target.memory[page.VERSION] == target.memory[page.GENERATION] == 0


@pytest.mark.rule("SAV-7")
def test_every_store_to_guest_memory_is_a_dirty_frame(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    assert machine.host.dirty_frames == set()
    machine.register(number=2)
    assert machine.host.dirty_frames == {2}
    machine.host.dirty_frames.clear()
    machine.read(msr.CAPABILITIES)
    assert machine.host.dirty_frames == set(), "an exit that changes nothing stores nothing"
    machine.nmi(branches=1000)
    assert machine.host.dirty_frames == {2}
    machine.host.dirty_frames.clear()
    machine.write(msr.PV_PAGE, 0)
    assert machine.host.dirty_frames == {2}


@pytest.mark.rule("BND-16")
def test_the_live_entries_of_another_host_are_new_to_the_guest(new_machine: New) -> None:
    source = new_machine()
    source.run_four()
    state = save(source.host)
    seen = source.slot[exits.LIVE_VERSION]
    for _ in range(seen + 2):
        target = new_machine()
        target.slot[:] = source.slot
        restore(target.host, state)
        enter(target)
        assert target.slot[exits.LIVE_VERSION] != seen
        assert target.slot[exits.LIVE_COUNT] == 4
