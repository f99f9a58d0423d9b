"""The text of one event line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvpmu.trace.eventtext import (
    is_event,
    ns_of,
    parse_msr,
    reason_named,
    reason_text,
    value_of,
)
from pvpmu.trace.names import READ, WRITE

AT = "       CPU 0/KVM-4242    [002] d....   951.009747: "


def test_values_are_read_back_from_an_event() -> None:
    assert value_of(b"msr_write 38f = 0x70000000f") == 0x70000000F
    assert value_of(b" write=1 ecx=390 data=0xf exception=0") == 0xF
    assert value_of(b"[FAILED TO PARSE] write=1 ecx=390 data=15 exception=0") == 15
    assert value_of(b"") == 0


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (AT + "kvm_exit: reason HLT rip 0x1", True),
        ("python3  8087/8087  [000]   828.316214:   kvm:kvm_msr: msr_read 10 = 0x1f5", True),
        ("# tracer: nop", False),
        ("126301 MSR_WRITE", False),
        ("             0x38f:W      15822    25.34%    25.30%      0.27us", False),
        (AT + "no event here", False),
        (" CPU 0/KVM 14951 48422.137358:   kvm:kvm_msr: msr_read 10 = 0x1f5", True),
        ("14951 48422.137358:   kvm:kvm_msr: msr_read 10 = 0x1f5", True),
        (" fc_vcpu 0 14951 48422.137358:   kvm:kvm_msr: msr_read 10 = 0x1f5", True),
        ("   kvm:kvm_msr: msr_read 10 = 0x1f5", False),
        ("48422.137358:   kvm:kvm_msr: msr_read 10 = 0x1f5", False),
        (" CPU 0/KVM 14951 [000]   kvm:kvm_msr: msr_read 10 = 0x1f5", False),
        (" CPU 0/KVM-14951 48422.137358:   kvm_msr: msr_read 10 = 0x1f5", False),
    ],
)
def test_what_an_event_line_is(line: str, event: bool) -> None:
    assert is_event(line.encode()) is event


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        (b"msr_read 38e = 0x3 (#GP)", (READ, 0x38E, 3, True)),
        (b"msr_write 38f = 0x0                0 [unknown]", (WRITE, 0x38F, 0, False)),
        (b"msr_write 38f = 0x0 ffffffffc0a1b2c3 f+0x1 ([kvm])", (WRITE, 0x38F, 0, False)),
        (b"msr_read 38e = 0x3 (#GP) ffffffffc0a1b2c3", (READ, 0x38E, 3, True)),
        (b"msr_read 38e = 0x3 nonsense", None),
        (b"   write=1 ecx=38f data=0x7 exception=0", (WRITE, 0x38F, 7, False)),
        (b"msr_write 138e0000f = 0x3", None),
        (b"msr_write 38f = 0x11111111111111111", None),
        (b"write=1 ecx=38f", None),
        (b"write=1 data=0x5", None),
        (b"write=1 ecx=zz data=0x5", None),
        (b"[FAILED TO PARSE] write=1 ecx=4294967296 data=5", None),
        (b"", None),
    ],
)
def test_an_access_or_nothing(body: bytes, parsed: tuple[int, int, int, bool] | None) -> None:
    assert parse_msr(body) == parsed


def test_reasons_that_are_no_name_of_the_kernel() -> None:
    assert reason_text(b"exit_reason=124 guest_rip=0x1 isa=2 info1=0") == (b"124", True)
    assert reason_text(b"reason UNKNOWN (67) rip 0x1") == (b"67", False)
    assert reason_text(b"something else") == (b"", False)
    assert reason_named(b"124", amd=True) == b"MSR"
    assert reason_named(b"0x80000020", amd=False) == b"MSR_WRITE"
    assert reason_named(b"MSR_WRITE", amd=False) == b"MSR_WRITE"
    assert reason_named(b"no name", amd=False) == b""


def test_time_stamps_of_either_resolution() -> None:
    assert ns_of(b"951.009747") == 951_009_747_000
    assert ns_of(b"828.316214601") == 828_316_214_601


@given(st.binary(max_size=200))
def test_no_text_is_an_error(body: bytes) -> None:
    assert is_event(body) in (True, False)
    assert value_of(body) >= 0
    number, amd = reason_text(body)
    assert len(reason_named(number, amd=amd)) <= 40
