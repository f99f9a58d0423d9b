"""The test port and the profiles of a host process, from a guest in this one."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.testport import PortCalls
from pvpmu.shared import control, exits, memory
from pvpmu.shared.control import Bye, Welcome
from pvpmu.shared.errors import GeneralProtectionError, PeerError
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.handoff import Attached, Handoff
from pvpmu.shared.memory import Segment

from .conftest import TIMEOUT_S, Vm, ended, hello

pytestmark = pytest.mark.process


def join(vm: Vm, body: Callable[[Vcpu, Attached], None]) -> None:
    """Do ``body`` as the only vCPU of a waiting host, then say Bye."""
    with Segment.create(memory.segment_name(vm.name, "guest"), 4096) as segment:
        channel = control.connect(vm.name)
        assert channel is not None
        channel.set_timeout(TIMEOUT_S)
        channel.send(hello(vm))
        welcome = channel.expect(Welcome)
        exit_name, entry_name = welcome.semaphores[0]
        attached = Handoff(
            vcpu=0,
            cpu=-1,
            segment=welcome.segment,
            segment_bytes=welcome.segment_bytes,
            slot_bytes=welcome.slot_bytes,
            memory=segment.name,
            memory_bytes=4096,
            exit_semaphore=exit_name,
            entry_semaphore=entry_name,
        ).attach()

        def cross() -> None:
            attached.exit_semaphore.release()
            attached.entry_semaphore.acquire(TIMEOUT_S)

        body(Vcpu(attached.slot, cross), attached)
        channel.send(Bye())
        channel.close()
        # What still looks into the segments must be gone before they can be unmapped.
        gc.collect()
        attached.slot.release()
        attached.segment.close()
        attached.memory.close()


@pytest.mark.rule("BND-20", "SAV-3")
def test_a_host_with_a_test_port_makes_the_calls(vm: Vm) -> None:
    host = vm.host("--test-port", "--profile", "kvm-6.12")

    def body(vcpu: Vcpu, attached: Attached) -> None:
        call = PortCalls(vcpu, attached.slot)
        assert vcpu.register_page(attached.memory.words, 0)
        vcpu.seam.wrmsr(0x4C1, 77)
        state = call("save")["state"]
        vcpu.seam.wrmsr(0x4C1, 5)
        call("restore", state=state)
        assert vcpu.seam.rdmsr(0x4C1) == 77
        assert vcpu.seam.losses == 1, "a restore is another generation"
        with pytest.raises(PeerError, match="filter action"):
            call("set_filter", action=7)
        assert call("describe")["registered"] is True
        # The profile: 6.12 has no fast RDPMC.
        with pytest.raises(GeneralProtectionError):
            vcpu.exit(ExitReason.RDPMC, 1 << 31)

    join(vm, body)
    assert ended(host)[0] == 0


@pytest.mark.rule("BND-13")
def test_an_ordinary_host_has_no_test_port(vm: Vm) -> None:
    host = vm.host()

    def body(vcpu: Vcpu, attached: Attached) -> None:
        assert len(attached.slot) * 8 == exits.SLOT_SIZE
        with pytest.raises(PeerError, match="no test port"):
            PortCalls(vcpu, attached.slot)
        with pytest.raises(GeneralProtectionError):
            vcpu.exit(ExitReason.CONTROL, value=Control.CALL)
        assert vcpu.exit(ExitReason.RDPMC, 1 << 31) == 0, "kvm-5.14 by default"

    join(vm, body)
    assert ended(host)[0] == 0
