"""Routes of a design: what stays in the page, what exits, and when it commits."""

from __future__ import annotations

from typing import Any

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.errors import GeneralProtectionError
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.page import PAGE_SIZE

EVTSEL_ON = 0x53_00C4
ALL_ON = 0x7_0000_00FF


class Rig:
    """A vCPU with a page under a design, and the (reason, address) of its exits."""

    def __init__(self, **fields: Any) -> None:
        design = Design(name="mine", summary="", is_paused=True, page=True, **fields)
        slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        memory = memoryview(bytearray(PAGE_SIZE)).cast("Q")
        host = HostVcpu(slot, memory, design, PmuCpuid())
        self.made: list[tuple[int, int]] = []

        def cross() -> None:
            self.made.append((slot[exits.REQUEST] & exits.REASON_MASK, slot[exits.ADDRESS]))
            host.serve()

        self.host = host
        self.words = memory
        self.vcpu = Vcpu(slot, cross)
        self.vcpu.seam.wrmsr(msr.GLOBAL_CTRL, 0)
        assert self.vcpu.register_page(memory, 0, guest=design.guest)
        self.made.clear()

    def addresses(self) -> list[int]:
        """Addresses of the PMU exits since the last look."""
        made = [address for _, address in self.made]
        self.made.clear()
        return made


@pytest.mark.parametrize(
    ("route", "read_exits", "write_exits"),
    [("page", False, False), ("read", False, True), ("write", True, False), ("exit", True, True)],
)
def test_a_route_says_which_accesses_stay_in_the_page(
    route: str, read_exits: bool, write_exits: bool
) -> None:
    rig = Rig(routes={"frozen": {"EVTSEL": route}})
    rig.vcpu.seam.wrmsr(0x186, EVTSEL_ON)
    assert bool(rig.addresses()) is write_exits
    assert rig.vcpu.seam.rdmsr(0x186) == EVTSEL_ON
    assert bool(rig.addresses()) is read_exits
    rig.vcpu.seam.wrmsr(0x187, EVTSEL_ON)
    rig.addresses()
    assert rig.vcpu.seam.rdmsr(0x4C1) == 0, "other registers are the page's"
    assert rig.addresses() == []


def test_rdpmc_has_a_route_of_its_own() -> None:
    rig = Rig(routes={"frozen": {"RDPMC": "exit"}})
    rig.vcpu.seam.wrmsr(0x4C1, 7)
    assert rig.vcpu.seam.rdpmc(0) == 7
    assert len(rig.addresses()) == 1


def test_a_trapped_acknowledgement_is_known_to_the_page() -> None:
    rig = Rig(routes={"running": {"all": "exit"}})
    seam = rig.vcpu.seam
    seam.wrmsr(0x186, EVTSEL_ON)
    seam.wrmsr(msr.GLOBAL_CTRL, ALL_ON)
    seam.wrmsr(msr.OVF_CTRL, 3)
    seam.wrmsr(msr.GLOBAL_CTRL, 0)
    seam.wrmsr(msr.OVF_CTRL, 0)
    assert seam.rdmsr(msr.OVF_CTRL) == 0


def test_a_commit_at_the_handlers_end_is_one_exit_that_writes_global_ctrl() -> None:
    rig = Rig(freeze=True, commit="handler-end")
    seam = rig.vcpu.seam
    seam.wrmsr(msr.LVTPC, 0x400)
    seam.wrmsr(0x4C1, (1 << 48) - 10)
    seam.wrmsr(0x186, EVTSEL_ON)
    seam.wrmsr(msr.GLOBAL_CTRL, ALL_ON)
    rig.addresses()
    seen: list[int] = []

    def handler() -> None:
        rig.addresses()
        seam.wrmsr(msr.GLOBAL_CTRL, 0)
        seen.append(seam.rdmsr(msr.GLOBAL_STATUS))
        seam.wrmsr(msr.OVF_CTRL, 1)
        seam.wrmsr(0x4C1, (1 << 48) - 20)
        seam.wrmsr(msr.GLOBAL_CTRL, ALL_ON)
        assert rig.host.hardware.started == []
        assert rig.addresses() == []
        seam.handler_ends()
        seen.extend(rig.addresses())

    rig.vcpu.on_nmi = handler
    rig.vcpu.retire([0, 0, 0, 0, 0, 10, 0])
    rig.vcpu.pmi_exit()
    assert seen == [1, msr.GLOBAL_CTRL]
    assert rig.words[page.LIVE] == 1
    assert rig.words[page.FREEZE_SEQ] == rig.words[page.RELEASE_SEQ]
    assert rig.vcpu.distances()[5] == 20


def test_without_a_commit_counters_start_at_the_next_exit_of_any_kind() -> None:
    rig = Rig(freeze=True, commit="natural", natural_exit_us=100)
    seam = rig.vcpu.seam
    seam.wrmsr(0x4C1, 5)
    seam.wrmsr(0x186, EVTSEL_ON)
    seam.wrmsr(msr.GLOBAL_CTRL, ALL_ON)
    assert rig.addresses() == []
    assert rig.host.hardware.started == []
    rig.vcpu.exit(ExitReason.EXTERNAL_INTERRUPT)
    assert len(rig.host.hardware.started) == 1
    rig.vcpu.retire([0, 0, 0, 0, 0, 3, 0])
    assert seam.rdmsr(0x4C1) == 8


def test_reserved_bits_exit_whatever_the_design_defers() -> None:
    rig = Rig(freeze=True, commit="natural", natural_exit_us=100)
    for address, value in ((0x186, 1 << 21), (msr.GLOBAL_CTRL, 1 << 20), (msr.FIXED_CTR_CTRL, 4)):
        with pytest.raises(GeneralProtectionError):
            rig.vcpu.seam.wrmsr(address, value)
        assert rig.addresses() == [address]
