"""Accesses that do not exit: which, by the slot's word, and what the vCPU does with them."""

from __future__ import annotations

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.passing import passes
from pvpmu.shared import exits
from pvpmu.shared import registers as msr
from pvpmu.shared.errors import GeneralProtectionError
from pvpmu.shared.exits import ExitReason

READ, WRITE, RDPMC = ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC
ALL = 0x7_0000_00FF
EVERYTHING = (
    ALL | exits.PASS_FULL_WIDTH | exits.PASS_RDPMC | exits.PASS_GLOBALS | exits.PMI_BY_VECTOR
)


@pytest.mark.parametrize(
    ("passed", "reason", "address", "expected"),
    [
        (EVERYTHING, READ, msr.GLOBAL_STATUS, True),
        (EVERYTHING, WRITE, msr.OVF_CTRL, True),
        (EVERYTHING & ~exits.PASS_GLOBALS, WRITE, msr.GLOBAL_CTRL, False),
        (EVERYTHING, WRITE, 0x186, False),
        (EVERYTHING, WRITE, msr.FIXED_CTR_CTRL, False),
        (EVERYTHING, WRITE, msr.LVTPC, False),
        (EVERYTHING, READ, msr.CAPABILITIES, False),
        (EVERYTHING, READ, 0x10, False),
        (EVERYTHING & ~(1 << 3), WRITE, 0xC4, False),
        (1 << 3, WRITE, 0xC4, True),
        (1 << 3, WRITE, 0x4C4, False),
        (1 << 3 | exits.PASS_FULL_WIDTH, WRITE, 0x4C4, True),
        (1 << 33, READ, 0x30A, True),
        (1 << 33, READ, 0x309, False),
        (EVERYTHING, RDPMC, 77, True),
        (EVERYTHING & ~exits.PASS_RDPMC, RDPMC, 0, False),
    ],
)
def test_the_word_says_what_passes(passed: int, reason: int, address: int, expected: bool) -> None:
    assert passes(passed, reason, address) is expected


class Silicon:
    """Answers every crossing with ``reply`` and keeps the reasons."""

    def __init__(self, passed: int) -> None:
        self.slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.slot[exits.PASSED] = passed
        self.reasons: list[int] = []
        self.reply = 0

    def cross(self) -> None:
        self.reasons.append(self.slot[exits.REQUEST] & exits.REASON_MASK)
        self.slot[exits.RESULT] = 42
        self.slot[exits.REPLY] = self.reply


def test_an_access_that_passes_is_no_exit_and_forced_emulation_makes_it_one() -> None:
    silicon = Silicon(EVERYTHING)
    vcpu = Vcpu(silicon.slot, silicon.cross)
    assert vcpu.exit(READ, msr.GLOBAL_STATUS) == 42
    vcpu.exit(READ, 0x186)
    vcpu.exit(RDPMC, 0)
    vcpu.exit(RDPMC | exits.FORCED, 0)
    assert silicon.reasons == [ExitReason.PASSED_READ, READ, ExitReason.PASSED_RDPMC, RDPMC]


def test_a_passed_access_faults_as_an_exit_does() -> None:
    silicon = Silicon(EVERYTHING)
    silicon.reply = exits.FAULT_GP
    vcpu = Vcpu(silicon.slot, silicon.cross)
    with pytest.raises(GeneralProtectionError, match="wrmsr"):
        vcpu.exit(WRITE, msr.GLOBAL_CTRL, 1 << 50)


def test_an_overflow_is_an_exit_only_if_the_silicon_interrupts() -> None:
    silicon = Silicon(EVERYTHING)
    vcpu = Vcpu(silicon.slot, silicon.cross)
    vcpu.pmi_exit()
    assert silicon.reasons == [ExitReason.OVERFLOW]
    silicon.reply = exits.PMI_RAISED
    vcpu.pmi_exit()
    assert silicon.reasons[1:] == [ExitReason.OVERFLOW, ExitReason.EXTERNAL_INTERRUPT]
    silicon.slot[exits.PASSED] = 0
    vcpu.pmi_exit()
    assert silicon.reasons[3:] == [ExitReason.EXCEPTION_NMI]
