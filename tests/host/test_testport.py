"""The test port: a VMM's calls from inside the guest, only where the host was started for it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.testport import PortCalls
from pvpmu.host.testport import TestPort
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, port
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import GeneralProtectionError, PeerError
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.profile import KVM_6_12, STRICT_SDM


class Rig:
    """Guest and host of one vCPU, with an area behind the slot."""

    def __init__(self, *, served: bool = True) -> None:
        self.slot = memoryview(bytearray(exits.SLOT_SIZE + port.PORT_BYTES)).cast("Q")
        self.memory = memoryview(bytearray(2 * PAGE_SIZE)).cast("Q")
        self.host = HostVcpu(self.slot, self.memory, design_named("page"), PmuCpuid(), KVM_6_12)
        area = port.area_of(self.slot)
        assert area is not None
        self.area = area
        if served:
            TestPort(self.host, area)
        self.cpu = Vcpu(self.slot, self.host.serve)
        self.call = PortCalls(self.cpu, self.slot)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_registers_are_read_written_and_listed(rig: Rig) -> None:
    assert rig.call("set_msr", address=0xC1, value=(1 << 40) + 5) == {"done": True}
    assert rig.call("get_msr", address=0xC1) == {"value": (1 << 40) + 5}
    assert rig.call("get_msr", address=0x9999) == {"value": None}
    assert rig.call("set_msr", address=0x186, value=1 << 21) == {"done": False}
    assert 0x38E in rig.call("msr_list")["addresses"]


def test_shape_filter_and_load(rig: Rig) -> None:
    shape: dict[str, Any] = {"gp": 2, "fixed": 1}
    assert rig.call("set_cpuid", shape=shape) == {"done": True}
    assert rig.cpu.pmu_cpuid().gp == 2
    assert rig.call("set_filter", action=1, events=[0xC4]) == {}
    assert rig.host.event_filter is not None
    assert rig.call("set_filter", action=None) == {}
    assert rig.host.event_filter is None
    assert rig.call("load", kinds=[0, 1]) == {"counting": 2}


def test_a_saved_state_comes_back(rig: Rig) -> None:
    rig.cpu.seam.wrmsr(0x4C1, 77)
    state = rig.call("save")["state"]
    rig.call("do", what="reset")
    assert rig.cpu.seam.rdmsr(0x4C1) == 0
    assert rig.call("restore", state=state) == {}
    assert rig.cpu.seam.rdmsr(0x4C1) == 77


def test_init_preempt_nmi_dirty_describe_and_emulate(rig: Rig) -> None:
    assert rig.cpu.register_page(rig.memory, PAGE_SIZE)
    assert rig.call("take_dirty") == {"frames": [1]}
    assert rig.call("describe")["registered"] is True
    assert rig.call("emulate", kind=1, count=3, cpl=0) == {"changed": False}
    rig.cpu.seam.wrmsr(0x186, 0x53_00C0)
    assert rig.call("emulate", kind=1, count=3, cpl=0) == {"changed": True}
    assert rig.cpu.seam.rdpmc(0) == 3
    for what in ("preempt", "queue_nmi", "init"):
        assert rig.call("do", what=what) == {}
    assert rig.call("describe")["registered"] is False


@pytest.mark.parametrize(
    ("call", "arguments", "words"),
    [
        ("nonsense", {}, "nonsense"),
        ("do", {"what": "explode"}, "explode"),
        ("get_msr", {"address": "x"}, "address"),
        ("set_filter", {"action": 9}, "filter action: 9 is not 0 or 1"),
        ("set_cpuid", {"shape": {"gp": 99}}, "99"),
        ("restore", {"state": {}}, "state"),
        ("save", {"more": 1}, "more"),
    ],
)
def test_a_call_that_cannot_be_done_is_answered_with_words(
    rig: Rig, call: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(PeerError, match=words):
        rig.call(call, **arguments)
    assert rig.call("msr_list")["addresses"], "the port goes on"


@pytest.mark.rule("BND-13", "SEC-6")
@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x00\xff\xff", b"\x03" + b"\xc1" * 9])
def test_garbage_in_the_area_is_answered_with_words(rig: Rig, content: bytes) -> None:
    rig.area[: len(content)] = content
    rig.cpu.exit(ExitReason.CONTROL, value=Control.CALL)
    assert "error" in port.take(rig.area)


@pytest.mark.rule("BND-13")
def test_without_a_test_port_the_call_is_gp() -> None:
    with pytest.raises(GeneralProtectionError):
        Rig(served=False).call("save")
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    with pytest.raises(PeerError, match=r"no test port \(pvpmu-host --test-port\)$"):
        PortCalls(Vcpu(slot, lambda: None), slot)


@pytest.mark.rule("BND-13")
def test_an_unknown_control_request_is_gp(rig: Rig) -> None:
    with pytest.raises(GeneralProtectionError):
        rig.cpu.exit(ExitReason.CONTROL, value=99)


def test_a_message_that_is_too_long_is_not_stored(rig: Rig) -> None:
    with pytest.raises(PeerError, match=r"bytes, at most 65528$"):
        rig.call("set_filter", action=1, events=[1 << 63] * 10_000)


def test_another_host_takes_over_and_the_old_one_stores_nothing_more(rig: Rig) -> None:
    assert rig.cpu.register_page(rig.memory, 0)
    rig.cpu.seam.wrmsr(0x4C1, 77)
    rig.call("set_filter", action=1, events=[0xC4])
    words = rig.memory.tobytes()
    shape = asdict(PmuCpuid(gp=2))
    design = asdict(design_named("trap"))
    assert rig.call("configure", design=design, shape=shape, profile=asdict(STRICT_SDM)) == {}
    assert rig.memory.tobytes() == words
    assert rig.cpu.cpuid(exits.LEAF_SIGNATURE) == (0, 0, 0, 0), "the trap design has no page"
    assert rig.call("get_msr", address=0x4C1) == {"value": 0}
    assert rig.call("get_msr", address=0x4C3) == {"value": None}
    assert rig.host.event_filter is None
    assert rig.host.profile == STRICT_SDM
    assert rig.call("take_dirty") == {"frames": []}


def test_the_host_that_takes_the_place_has_no_page_registered(rig: Rig) -> None:
    assert rig.cpu.register_page(rig.memory, PAGE_SIZE)
    rig.cpu.forget_page()
    same = {"design": asdict(design_named("page")), "profile": asdict(KVM_6_12)}
    rig.call("configure", shape=asdict(PmuCpuid()), **same)
    assert rig.cpu.seam.rdmsr(msr.PV_PAGE) == 0
    assert rig.cpu.seam.rdmsr(msr.PV_STATUS) == 0
