"""The per-vCPU page of the protocol: 4096 bytes, little-endian 64-bit words, declared once.

**Invariants**

* Live words are loaded and stored one at a time through ``memoryview.cast("Q")``.
* The host stores to the page in one place, in the vCPU's own context, just before VM-entry.
* A status bit is set iff it differs between ``raised`` (host) and ``acked`` (guest).
* ``live`` is 0 iff the state is FROZEN; it changes only at VM-entry.
"""

from __future__ import annotations

import enum
from typing import Protocol

from pvpmu.shared.cpuid import MAX_FIXED, MAX_GP
from pvpmu.shared.layout import Layout, Owner
from pvpmu.shared.registers import BY_ADDRESS, Role

PAGE_SIZE = 4096
PAGE_VERSION = 1

FEATURE_FREEZE = 1 << 1
"""The host stops counting at the entry that injects a PMI's NMI; optional."""
FEATURE_LVTPC_AUTO = 1 << 2
"""The first COMMIT after a delivery clears the LVTPC mask that the delivery set; optional."""
FEATURE_POLLING = 1 << 3
"""Reserved for a host that polls the page; never offered."""
FEATURES_OPTIONAL = 0x1E
"""Bits of the optional class: a guest may leave an offered one out."""
FEATURES_REQUIRED = 0xE0
"""Bits of the required class: an offered one must be accepted, or registration is refused."""

FEATURES_KNOWN = FEATURE_FREEZE | FEATURE_LVTPC_AUTO


class Reject(enum.IntEnum):
    """Why a page word was refused: bits 31:0 of reject_reason. Append only."""

    RESERVED_BITS = 1
    BEYOND_WIDTH = 2


PAGE = Layout("pvpmu_page", PAGE_SIZE)

PAGE.line(Owner.HOST)
VERSION = PAGE.word("version", "page layout version; stored last, 0 until the page is ready")
SIZE = PAGE.word("size", "bytes of the page the host may ever store to; the rest stays the guest's")
FEATURES = PAGE.word("features", "accepted feature bits")
GENERATION = PAGE.word(
    "generation", "new at each registration, restore, host restart; 0 is invalid"
)

PAGE.line(Owner.HOST)
EVTSEL_RESERVED = PAGE.word("evtsel_reserved", "IA32_PERFEVTSELx bits whose writing is #GP")
FIXED_CTRL_RESERVED = PAGE.word("fixed_ctr_ctrl_reserved", "IA32_FIXED_CTR_CTRL bits that are #GP")
GLOBAL_CTRL_RESERVED = PAGE.word("global_ctrl_reserved", "IA32_PERF_GLOBAL_CTRL bits that are #GP")
OVF_CTRL_RESERVED = PAGE.word("ovf_ctrl_reserved", "IA32_PERF_GLOBAL_OVF_CTRL bits that are #GP")
LVTPC_DROPPED = PAGE.word("lvtpc_dropped", "LVTPC bits that #GP or that the APIC does not keep")
GP_MASK = PAGE.word("gp_mask", "values a GP counter can hold")
FIXED_MASK = PAGE.word("fixed_mask", "values a fixed counter can hold")
STATUS_MASK = PAGE.word("status_mask", "bits of raised and acked that are status; others are spare")

PAGE.line(Owner.HOST)
LIVE = PAGE.word("live", "counters that count now, by global index; 0 iff FROZEN")
RAISED = PAGE.word("raised", "host's half of GLOBAL_STATUS")
FREEZE_SEQ = PAGE.word("freeze_seq", "count of freezes; a hold lasts while release_seq differs")
PMI_SEQ = PAGE.word("pmi_seq", "count of PMIs injected")
NOT_COUNTING = PAGE.word("not_counting", "live counters without a running host event")
REJECTED = PAGE.word(
    "rejected", "words refused by the last COMMIT or import: bit n is word n after global_ctrl"
)
REJECT_REASON = PAGE.word("reject_reason", "first refused register: address 63:32, code 31:0")
SEQ = PAGE.word("seq", "odd while the host stores; for readers on other CPUs")

PAGE.line(Owner.GUEST)
ACKED = PAGE.word("acked", "guest's half of GLOBAL_STATUS; spare bits 63:40 count against ABA")
RELEASE_SEQ = PAGE.word("release_seq", "freeze_seq as of the last released hold")
PMI_ACK = PAGE.word("pmi_ack", "pmi_seq as of the last status read")
OVF_CTRL = PAGE.word("ovf_ctrl", "last value written to IA32_PERF_GLOBAL_OVF_CTRL")

PAGE.line(Owner.TURN)
GLOBAL_CTRL = PAGE.word("global_ctrl", "IA32_PERF_GLOBAL_CTRL as the guest wrote it")
FIXED_CTR_CTRL = PAGE.word("fixed_ctr_ctrl", "IA32_FIXED_CTR_CTRL")
LVTPC = PAGE.word("lvtpc", "x2APIC LVT perf")
PAGE.line(Owner.TURN)
EVTSEL = PAGE.word("evtsel", "IA32_PERFEVTSELx", count=MAX_GP)
PAGE.line(Owner.TURN)
PMC = PAGE.word(
    "pmc", "IA32_PMCx as of the last stop (a live counter's word is stale)", count=MAX_GP
)
PAGE.line(Owner.TURN)
FIXED_CTR = PAGE.word("fixed_ctr", "IA32_FIXED_CTRx, likewise", count=MAX_FIXED)

TURN_FIRST = GLOBAL_CTRL
TURN_END = FIXED_CTR + MAX_FIXED
"""Words [TURN_FIRST, TURN_END) hold the turn words (and padding): one slice copies them."""

ACK_COUNT_ONE = 1 << 40

_ROLE_WORD = {
    Role.PERFCTR: PMC,
    Role.PMC: PMC,
    Role.EVTSEL: EVTSEL,
    Role.FIXED_CTR: FIXED_CTR,
    Role.FIXED_CTR_CTRL: FIXED_CTR_CTRL,
    Role.GLOBAL_CTRL: GLOBAL_CTRL,
    Role.LVTPC: LVTPC,
}

WORD_OF = {
    address: _ROLE_WORD[register.role] + register.index
    for address, register in BY_ADDRESS.items()
    if register.role in _ROLE_WORD
}
"""MSR address to the turn word that holds it."""


class Words(Protocol):
    """A window of 64-bit words: a ``memoryview`` cast to "Q", or a test's instrumented one."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...
