"""The guest half of the page: which words each access touches, in which order."""

from __future__ import annotations

from typing import Any

import pytest

from pvpmu.guest.pvpage import GuestPage, compare_exchange_of, fixed_enables
from pvpmu.shared import page
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.page import PAGE_SIZE

ON = 0x7_0000_00FF
SPARE = 1 << 40


class Traced:
    """Words that log every access: ("load", index) or ("store", index, value)."""

    def __init__(self) -> None:
        self.values = [0] * (PAGE_SIZE // 8)
        self.log: list[tuple[Any, ...]] = []
        self.before_exchange: list[tuple[int, int]] = []

    def __getitem__(self, index: int) -> int:
        self.log.append(("load", index))
        return self.values[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.log.append(("store", index, value))
        self.values[index] = value

    def compare_exchange(self, index: int, expected: int, wanted: int) -> bool:
        while self.before_exchange:
            other, value = self.before_exchange.pop()
            self.values[other] = value
        done = self.values[index] == expected
        self.log.append(("exchange", index, wanted if done else None))
        if done:
            self.values[index] = wanted
        return done


class Rig:
    """A published page whose exits are logged among its accesses."""

    def __init__(self, cpuid: PmuCpuid | None = None, **words: int) -> None:
        cpuid = cpuid or PmuCpuid()
        self.words = traced = Traced()
        values = traced.values
        values[page.EVTSEL_RESERVED] = cpuid.evtsel_reserved
        values[page.FIXED_CTRL_RESERVED] = cpuid.fixed_ctrl_reserved
        values[page.GLOBAL_CTRL_RESERVED] = cpuid.global_ctrl_reserved
        values[page.OVF_CTRL_RESERVED] = cpuid.ovf_ctrl_reserved
        values[page.LVTPC_DROPPED] = ~0x1_17FF & (1 << 64) - 1
        values[page.GP_MASK] = cpuid.gp_mask
        values[page.FIXED_MASK] = cpuid.fixed_mask
        values[page.STATUS_MASK] = cpuid.counters
        for name, value in words.items():
            values[getattr(page, name)] = value
        log = traced.log

        def exit_read(address: int) -> int:
            log.append(("exit rdmsr", address))
            return 42

        def exit_rdpmc(ecx: int) -> int:
            log.append(("exit rdpmc", ecx))
            return 43

        def exit_write(address: int, value: int) -> None:
            log.append(("exit wrmsr", address, value))

        self.page = GuestPage(
            traced, cpuid, exit_read=exit_read, exit_rdpmc=exit_rdpmc, exit_write=exit_write
        )
        log.clear()

    def taken(self) -> list[tuple[Any, ...]]:
        """The log so far; it starts anew."""
        log = list(self.words.log)
        self.words.log.clear()
        return log


@pytest.mark.rule("ACC-2", "STA-1")
def test_status_loads_pmi_seq_then_acked_then_raised_then_acked_again() -> None:
    rig = Rig(RAISED=0b101, ACKED=0b001)
    for routes in (rig.page.frozen, rig.page.running):
        assert routes.read[0x38E]() == 0b100
        loads = [page.PMI_SEQ, page.ACKED, page.RAISED, page.ACKED]
        assert rig.taken() == [("load", index) for index in loads]


@pytest.mark.rule("PMI-8")
def test_the_first_status_read_after_a_pmi_acknowledges_it_once() -> None:
    rig = Rig()
    rig.words.values[page.PMI_SEQ] = 5
    rig.page.frozen.read[0x38E]()
    assert ("store", page.PMI_ACK, 5) in rig.taken()
    rig.page.frozen.read[0x38E]()
    assert [entry for entry in rig.taken() if entry[0] == "store"] == []


@pytest.mark.rule("STA-4")
def test_status_shows_no_spare_bits() -> None:
    rig = Rig(RAISED=1, ACKED=0x3F << 50 | 1 << 39)
    assert rig.page.running.read[0x38E]() == 1


@pytest.mark.rule("ACC-2", "STA-3")
def test_an_ack_loads_acked_then_raised_then_exchanges_and_stores_the_command_last() -> None:
    rig = Rig(RAISED=0b111, ACKED=0b001)
    rig.page.running.acknowledge(0b011)
    assert rig.taken() == [
        ("load", page.ACKED),
        ("load", page.RAISED),
        ("exchange", page.ACKED, SPARE | 0b011),
        ("store", page.OVF_CTRL, 0b011),
    ]


@pytest.mark.rule("STA-3")
def test_an_ack_of_clear_bits_toggles_nothing() -> None:
    rig = Rig(RAISED=0b01, ACKED=0b01)
    rig.page.frozen.acknowledge(0b11)
    assert rig.taken() == [
        ("load", page.ACKED),
        ("load", page.RAISED),
        ("store", page.OVF_CTRL, 0b11),
    ]


@pytest.mark.rule("ACC-3")
def test_an_ack_that_a_handler_overtook_starts_again() -> None:
    rig = Rig(RAISED=0b11)
    # A handler acknowledged bit 0 meanwhile.
    rig.words.before_exchange = [(page.ACKED, SPARE | 0b01)]
    rig.page.running.acknowledge(0b11)
    loads = [("load", page.ACKED), ("load", page.RAISED)]
    assert rig.taken() == [
        *loads,
        ("exchange", page.ACKED, None),
        *loads,
        ("exchange", page.ACKED, 2 * SPARE | 0b11),
        ("store", page.OVF_CTRL, 0b11),
    ]


@pytest.mark.rule("STA-4")
def test_the_count_against_aba_wraps_within_its_bits() -> None:
    rig = Rig(RAISED=1, ACKED=((1 << 24) - 1) << 40)
    rig.page.frozen.acknowledge(1)
    assert rig.words.values[page.ACKED] == 1


@pytest.mark.rule("ACC-4")
def test_an_ack_of_reserved_bits_exits_and_touches_nothing() -> None:
    rig = Rig(RAISED=1)
    rig.page.frozen.acknowledge(1 << 20 | 1)
    assert rig.taken() == [("exit wrmsr", 0x390, 1 << 20 | 1)]


@pytest.fixture
def plain() -> tuple[memoryview[int], GuestPage, list[tuple[int, int]]]:
    """A page over plain words, where no NMI can come between; and the writes that exited."""
    words = memoryview(bytearray(page.PAGE_SIZE)).cast("Q")
    cpuid = PmuCpuid()
    words[page.STATUS_MASK] = cpuid.counters
    words[page.OVF_CTRL_RESERVED] = cpuid.ovf_ctrl_reserved
    exited: list[tuple[int, int]] = []
    made = GuestPage(
        words,
        cpuid,
        exit_read=lambda _: 0,
        exit_rdpmc=lambda _: 0,
        exit_write=lambda address, value: exited.append((address, value)),
    )
    return words, made, exited


COUNT_ONE = 1 << 40


@pytest.mark.parametrize(
    ("raised", "acked", "value", "wanted"),
    [
        (0b11, 0, 0b01, 0b01 | COUNT_ONE),
        (0b11, 0b10, 0b11, 0b11 | COUNT_ONE),
        (0b00, 0b10, 0b10, 0b00 | COUNT_ONE),
        (0, 0, 0b100, 0),
        (1, 0, 1 | 3 << 62, 1 | COUNT_ONE),
        (1, 0xFFFFFF << 40, 3 << 62, 0xFFFFFF << 40),
        (1, 0xFFFFFF << 40, 1, 1),
    ],
)
def test_an_ack_where_nothing_can_come_between_clears_what_is_set(
    plain: Any, raised: int, acked: int, value: int, wanted: int
) -> None:
    words, made, exited = plain
    words[page.RAISED], words[page.ACKED] = raised, acked
    made.frozen.acknowledge(value)
    assert words[page.ACKED] == wanted
    assert words[page.OVF_CTRL] == value
    assert exited == []


@pytest.mark.parametrize("value", [1 << 8, 1 << 40, 1 << 41, 1 << 61, 1 | 1 << 35])
def test_an_ack_of_a_spare_bit_exits_even_where_the_count_has_it_set(
    plain: Any, value: int
) -> None:
    words, made, exited = plain
    words[page.RAISED], words[page.ACKED] = 1, 0xFFFFFF << 40
    made.frozen.acknowledge(value)
    assert exited == [(0x390, value)]
    assert words[page.ACKED] == 0xFFFFFF << 40
    assert words[page.OVF_CTRL] == 0


def test_the_word_of_ovf_ctrl_follows_every_change_of_the_value(plain: Any) -> None:
    words, made, _ = plain
    for value in (1, 1, 2, 0, 3 << 62, 1):
        made.running.acknowledge(value)
        assert words[page.OVF_CTRL] == value


@pytest.mark.rule("ACC-2", "PG-10")
@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (0x7FFF_FFFF, 0x7FFF_FFFF),
        (0x8000_0000, 0xFFFF_8000_0000),
        (0x1234_0000_0001, 1),
        (0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF),
    ],
)
def test_a_legacy_counter_write_keeps_32_bits_and_extends_the_sign(value: int, stored: int) -> None:
    rig = Rig()
    rig.page.frozen.write[0xC2](value)
    assert rig.taken() == [("store", page.PMC + 1, stored)]


@pytest.mark.rule("ACC-1", "ACC-12")
@pytest.mark.parametrize(
    ("address", "index", "allowed"),
    [
        (0x4C1, page.PMC, (1 << 48) - 1),
        (0x4C8, page.PMC + 7, (1 << 48) - 1),
        (0x30B, page.FIXED_CTR + 2, (1 << 48) - 1),
        (0x834, page.LVTPC, 0x1_17FF),
    ],
)
def test_a_frozen_plain_word_is_written_unless_a_bit_must_exit(
    address: int, index: int, allowed: int
) -> None:
    word, must_exit = Rig().page.frozen.write_word[address]
    assert word == index
    assert must_exit == ~allowed & (1 << 64) - 1


EN = 1 << 22


@pytest.mark.rule("ACC-2", "CMT-1")
@pytest.mark.parametrize(
    ("words", "value", "exits"),
    [
        ({"GLOBAL_CTRL": 0}, EN, False),
        ({"GLOBAL_CTRL": 0b10}, EN, True),  # it is PMC1's bit: this makes it live
        ({"GLOBAL_CTRL": 0b01}, EN, False),
        ({"GLOBAL_CTRL": 0b10}, 0xC4, False),
        ({"GLOBAL_CTRL": 0b10, "FREEZE_SEQ": 4, "RELEASE_SEQ": 3}, EN, False),  # a hold
        ({"GLOBAL_CTRL": 0}, 1 << 21, True),
        ({"GLOBAL_CTRL": 0}, 1 << 32, True),
    ],
)
def test_a_frozen_selector_write_exits_only_to_start_or_to_fault(
    words: dict[str, int], value: int, exits: bool
) -> None:
    rig = Rig(**words)
    rig.page.frozen.write[0x187](value)
    last = ("exit wrmsr", 0x187, value) if exits else ("store", page.EVTSEL + 1, value)
    log = rig.taken()
    assert log[-1] == last
    assert sum(entry[0] == "store" for entry in log) == (not exits)


@pytest.mark.rule("ACC-2", "CMT-1")
@pytest.mark.parametrize(
    ("words", "value", "exits"),
    [
        ({"GLOBAL_CTRL": 0}, 0xBB, False),
        ({"GLOBAL_CTRL": ON}, 0xB0, True),
        ({"GLOBAL_CTRL": 1 << 32}, 0xB0, False),
        ({"GLOBAL_CTRL": 0xFF}, 0xBB, False),
        ({"GLOBAL_CTRL": ON}, 0x888, False),  # PMI bits alone enable nothing
        ({"GLOBAL_CTRL": ON, "FREEZE_SEQ": 1}, 0xBB, False),
        ({"GLOBAL_CTRL": 0}, 0x4, True),
        ({"GLOBAL_CTRL": 0}, 0x1000, True),
    ],
)
def test_a_frozen_fixed_control_write_exits_only_to_start_or_to_fault(
    words: dict[str, int], value: int, exits: bool
) -> None:
    rig = Rig(**words)
    rig.page.frozen.write[0x38D](value)
    last = ("exit wrmsr", 0x38D, value) if exits else ("store", page.FIXED_CTR_CTRL, value)
    assert rig.taken()[-1] == last


def _stores(log: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [entry for entry in log if entry[0] != "load"]


@pytest.mark.rule("ACC-2", "CMT-2", "FRZ-6")
def test_a_commit_ends_the_hold_and_carries_its_value_in_the_exit() -> None:
    rig = Rig(FREEZE_SEQ=8, RELEASE_SEQ=7, FIXED_CTR_CTRL=0xB)
    rig.page.frozen.write[0x38F](ON)
    assert _stores(rig.taken()) == [("exchange", page.RELEASE_SEQ, 8), ("exit wrmsr", 0x38F, ON)]
    assert not rig.page.held


@pytest.mark.rule("CMT-1", "CMT-2")
@pytest.mark.parametrize("enables", [{"FIXED_CTR_CTRL": 0xB0}, {"EVTSEL": EN}])
def test_a_global_write_that_makes_a_counter_live_is_a_commit(enables: dict[str, int]) -> None:
    rig = Rig(**enables)
    rig.page.frozen.write[0x38F](ON)
    assert _stores(rig.taken()) == [("exit wrmsr", 0x38F, ON)]


@pytest.mark.rule("ACC-2", "FRZ-6")
@pytest.mark.parametrize("value", [0, ON, 0b10])
def test_a_global_write_that_starts_nothing_is_stored_before_the_hold_ends(value: int) -> None:
    rig = Rig(FREEZE_SEQ=1, EVTSEL=EN if value == 0b10 else 0)
    rig.page.frozen.write[0x38F](value)
    assert _stores(rig.taken()) == [
        ("store", page.GLOBAL_CTRL, value),
        ("exchange", page.RELEASE_SEQ, 1),
    ]


@pytest.mark.rule("FRZ-8")
def test_a_global_write_of_reserved_bits_exits_and_keeps_the_hold() -> None:
    rig = Rig(FREEZE_SEQ=1)
    rig.page.frozen.write[0x38F](1 << 20)
    assert rig.taken() == [("exit wrmsr", 0x38F, 1 << 20)]
    assert rig.page.held


@pytest.mark.rule("ACC-2", "ACC-6", "OWN-8")
@pytest.mark.parametrize(
    ("address", "name"),
    [(0x38F, "GLOBAL_CTRL"), (0x38D, "FIXED_CTR_CTRL"), (0x834, "LVTPC"), (0x186, "EVTSEL")],
)
def test_while_running_the_same_value_does_nothing_and_another_exits(
    address: int, name: str
) -> None:
    rig = Rig(**{name: 7})
    rig.page.running.write[address](7)
    assert rig.taken() == [("load", getattr(page, name))]
    rig.page.running.write[address](3)
    assert rig.taken() == [("load", getattr(page, name)), ("exit wrmsr", address, 3)]


@pytest.mark.rule("ACC-1")
def test_while_running_counter_writes_are_in_no_table_and_so_exit() -> None:
    routes = Rig().page.running
    for address in (0xC1, 0x4C1, 0x309):
        assert address not in routes.write
        assert address not in routes.write_word


@pytest.mark.rule("ACC-1", "ACC-2")
def test_while_running_a_live_counter_exits_and_a_dead_one_is_loaded() -> None:
    rig = Rig(LIVE=1 << 32 | 1, PMC=5, FIXED_CTR=6)
    rig.words.values[page.PMC + 1] = 9
    running = rig.page.running
    assert [running.read[address]() for address in (0xC1, 0x4C1, 0x309)] == [42, 42, 42]
    assert [running.rdpmc[ecx]() for ecx in (0, 1 << 30)] == [43, 43]
    assert [running.read[0x4C2](), running.rdpmc[1](), running.read[0x30A]()] == [9, 9, 0]


@pytest.mark.rule("ACC-10")
def test_only_existing_registers_are_routed() -> None:
    made = Rig(PmuCpuid(gp=2, fixed=1)).page
    routes = made.frozen
    assert set(routes.rdpmc_word) == {0, 1, 1 << 30}
    assert 0x188 not in routes.write
    assert 0x30A not in routes.write_word
    assert set(made.running.rdpmc) == {0, 1, 1 << 30}


@pytest.mark.rule("ACC-9")
def test_fast_and_absent_rdpmc_indices_exit() -> None:
    routes = Rig().page.frozen
    for ecx in (1 << 31, 64, 8, 1 << 30 | 3):
        assert ecx not in routes.rdpmc_word
        assert ecx not in routes.rdpmc


@pytest.mark.rule("OWN-1")
@pytest.mark.parametrize(
    ("control", "enabled"), [(0, 0), (0xB, 1), (0x1, 1), (0x2, 1), (0x8, 0), (0x280, 4), (0xBBB, 7)]
)
def test_a_nibble_enables_its_counter_by_its_two_low_bits(control: int, enabled: int) -> None:
    assert fixed_enables(control) == enabled


def test_plain_words_need_no_compare_exchange() -> None:
    assert compare_exchange_of(memoryview(bytearray(16)).cast("Q")) is None


DECLARED = {
    index for field in page.PAGE.fields for index in range(field.index, field.index + field.count)
}


@pytest.mark.rule("VER-3")
def test_no_access_touches_a_word_that_version_1_does_not_declare() -> None:
    rig = Rig(RAISED=0b11, GLOBAL_CTRL=ON)
    for index in set(range(PAGE_SIZE // 8)) - DECLARED:
        rig.words.values[index] = 0xDEAD_BEEF_DEAD_BEEF
    made, touched = rig.page, set()
    for routes in (made.frozen, made.running):
        for read in (*routes.read.values(), *routes.rdpmc.values()):
            read()
        for write in (*routes.write.values(), routes.acknowledge):
            for value in (0, 1, EN, ON):
                write(value)
        words = [*routes.read_word.values(), *routes.rdpmc_word.values()]
        touched |= {*words, *(word for word, _ in routes.write_word.values())}
    touched |= {entry[1] for entry in rig.taken() if not entry[0].startswith("exit")}
    assert touched <= DECLARED
    assert len(touched) > 2 * 8
