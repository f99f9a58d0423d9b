"""The format files say where the raw fields are; they must be there."""

from __future__ import annotations

import re
import struct

import pytest

from pvpmu.recording.kvm import KvmEntry, KvmExit, KvmMsr
from pvpmu.recording.tracefmt import NAMES, formats, raw_event, tracing_data

FIELD = re.compile(r"field:[\w ]*?(\w+);\toffset:(\d+);\tsize:(\d+);")


def unpacked(number: int, raw: bytes) -> dict[str, int]:
    """Raw fields, as the event's format file says."""
    found = {}
    for name, offset, size in FIELD.findall(formats()[number]):
        at, length = int(offset), int(size)
        assert at + length <= len(raw)
        found[name] = int.from_bytes(raw[at : at + length], "little")
    return found


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (
            KvmExit(32, 0x8000_0202),
            {"exit_reason": 32, "isa": 1, "vcpu_id": 3, "intr_info": 0x8000_0202, "requests": 0},
        ),
        (KvmEntry(0x8000_0051), {"vcpu_id": 3, "intr_info": 0x8000_0051, "immediate_exit": 0}),
        (
            KvmMsr(write=True, ecx=0x38F, data=(1 << 64) - 2, fault=True),
            {"write": 1, "ecx": 0x38F, "data": (1 << 64) - 2, "exception": 1},
        ),
    ],
)
def test_every_field_lies_where_its_format_says(
    event: KvmExit | KvmEntry | KvmMsr, fields: dict[str, int]
) -> None:
    number, raw = raw_event(event, 4711, 3)
    found = unpacked(number, raw)
    assert found["common_type"] == number
    assert found["common_pid"] == 4711
    assert fields.items() <= found.items()


def test_a_format_names_its_event_and_number() -> None:
    for number, text in formats().items():
        assert text.startswith(f"name: {NAMES[number]}\nID: {number}\nformat:\n")
        assert "\nprint fmt: " in text


def test_exit_reasons_are_in_the_format() -> None:
    exit_format = next(text for text in formats().values() if "exit_reason" in text)
    for text in ('{ 32, "MSR_WRITE" }', '{ 0, "EXCEPTION_NMI" }', '{ 15, "RDPMC" }'):
        assert text in exit_format


def test_the_container_has_the_formats_whole() -> None:
    data = tracing_data()
    assert data.startswith(b"\x17\x08\x44tracing0.6\0")
    for text in formats().values():
        encoded = text.encode()
        assert struct.pack("<Q", len(encoded)) + encoded in data
