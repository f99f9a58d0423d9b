"""The page's layout: owners, lines, words of registers."""

import pytest

from pvpmu.shared import page, registration
from pvpmu.shared.layout import LINE_BYTES, Owner
from pvpmu.shared.registers import BY_ADDRESS, REGISTERS, Role


@pytest.mark.rule("PG-3")
def test_no_cache_line_has_two_owners() -> None:
    owners: dict[int, set[Owner]] = {}
    for field in page.PAGE.fields:
        for byte in range(field.offset, field.offset + field.size, 8):
            owners.setdefault(byte // LINE_BYTES, set()).add(field.owner)
    assert all(len(owner) == 1 for owner in owners.values())


@pytest.mark.rule("PG-1")
def test_words_do_not_overlap_and_fit_the_page() -> None:
    taken = [
        index
        for field in page.PAGE.fields
        for index in range(field.index, field.index + field.count)
    ]
    assert len(taken) == len(set(taken))
    assert max(taken) * 8 + 8 == page.PAGE.used <= page.PAGE_SIZE == 4096


def test_the_ready_word_is_the_first_of_the_page() -> None:
    assert page.VERSION == 0


def test_the_turn_words_are_one_range_that_holds_every_turn_word_and_no_other() -> None:
    for field in page.PAGE.fields:
        inside = field.index >= page.TURN_FIRST and field.index + field.count <= page.TURN_END
        assert inside is (field.owner is Owner.TURN), field.name


@pytest.mark.rule("ACC-14", "PG-4")
@pytest.mark.parametrize(
    ("address", "index"),
    [
        (0xC1, page.PMC),
        (0x4C1, page.PMC),
        (0xC8, page.PMC + 7),
        (0x4C8, page.PMC + 7),
        (0x186, page.EVTSEL),
        (0x18D, page.EVTSEL + 7),
        (0x309, page.FIXED_CTR),
        (0x30B, page.FIXED_CTR + 2),
        (0x38D, page.FIXED_CTR_CTRL),
        (0x38F, page.GLOBAL_CTRL),
        (0x834, page.LVTPC),
    ],
)
def test_each_register_has_its_word_and_both_counter_aliases_share_one(
    address: int, index: int
) -> None:
    assert page.WORD_OF[address] == index


def test_status_its_clear_and_the_paravirtual_registers_have_no_turn_word() -> None:
    without = {register.address for register in REGISTERS} - set(page.WORD_OF)
    assert {BY_ADDRESS[address].role for address in without} == {
        Role.GLOBAL_STATUS,
        Role.OVF_CTRL,
        Role.CAPABILITIES,
        Role.PV_PAGE,
        Role.PV_STATUS,
    }


def test_feature_bits_stay_clear_of_the_enable_bit_and_the_address() -> None:
    assert page.FEATURES_KNOWN & (registration.ENABLE | ~0xFFF) == 0
    assert page.FEATURE_FREEZE & page.FEATURES_KNOWN
