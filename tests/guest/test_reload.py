"""Reload values in the page: what the driver is told, and what the host arms."""

from __future__ import annotations

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.page import PAGE_SIZE

ALL_ON = 0x7_0000_00FF
WRAP = 1 << 48
BRANCHES = 5


class Rig:
    """Branches on GP counter 0, running, 1000 before overflow, with a driver's handler."""

    def __init__(self) -> None:
        design = design_named("page-reload")
        slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.words = memoryview(bytearray(PAGE_SIZE)).cast("Q")
        self.host = HostVcpu(slot, self.words, design, PmuCpuid())
        self.exits = 0

        def cross() -> None:
            self.exits += 1
            self.host.serve()

        self.vcpu = Vcpu(slot, cross)
        self.seam = self.vcpu.seam
        self.vcpu.on_nmi = self.handler
        self.seam.wrmsr(msr.GLOBAL_CTRL, 0)
        assert self.vcpu.register_page(self.words, 0, guest=design.guest)
        self.seam.wrmsr(msr.LVTPC, 0x400)
        self.seam.wrmsr(0x4C1, WRAP - 1000)
        self.seam.wrmsr(0x186, 0x53_00C4)
        self.seam.wrmsr(msr.GLOBAL_CTRL, ALL_ON)
        self.period = 1000
        self.told: list[int] = []
        self.in_handler = 0

    def handler(self) -> None:
        seam, before = self.seam, self.exits
        seam.handler_begins()
        seam.wrmsr(msr.GLOBAL_CTRL, 0)
        assert seam.rdmsr(msr.GLOBAL_CTRL) == 0
        status = seam.rdmsr(msr.GLOBAL_STATUS)
        if status:
            seam.wrmsr(msr.OVF_CTRL, status)
            self.told.append(seam.rdpmc(0))
            seam.wrmsr(0x4C1, WRAP - self.period)
        seam.wrmsr(msr.GLOBAL_CTRL, ALL_ON)
        seam.wrmsr(msr.LVTPC, 0x400)
        seam.handler_ends()
        self.in_handler += self.exits - before

    def run(self, branches: int) -> None:
        self.vcpu.retire([0] * BRANCHES + [branches] + [0] * (7 - BRANCHES - 1))
        self.vcpu.pmi_exit()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_handler_makes_no_exit_and_finds_the_counter_at_its_overflow(rig: Rig) -> None:
    rig.run(1000)
    assert rig.told == [0]
    assert rig.in_handler == 0
    assert rig.words[page.LIVE] == 1, "nothing stopped"


def test_a_new_period_takes_effect_one_overflow_later(rig: Rig) -> None:
    rig.period = 400
    rig.run(1000)
    assert rig.vcpu.distances()[BRANCHES] == 1000
    rig.run(1000)
    assert rig.vcpu.distances()[BRANCHES] == 400


def test_what_the_driver_is_told_adds_up_when_it_reads_outside_a_handler(rig: Rig) -> None:
    rig.period = 400
    rig.run(1000)
    rig.run(1000)
    # The driver was told 1000 at first, then 400 where 1000 had passed.
    assert rig.seam.rdpmc(0) == 200
    rig.vcpu.retire([0] * BRANCHES + [7, 0])
    assert rig.seam.rdpmc(0) == 207


def test_what_it_was_told_too_early_is_told_no_second_time(rig: Rig) -> None:
    rig.period = 5000
    rig.run(1000)
    rig.run(1000)
    # 1000 + 5000 were told, 2000 counted: nothing new until the rest has passed.
    assert rig.seam.rdpmc(0) == WRAP - 5000
    rig.seam.wrmsr(msr.GLOBAL_CTRL, 0)
    rig.seam.wrmsr(0x4C1, WRAP - 5000)
    rig.seam.wrmsr(msr.GLOBAL_CTRL, ALL_ON)
    rig.vcpu.retire([0] * BRANCHES + [4100, 0])
    rig.seam.wrmsr(msr.GLOBAL_CTRL, 0)
    assert rig.seam.rdpmc(0) == WRAP - 5000 + 100


def test_the_host_takes_no_word_that_is_no_reload_value(rig: Rig) -> None:
    rig.words[page.PMC] = 1 << 50
    rig.run(1000)
    assert rig.vcpu.distances()[BRANCHES] == (WRAP >> 1) - 1, "as far as perf arms an event"


def test_a_stop_gives_the_words_their_values_again(rig: Rig) -> None:
    rig.run(1000)
    rig.vcpu.retire([0] * BRANCHES + [3, 0])
    rig.seam.wrmsr(msr.GLOBAL_CTRL, 0)
    assert rig.words[page.PMC] == 3
    rig.seam.wrmsr(msr.GLOBAL_CTRL, ALL_ON)
    assert rig.words[page.PMC] == WRAP - 1000
    assert rig.vcpu.distances()[BRANCHES] == 997
