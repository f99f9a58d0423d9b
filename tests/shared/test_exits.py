"""Exit reasons and the slot."""

import pytest

from pvpmu.shared import exits
from pvpmu.shared.exits import SLOT_SIZE, ExitReason, SlotWords, load_words, store_words
from pvpmu.shared.layout import LINE_BYTES, WORD_BYTES, Owner


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("EXCEPTION_NMI", 0),
        ("NMI_WINDOW", 8),
        ("CPUID", 10),
        ("HLT", 12),
        ("RDPMC", 15),
        ("MSR_READ", 31),
        ("MSR_WRITE", 32),
    ],
)
def test_exit_reasons_carry_vmx_numbers(name: str, number: int) -> None:
    assert ExitReason[name] == number


def test_reasons_of_our_own_stand_above_every_hardware_reason() -> None:
    own = {ExitReason.FLOOR, ExitReason.CONTROL, ExitReason.OVERFLOW}
    own |= {ExitReason.PASSED_READ, ExitReason.PASSED_WRITE, ExitReason.PASSED_RDPMC}
    assert {reason for reason in ExitReason if reason >= 0x80} == own


def test_request_flags_and_reply_flags_are_single_distinct_bits() -> None:
    request = [exits.NMI_BLOCKED, exits.RETIRED_USER, exits.RETIRED_KERNEL, exits.STRAY_PMI]
    reply = [exits.FAULT_GP, exits.INJECT_NMI, exits.WANT_NMI_WINDOW]
    for flags in (request, reply):
        assert all(flag.bit_count() == 1 for flag in flags)
        assert len(set(flags)) == len(flags)
    assert not any(flag & exits.REASON_MASK for flag in request)


def test_no_cache_line_of_the_slot_has_two_owners() -> None:
    owners: dict[int, set[Owner]] = {}
    for field in exits.SLOT.fields:
        for byte in range(field.offset, field.offset + field.size, 8):
            owners.setdefault(byte // LINE_BYTES, set()).add(field.owner)
    assert all(len(owner) == 1 for owner in owners.values())
    assert exits.SLOT.used <= exits.SLOT_SIZE


def test_the_live_entries_have_room_for_every_physical_counter() -> None:
    (live,) = [field for field in exits.SLOT.fields if field.name == "live"]
    assert live.count >= 2 * (8 + 3)


def test_the_signature_spells_its_twelve_bytes() -> None:
    text = b"".join(word.to_bytes(4, "little") for word in exits.SIGNATURE)
    assert text == b"PVPMUPVPMUPV"


@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "inline"])
def test_words_of_a_slot_are_loaded_as_they_were_stored(shared: bool) -> None:
    empty = [0] * (SLOT_SIZE // WORD_BYTES)
    slot: SlotWords = memoryview(bytearray(SLOT_SIZE)).cast("Q") if shared else empty.copy()
    words = [1, 2**64 - 1, 3]
    store_words(slot, 5, words)
    assert load_words(slot, 5, 3) == words
    words[0] = 9
    expected = [*empty[:5], 1, 2**64 - 1, 3, *empty[8:]]
    assert load_words(slot, 0, len(empty)) == expected
