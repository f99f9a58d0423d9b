"""A PMI that is due at the very exits that register, move or give up the page; and the like.

Every event retires once per cycle, so that counts can be told from the clock.
"""

from __future__ import annotations

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.workload import RATE_ONE, Phase, Workload
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import GeneralProtectionError, PeerError
from pvpmu.shared.events import KINDS
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.page import PAGE_SIZE

FIXED0, EVTSEL0, PMC0 = 0x309, 0x186, 0x4C1
ALL_ON = PmuCpuid().counters
WRAP = 1 << 48
DESIGNS = ("trap", "page")


class Rig:
    """One vCPU inline; its NMI handler acknowledges, reloads FIXED_CTR0 and starts again."""

    def __init__(
        self, design: str, *, skid: int = 0, tail: int = 0, reload: int = 0, gp: int = 8
    ) -> None:
        slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.memory = memoryview(bytearray(2 * PAGE_SIZE)).cast("Q")
        self.host = HostVcpu(slot, self.memory, design_named(design), PmuCpuid(gp=gp))
        self.cpu = Vcpu(slot, self.host.serve, skid=skid, tail=tail)
        self.program = Workload([Phase(1 << 40, (RATE_ONE,) * KINDS)], 1_000_000_000)
        self.cpu.program = self.program
        self.cpu.on_nmi = self.handle
        self.seam = self.cpu.seam
        self.reload = reload
        self.statuses: list[int] = []

    def register(self, address: int = 0) -> None:
        if self.host._design.page:
            assert self.cpu.register_page(self.memory, address)

    def handle(self) -> None:
        self.seam.wrmsr(msr.GLOBAL_CTRL, 0)
        status = self.seam.rdmsr(msr.GLOBAL_STATUS)
        self.statuses.append(status)
        if status:
            self.seam.wrmsr(msr.OVF_CTRL, status)
            if self.reload:
                self.seam.wrmsr(FIXED0, WRAP - self.reload)
        self.seam.wrmsr(msr.GLOBAL_CTRL, ALL_ON)

    def count_fixed0(self, distance: int) -> None:
        for address, value in (
            (msr.LVTPC, 0x400),
            (msr.GLOBAL_CTRL, 0),
            (FIXED0, WRAP - distance),
            (msr.FIXED_CTR_CTRL, 0xB),
            (msr.GLOBAL_CTRL, ALL_ON),
        ):
            self.seam.wrmsr(address, value)

    def run(self, cycles: int) -> None:
        self.cpu.run_until(self.program.cycles + cycles)


@pytest.mark.rule("END-5")
@pytest.mark.parametrize("move", ["unregister", "register elsewhere", "register again"])
def test_a_pmi_due_at_the_exit_that_gives_the_page_up_is_handled_as_a_trapped_one(
    move: str,
) -> None:
    rig = Rig("page", skid=1000)
    rig.register()
    rig.count_fixed0(100)
    rig.run(500)
    if move == "unregister":
        rig.cpu.unregister_page()
    else:
        rig.register(PAGE_SIZE if move == "register elsewhere" else 0)
    assert rig.statuses == [1 << 32]
    before = rig.seam.rdmsr(FIXED0)
    rig.run(4500)
    assert rig.seam.rdmsr(FIXED0) == before + 4500
    assert rig.seam.rdmsr(msr.GLOBAL_STATUS) == 0


@pytest.mark.rule("FRZ-7")
def test_a_pmi_at_the_registering_exit_leaves_no_hold_behind() -> None:
    rig = Rig("page", skid=20, tail=50, reload=40)
    rig.count_fixed0(100)
    rig.run(110)
    rig.register()
    assert not rig.seam.held
    assert not rig.host.vpmu.held
    rig.cpu.on_nmi = lambda: None
    for address, value in ((msr.FIXED_CTR_CTRL, 0), (FIXED0, 5), (msr.FIXED_CTR_CTRL, 0xB)):
        rig.seam.wrmsr(address, value)
    rig.run(1000)
    assert rig.seam.rdmsr(FIXED0) == 1005


def test_spare_bits_that_the_memory_held_do_not_make_a_reserved_bit_valid() -> None:
    rig = Rig("page")
    for index in range(2 * PAGE_SIZE // 8):
        rig.memory[index] = 0xDEAD_BEEF_1234_5678
    rig.register()
    assert rig.seam.rdmsr(msr.GLOBAL_STATUS) == 0
    with pytest.raises(GeneralProtectionError):
        rig.seam.wrmsr(msr.OVF_CTRL, 1 << 20)


@pytest.mark.rule("IMP-9", "REG-6")
def test_the_last_ovf_ctrl_stays_readable_over_another_registration() -> None:
    rig = Rig("page")
    rig.register()
    rig.count_fixed0(1 << 40)
    rig.seam.wrmsr(msr.OVF_CTRL, 1)
    assert rig.seam.rdmsr(msr.OVF_CTRL) == 1
    assert rig.cpu.exit(ExitReason.MSR_READ, msr.OVF_CTRL) == 1
    rig.register(PAGE_SIZE)
    assert rig.seam.rdmsr(msr.OVF_CTRL) == 1


@pytest.mark.parametrize("design", DESIGNS)
def test_an_overflow_taken_at_a_control_exit_shows_in_the_status(design: str) -> None:
    rig = Rig(design, skid=1000)
    rig.register()
    rig.count_fixed0(100)
    rig.seam.wrmsr(msr.LVTPC, 1 << 16)
    rig.run(500)
    rig.cpu.exit(ExitReason.CONTROL, value=Control.START)
    assert rig.seam.rdmsr(msr.GLOBAL_STATUS) == 1 << 32


@pytest.mark.rule("BND-14")
@pytest.mark.parametrize("reason", [0x7F, 0x86, 0xFF])
def test_an_unknown_exit_reason_faults(reason: int) -> None:
    with pytest.raises(GeneralProtectionError):
        Rig("page").cpu.exit(reason)


@pytest.mark.rule("BND-14")
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("reason", ["PASSED_READ", "PASSED_WRITE", "PASSED_RDPMC", "OVERFLOW"])
def test_where_nothing_passes_through_nothing_can_be_had_without_an_exit(
    design: str, reason: str
) -> None:
    with pytest.raises(PeerError, match=f"the host answers {reason} with #GP"):
        Rig(design).cpu.exit(ExitReason[reason], 0x38F, 1)


@pytest.mark.parametrize("design", DESIGNS)
def test_an_event_makes_room_for_one_that_only_its_counter_can_count(design: str) -> None:
    rig = Rig(design)
    rig.register()
    # GP counter 0 counts cycles on the silicon's own cycles counter, so that the guest's fixed
    # counter 1 lands on a general one; then all eight general ones are wanted.
    rig.seam.wrmsr(EVTSEL0, 0x43_003C)
    rig.seam.wrmsr(msr.FIXED_CTR_CTRL, 0x30)
    rig.seam.wrmsr(EVTSEL0, 0)
    for counter in range(8):
        rig.seam.wrmsr(EVTSEL0 + counter, 0x43_00C4)
    rig.run(1000)
    assert [rig.seam.rdmsr(PMC0 + counter) for counter in range(8)] == [1000] * 8
    assert rig.seam.rdmsr(0x30A) == 1000
    assert rig.host.vpmu.not_counting == 0


@pytest.mark.rule("REG-6")
def test_the_guest_words_are_clean_when_the_page_is_in_use() -> None:
    rig = Rig("page")
    rig.memory[page.ACKED] = rig.memory[page.RELEASE_SEQ] = rig.memory[page.PMI_ACK] = 77
    rig.register()
    words = [rig.memory[index] for index in (page.ACKED, page.RELEASE_SEQ, page.PMI_ACK)]
    assert words == [0, 0, 0]


@pytest.mark.rule("PG-5")
def test_a_tolerated_write_to_a_register_that_does_not_exist_leaves_no_word() -> None:
    rig = Rig("page", gp=1)
    rig.register()
    rig.seam.wrmsr(EVTSEL0 + 1, 0x43_00C4)
    assert rig.memory[page.EVTSEL + 1] == 0
    assert rig.seam.rdmsr(EVTSEL0 + 1) == 0
