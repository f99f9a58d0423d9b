"""Offline, suspend, reboot and crash unregister; online and resume register again."""

from __future__ import annotations

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.hotplug import PageHotplug
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import GeneralProtectionError
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.page import PAGE_SIZE


class Kernel:
    """A guest on a host, with its page at 0x1000."""

    def __init__(self, design: str = "page") -> None:
        self.memory = memoryview(bytearray(2 * PAGE_SIZE)).cast("Q")
        slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.host = HostVcpu(slot, self.memory, design_named(design), PmuCpuid())
        self.cpu = Vcpu(slot, self.host.serve)
        self.hotplug = PageHotplug(self.cpu, self.memory, PAGE_SIZE)
        self.window = self.memory[PAGE_SIZE // 8 :]

    def registered(self) -> int:
        return self.cpu.exit(ExitReason.MSR_READ, msr.PV_PAGE)


@pytest.mark.rule("END-5", "END-6")
@pytest.mark.parametrize("occasion", ["offline", "suspend", "reboot", "crash"])
def test_the_page_is_given_up_and_its_memory_left_alone(occasion: str) -> None:
    kernel = Kernel()
    assert kernel.hotplug.online()
    kernel.cpu.seam.wrmsr(0x4C1, 77)
    getattr(kernel.hotplug, occasion)()
    assert kernel.registered() == 0
    canary = [0x5A5A_5A5A_5A5A_5A5A] * (PAGE_SIZE // 8)
    for index, value in enumerate(canary):
        kernel.window[index] = value
    kernel.cpu.seam.wrmsr(0x186, 0x43_00C0)
    kernel.cpu.retire([9] * 7)
    kernel.cpu.pmi_exit()
    assert kernel.window.tolist() == canary
    assert kernel.cpu.seam.rdpmc(0) == 77 + 9


@pytest.mark.rule("END-6", "GEN-1")
@pytest.mark.parametrize(("down", "up"), [("offline", "online"), ("suspend", "resume")])
def test_the_page_comes_back_under_a_new_generation(down: str, up: str) -> None:
    kernel = Kernel()
    kernel.hotplug.online()
    first = kernel.window[page.GENERATION]
    getattr(kernel.hotplug, down)()
    assert kernel.window[page.GENERATION] == 0
    assert getattr(kernel.hotplug, up)()
    assert kernel.window[page.GENERATION] not in (0, first)


@pytest.mark.rule("END-8")
def test_going_down_without_a_page_is_harmless() -> None:
    kernel = Kernel("trap")
    assert not kernel.hotplug.online()
    kernel.hotplug.offline()
    with pytest.raises(GeneralProtectionError):
        kernel.registered()
