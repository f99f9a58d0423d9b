"""The seam: which accesses stay in the page and which exit, in both states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.msr import Seam
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, page
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import GeneralProtectionError
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.profile import KVM_5_14, KVM_6_12, Profile

ON = 0x7_0000_00FF
SELECTOR = 0x53_00C4
OPS = {ExitReason.MSR_READ: "rdmsr", ExitReason.MSR_WRITE: "wrmsr", ExitReason.RDPMC: "rdpmc"}


@dataclass
class Joined:
    """Seam and host in one process; ``exited`` lists the (op, address) that reached the host."""

    seam: Seam
    host: HostVcpu
    vcpu: Vcpu
    words: memoryview[int]
    exited: list[tuple[str, int]]

    def exits_of(self, access: Callable[[], object]) -> int:
        """How many PMU exits an access makes."""
        self.exited.clear()
        access()
        return len(self.exited)

    def run(self) -> None:
        """Let PMC0 count branches, a thousand short of its overflow: RUNNING."""
        self.seam.wrmsr(0x834, 0x400)
        self.seam.wrmsr(0x4C1, (1 << 48) - 1000)
        self.seam.wrmsr(0x186, SELECTOR)
        self.seam.wrmsr(0x38F, ON)

    def overflow(self) -> None:
        """Let PMC0 overflow and take the PMI."""
        self.vcpu.retire([self.vcpu.distances()[5] if kind == 5 else 0 for kind in range(7)])
        self.vcpu.pmi_exit()


def _join(design: str, profile: Profile = KVM_5_14) -> Joined:
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    memory = memoryview(bytearray(2 * PAGE_SIZE)).cast("Q")
    host = HostVcpu(slot, memory, design_named(design), PmuCpuid(), profile)
    exited: list[tuple[str, int]] = []

    def cross() -> None:
        reason = slot[exits.REQUEST] & exits.REASON_MASK
        if reason in OPS:
            exited.append((OPS[ExitReason(reason)], slot[exits.ADDRESS]))
        host.serve()

    vcpu = Vcpu(slot, cross)
    vcpu.register_page(memory, PAGE_SIZE)
    vcpu.seam.wrmsr(0x38F, 0)
    return Joined(vcpu.seam, host, vcpu, memory[PAGE_SIZE // 8 :], exited)


@pytest.fixture
def paged() -> Joined:
    """With the page: FROZEN, GLOBAL_CTRL 0, every selector 0."""
    return _join("page")


@pytest.fixture
def trapped() -> Joined:
    """Without a page."""
    return _join("trap")


CONTROLS = (0x186, 0x38D, 0x38F, 0x834)
COUNTERS = (0xC1, 0x4C1, 0x309)


@pytest.mark.rule("DSC-7")
def test_without_a_page_every_access_exits(trapped: Joined) -> None:
    seam = trapped.seam
    for address in (*CONTROLS, *COUNTERS, 0x38E, 0x390, 0x345):
        assert trapped.exits_of(lambda at=address: seam.rdmsr(at)) == 1
    for address in (*CONTROLS, *COUNTERS, 0x390):
        assert trapped.exits_of(lambda at=address: seam.wrmsr(at, 0)) == 1
    for ecx in (0, 1 << 30):
        assert trapped.exits_of(lambda at=ecx: seam.rdpmc(at)) == 1


@pytest.mark.rule("ACC-1")
def test_while_frozen_no_valid_access_exits(paged: Joined) -> None:
    seam = paged.seam
    for address in (*CONTROLS, *COUNTERS, 0x38E):
        assert paged.exits_of(lambda at=address: seam.rdmsr(at)) == 0
    for address in (*CONTROLS, *COUNTERS, 0x390):
        assert paged.exits_of(lambda at=address: seam.wrmsr(at, 1)) == 0
    for ecx in (0, 1 << 30):
        assert paged.exits_of(lambda at=ecx: seam.rdpmc(at)) == 0


@pytest.mark.rule("ACC-4")
@pytest.mark.parametrize(
    ("address", "value"),
    [
        (0x186, 1 << 21),
        (0x186, 1 << 32),
        (0x38D, 0x4),
        (0x38D, 0x1000),
        (0x38F, 1 << 8),
        (0x390, 1 << 40),
        (0x834, 1 << 32),
        (0x4C1, 1 << 48),
        (0x38E, 0),
        (0x345, 0),
        (0x4C9, 0),
        (0x30C, 0),
    ],
)
@pytest.mark.parametrize("running", [False, True])
def test_a_faulting_write_exits_and_faults_where_it_happens(
    paged: Joined, running: bool, address: int, value: int
) -> None:
    if running:
        paged.run()
    before = paged.words.tolist()[page.TURN_FIRST : page.TURN_END]
    paged.exited.clear()
    with pytest.raises(GeneralProtectionError) as caught:
        paged.seam.wrmsr(address, value)
    assert (caught.value.op, caught.value.address, caught.value.value) == ("wrmsr", address, value)
    assert paged.exited == [("wrmsr", address)]
    assert paged.words.tolist()[page.TURN_FIRST : page.TURN_END] == before


@pytest.mark.rule("ACC-12")
def test_lvtpc_bits_that_the_apic_drops_exit_and_do_not_fault(paged: Joined) -> None:
    assert paged.exits_of(lambda: paged.seam.wrmsr(0x834, 0x2400)) == 1
    assert paged.seam.rdmsr(0x834) == 0x400


@pytest.mark.rule("ACC-1")
def test_while_running_control_reads_stay_and_live_counter_reads_exit(paged: Joined) -> None:
    paged.run()
    seam = paged.seam
    for address in (*CONTROLS, 0x38E, 0x4C2, 0x309):
        assert paged.exits_of(lambda at=address: seam.rdmsr(at)) == 0
    for address in (0xC1, 0x4C1):
        assert paged.exits_of(lambda at=address: seam.rdmsr(at)) == 1
    assert paged.exits_of(lambda: seam.rdpmc(0)) == 1
    assert paged.exits_of(lambda: seam.rdpmc(1)) == 0


@pytest.mark.rule("ACC-11")
@pytest.mark.parametrize("running", [False, True])
def test_ovf_ctrl_is_read_by_an_exit_that_knows_the_last_write(
    paged: Joined, running: bool
) -> None:
    if running:
        paged.run()
    paged.seam.wrmsr(0x390, 1 << 63 | 1)
    got: list[int] = []
    assert paged.exits_of(lambda: got.append(paged.seam.rdmsr(0x390))) == 1
    assert got == [1 << 63 | 1]


@pytest.mark.rule("FEA-8")
@pytest.mark.parametrize("running", [False, True])
def test_with_lvtpc_auto_a_write_of_the_mask_exits_also_with_the_same_value(running: bool) -> None:
    joined = _join("page", KVM_6_12)
    if running:
        joined.run()
    joined.seam.wrmsr(0x834, 0x400)
    for value, expected in ((0x400, 0), (0x1_0400, 1), (0x1_0400, 1)):
        assert joined.exits_of(lambda at=value: joined.seam.wrmsr(0x834, at)) == expected


@pytest.mark.rule("ACC-7")
def test_while_running_a_live_counter_reads_its_present_value(paged: Joined) -> None:
    paged.run()
    start = paged.seam.rdpmc(0)
    paged.vcpu.retire([0, 0, 0, 0, 0, 123, 0])
    assert paged.seam.rdpmc(0) == start + 123


@pytest.mark.rule("ACC-1", "ACC-6")
def test_while_running_only_changing_control_writes_exit(paged: Joined) -> None:
    paged.run()
    for address in CONTROLS:
        same = paged.seam.rdmsr(address)
        assert paged.exits_of(lambda at=address, value=same: paged.seam.wrmsr(at, value)) == 0
    assert paged.exits_of(lambda: paged.seam.wrmsr(0x187, SELECTOR)) == 1
    assert paged.exits_of(lambda: paged.seam.wrmsr(0x834, 0x1_0400)) == 1


@pytest.mark.rule("ACC-1")
def test_while_running_an_ack_stays_and_a_counter_write_exits_even_with_the_same_value(
    paged: Joined,
) -> None:
    paged.run()
    for _ in range(2):
        assert paged.exits_of(lambda: paged.seam.wrmsr(0x390, 1)) == 0
        assert paged.exits_of(lambda: paged.seam.wrmsr(0x4C2, 5)) == 1


@pytest.mark.rule("CMT-1", "STP-1")
def test_stop_and_commit_are_one_exit_each(paged: Joined) -> None:
    paged.run()
    assert paged.exits_of(lambda: paged.seam.wrmsr(0x38F, 0)) == 1
    assert paged.host.vpmu.live == 0
    assert paged.exits_of(lambda: paged.seam.wrmsr(0x4C1, 99)) == 0
    assert paged.exits_of(lambda: paged.seam.wrmsr(0x38F, ON)) == 1
    assert paged.seam.rdpmc(0) == 99


@pytest.mark.rule("CMT-1")
def test_a_selector_written_with_global_control_on_is_the_commit(paged: Joined) -> None:
    paged.seam.wrmsr(0x38F, ON)
    assert paged.host.hardware.started == []
    assert paged.exits_of(lambda: paged.seam.wrmsr(0x186, SELECTOR)) == 1
    assert len(paged.host.hardware.started) == 1


@pytest.mark.rule("ACC-5", "FRZ-5", "FRZ-6")
def test_during_a_hold_nothing_but_the_commit_exits(paged: Joined) -> None:
    paged.run()
    seam = paged.seam
    counts: list[Any] = []

    def handler() -> None:
        counts.append((seam.held, seam.rdmsr(0x38F)))
        paged.exited.clear()
        seam.wrmsr(0x187, SELECTOR)
        seam.rdpmc(0)
        seam.wrmsr(0x4C1, 7)
        seam.wrmsr(0x390, seam.rdmsr(0x38E))
        counts.append(len(paged.exited))
        seam.wrmsr(0x38F, ON)
        counts.append(list(paged.exited))

    paged.vcpu.on_nmi = handler
    paged.overflow()
    # Held, with GLOBAL_CTRL as the guest wrote it; the same value ends the hold.
    assert counts == [(True, ON), 0, [("wrmsr", 0x38F)]]
    assert not seam.held
    assert paged.host.vpmu.live == 0b11
    assert len(paged.host.hardware.started) == 2


@pytest.mark.rule("ACC-9")
def test_fast_rdpmc_exits_and_is_cut_to_32_bits(paged: Joined) -> None:
    paged.seam.wrmsr(0x4C1, 0x1234_5678_9ABC)
    assert paged.seam.rdpmc(0) == 0x1234_5678_9ABC
    assert paged.exits_of(lambda: paged.seam.rdpmc(1 << 31)) == 1
    assert paged.seam.rdpmc(1 << 31) == 0x5678_9ABC


@pytest.mark.rule("ACC-9")
@pytest.mark.parametrize("joined", ["paged", "trapped"])
def test_rdpmc_of_an_absent_counter_faults(joined: str, request: pytest.FixtureRequest) -> None:
    made: Joined = request.getfixturevalue(joined)
    for ecx in (8, 64, 1 << 30 | 3):
        with pytest.raises(GeneralProtectionError) as caught:
            made.seam.rdpmc(ecx)
        assert caught.value.op == "rdpmc"


@pytest.mark.rule("ACC-14")
@pytest.mark.parametrize("joined", ["paged", "trapped"])
@pytest.mark.parametrize(
    ("written", "read"), [(0x1_7FFF_FFFF, 0x7FFF_FFFF), (0x8000_0000, 0xFFFF_8000_0000)]
)
def test_a_legacy_counter_reads_back_sign_extended_through_both_addresses(
    joined: str, written: int, read: int, request: pytest.FixtureRequest
) -> None:
    made: Joined = request.getfixturevalue(joined)
    made.seam.wrmsr(0xC1, written)
    assert [made.seam.rdmsr(0xC1), made.seam.rdmsr(0x4C1), made.seam.rdpmc(0)] == [read] * 3


@pytest.mark.rule("REG-4")
def test_after_detaching_everything_exits_again(paged: Joined) -> None:
    paged.run()
    paged.vcpu.unregister_page()
    assert not paged.seam.held
    assert paged.exits_of(lambda: paged.seam.rdmsr(0x38E)) == 1
    assert paged.exits_of(lambda: paged.seam.wrmsr(0x38F, ON)) == 1
    assert paged.seam.rdmsr(0x186) == SELECTOR


@pytest.mark.rule("ACC-13", "FRE-10", "FRE-11")
@pytest.mark.parametrize("state", ["frozen", "running", "held"])
def test_an_exit_reads_what_the_page_reads(paged: Joined, state: str) -> None:
    checked: list[int] = []

    def compare() -> None:
        for address in (*CONTROLS, 0x4C1, 0x4C2, 0xC2, 0x309, 0x38E):
            checked.append(address)
            read = paged.seam.rdmsr(address)
            assert read == paged.vcpu.exit(ExitReason.MSR_READ, address), hex(address)
        for ecx in (0, 1, 1 << 30):
            assert paged.seam.rdpmc(ecx) == paged.vcpu.exit(ExitReason.RDPMC, ecx)

    paged.run()
    paged.seam.wrmsr(0x4C2, 77)
    if state == "held":
        paged.vcpu.on_nmi = compare
        paged.overflow()
    else:
        if state == "frozen":
            paged.seam.wrmsr(0x38F, 0)
            paged.seam.wrmsr(0x309, 12345)
            paged.seam.wrmsr(0x187, SELECTOR)
        compare()
    assert checked


@pytest.mark.rule("ACC-13")
@pytest.mark.parametrize(
    ("address", "value"),
    [
        (0x4C2, 99),
        (0xC2, 0x8000_0000),
        (0x309, 5),
        (0x187, SELECTOR),
        (0x38D, 0xB),
        (0x834, 0x1_0400),
    ],
)
def test_a_write_that_exits_leaves_what_a_write_to_the_page_leaves(
    address: int, value: int
) -> None:
    left = []
    for trapped in (False, True):
        made = _join("page")
        if trapped:
            made.vcpu.exit(ExitReason.MSR_WRITE, address, value)
        else:
            made.seam.wrmsr(address, value)
        made.seam.wrmsr(0x38F, ON)
        registers = (*CONTROLS, *COUNTERS, 0x4C2, 0x187, 0x38E)
        left.append([made.vcpu.exit(ExitReason.MSR_READ, at) for at in registers])
    assert left[0] == left[1]


@pytest.mark.rule("PG-5", "ACC-10", "CMT-1")
def test_a_version_1_pmu_has_a_page_without_the_global_registers() -> None:
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    memory = memoryview(bytearray(PAGE_SIZE)).cast("Q")
    canary = 0x5A5A
    for index in (page.GLOBAL_CTRL, page.FIXED_CTR_CTRL, page.FIXED_CTR):
        memory[index] = canary
    host = HostVcpu(slot, memory, design_named("page"), PmuCpuid(version=1, gp=4))
    vcpu = Vcpu(slot, host.serve)
    assert vcpu.register_page(memory, 0)
    seam = vcpu.seam
    seam.wrmsr(0x4C1, 5)
    assert memory[page.PMC] == 5
    seam.wrmsr(0x186, SELECTOR)
    assert memory[page.LIVE] == 1, "the counter's own enable alone starts it"
    vcpu.retire([0, 0, 0, 0, 0, 9, 0])
    assert seam.rdpmc(0) == 14
    seam.wrmsr(0x186, 0)
    assert (memory[page.LIVE], seam.rdmsr(0x4C1)) == (0, 14)
    for address in (0x38D, 0x38E, 0x38F, 0x309):
        with pytest.raises(GeneralProtectionError):
            seam.rdmsr(address)
    words = (page.GLOBAL_CTRL, page.FIXED_CTR_CTRL, page.FIXED_CTR)
    assert [memory[index] for index in words] == [canary] * 3
