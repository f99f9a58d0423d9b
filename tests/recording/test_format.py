"""Records are words; what a guest may give does not fit, and is cut."""

import pytest

from pvpmu.recording.format import RECORD, RECORD_BYTES, Kind, head_of, record_of


def test_a_record_is_six_words_of_eight_bytes() -> None:
    assert RECORD_BYTES == RECORD.size == 48


def test_a_head_comes_apart_as_it_was_put_together() -> None:
    record = record_of((1, 2, 3, head_of(Kind.EXIT, 32, 1, 0xC000_0080), 4, 5))
    assert record == (1, 2, 3, Kind.EXIT, 32, 1, 0xC000_0080, 4, 5)


@pytest.mark.parametrize("huge", [1 << 40, (1 << 64) - 1])
def test_what_does_not_fit_in_a_field_spoils_no_other(huge: int) -> None:
    record = record_of((0, 0, 0, head_of(Kind.MSR, huge, huge, huge), 0, 0))
    assert record.kind == Kind.MSR
    assert (record.code, record.flags, record.detail) == (
        huge & 0xFF,
        huge & 0xFFFF,
        huge & 0xFFFF_FFFF,
    )


def test_the_numbers_of_the_file_never_change() -> None:
    assert {kind.name: int(kind) for kind in Kind} == {
        "EXIT": 1,
        "MSR": 2,
        "ENTRY": 3,
        "PERF_CALL": 4,
        "PMI": 5,
        "STATE": 6,
        "MARK": 7,
        "ACCESS": 16,
        "HANDLER_ENTRY": 17,
        "HANDLER_EXIT": 18,
        "SAMPLE": 19,
        "OPERATION": 20,
    }
