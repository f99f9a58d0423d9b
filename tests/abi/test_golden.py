"""Version 1, pinned: its words, bits and codes may gain members and never change."""

from __future__ import annotations

import pytest

from pvpmu.shared import exits, memory, page, registration
from pvpmu.shared.control import RefusalCode
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.layout import Layout
from pvpmu.shared.page import Reject
from pvpmu.shared.registration import Registration

PAGE = """
version 0x0 8 host
size 0x8 8 host
features 0x10 8 host
generation 0x18 8 host
evtsel_reserved 0x40 8 host
fixed_ctr_ctrl_reserved 0x48 8 host
global_ctrl_reserved 0x50 8 host
ovf_ctrl_reserved 0x58 8 host
lvtpc_dropped 0x60 8 host
gp_mask 0x68 8 host
fixed_mask 0x70 8 host
status_mask 0x78 8 host
live 0x80 8 host
raised 0x88 8 host
freeze_seq 0x90 8 host
pmi_seq 0x98 8 host
not_counting 0xa0 8 host
rejected 0xa8 8 host
reject_reason 0xb0 8 host
seq 0xb8 8 host
acked 0xc0 8 guest
release_seq 0xc8 8 guest
pmi_ack 0xd0 8 guest
ovf_ctrl 0xd8 8 guest
global_ctrl 0x100 8 turn
fixed_ctr_ctrl 0x108 8 turn
lvtpc 0x110 8 turn
evtsel 0x140 64 turn
pmc 0x180 64 turn
fixed_ctr 0x1c0 24 turn
"""
SLOT = """
request 0x0 8 guest
address 0x8 8 guest
value 0x10 8 guest
clock 0x18 8 guest
retired_user 0x40 56 guest
retired_kernel 0x80 56 guest
reply 0xc0 8 host
result 0xc8 8 host
result_high 0xd0 8 host
live_version 0xd8 8 host
live_count 0xe0 8 host
passed 0xe8 8 host
live 0x100 304 host
work_live_calls 0x240 8 host
work_redundant_calls 0x248 8 host
work_locks 0x250 8 host
work_placements 0x258 8 host
work_local_reads 0x260 8 host
work_switches 0x268 8 host
"""
SEGMENT = """
ready 0x0 8 host
version 0x8 8 host
pid 0x10 8 host
start 0x18 8 host
"""


@pytest.mark.rule("VER-1")
@pytest.mark.parametrize(
    ("layout", "pinned"),
    [(page.PAGE, PAGE), (exits.SLOT, SLOT), (memory.SEGMENT_HEADER, SEGMENT)],
    ids=["page", "slot", "segment"],
)
def test_the_words_of_version_1_stand_where_they_stood(layout: Layout, pinned: str) -> None:
    words = [f"{f.name} {f.offset:#x} {f.size} {f.owner.value}" for f in layout.fields]
    assert words == pinned.split("\n")[1:-1]
    assert page.PAGE_VERSION == 1


@pytest.mark.rule("VER-4")
@pytest.mark.parametrize(
    ("codes", "pinned"),
    [
        (
            Registration,
            "NONE OK OUTSIDE_MEMORY UNKNOWN_FEATURE MISSING_FEATURE WRONG_VERSION",
        ),
        (Reject, "- RESERVED_BITS BEYOND_WIDTH"),
        (Control, "RESET START STOP CALL WORK"),
        (RefusalCode, "- WRONG_VERSION TOO_MANY_VCPUS BAD_MEMORY BUSY MALFORMED OTHER_USER"),
    ],
)
def test_codes_keep_their_numbers(codes: type, pinned: str) -> None:
    numbered = {name: number for number, name in enumerate(pinned.split()) if name != "-"}
    assert numbered.items() <= {member.name: member.value for member in codes}.items()


@pytest.mark.rule("VER-4")
def test_feature_bits_and_exit_reasons_keep_their_numbers() -> None:
    assert (registration.ENABLE, registration.VERSION_SHIFT) == (1, 8)
    assert (page.FEATURE_FREEZE, page.FEATURE_LVTPC_AUTO, page.FEATURE_POLLING) == (2, 4, 8)
    assert (page.FEATURES_OPTIONAL, page.FEATURES_REQUIRED) == (0x1E, 0xE0)
    assert (ExitReason.FLOOR, ExitReason.CONTROL) == (0x80, 0x81)
    passed = (ExitReason.PASSED_READ, ExitReason.PASSED_WRITE, ExitReason.PASSED_RDPMC)
    assert (*passed, ExitReason.OVERFLOW) == (0x82, 0x83, 0x84, 0x85)
    assert (exits.FORCED, exits.PMI_RAISED) == (1 << 13, 1 << 5)
    assert (exits.PASS_FULL_WIDTH, exits.PASS_RDPMC) == (1 << 60, 1 << 61)
    assert (exits.PASS_GLOBALS, exits.PMI_BY_VECTOR) == (1 << 62, 1 << 63)
    vmx = {reason.name: int(reason) for reason in ExitReason if reason < ExitReason.FLOOR}
    assert vmx == {
        "EXCEPTION_NMI": 0, "EXTERNAL_INTERRUPT": 1, "INTERRUPT_WINDOW": 7, "NMI_WINDOW": 8,
        "CPUID": 10, "HLT": 12, "RDPMC": 15, "MSR_READ": 31, "MSR_WRITE": 32,
    }  # fmt: skip


def test_flags_of_request_and_reply_keep_their_bits() -> None:
    request = (exits.NMI_BLOCKED, exits.RETIRED_USER, exits.RETIRED_KERNEL, exits.STRAY_PMI)
    assert (*request, exits.INTERRUPTIBLE) == (1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12)
    reply = (exits.FAULT_GP, exits.INJECT_NMI, exits.WANT_NMI_WINDOW)
    assert (*reply, exits.INJECT_IRQ, exits.WANT_IRQ_WINDOW) == (1, 2, 4, 8, 16)
    assert exits.VECTOR_SHIFT == 8
