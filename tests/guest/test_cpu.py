"""The guest's vCPU: exits, injected NMIs, retired counts, registration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.workload import RATE_ONE, Phase, Workload
from pvpmu.shared import exits, page
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import GeneralProtectionError, PeerError
from pvpmu.shared.events import BRANCHES, CYCLES, KINDS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER, ExitReason
from pvpmu.shared.page import PAGE_SIZE

USER, KERNEL = exits.RETIRED_USER, exits.RETIRED_KERNEL


class FakeHost:
    """Answers exits from a list of replies (0 when it is empty); logs every request."""

    def __init__(self, **times: int) -> None:
        self.slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.replies: list[int] = []
        self.requests: list[int] = []
        self.retired: list[tuple[list[int], list[int]]] = []
        self.answer: Callable[[], None] = lambda: None
        self.vcpu = Vcpu(self.slot, self._cross, **times)

    def _cross(self) -> None:
        slot = self.slot
        self.requests.append(slot[exits.REQUEST])
        user = slot[exits.RETIRED_USER_AT : exits.RETIRED_USER_AT + KINDS].tolist()
        kernel = slot[exits.RETIRED_KERNEL_AT : exits.RETIRED_KERNEL_AT + KINDS].tolist()
        self.retired.append((user, kernel))
        slot[exits.REPLY] = self.replies.pop(0) if self.replies else 0
        self.answer()

    def live(self, *entries: tuple[int, int, int]) -> None:
        """Publish live counters: (kind, modes, distance)."""
        slot = self.slot
        for number, (kind, modes, distance) in enumerate(entries):
            slot[exits.LIVE_AT + 2 * number] = kind | modes << exits.LIVE_MODE_SHIFT
            slot[exits.LIVE_AT + 2 * number + 1] = distance
        slot[exits.LIVE_COUNT] = len(entries)
        slot[exits.LIVE_VERSION] += 1

    def reasons(self) -> list[int]:
        """The requests so far without their flags."""
        return [request & exits.REASON_MASK for request in self.requests]


def _program(branches: int = RATE_ONE // 2, cycles: int = 10_000) -> Workload:
    rates = [RATE_ONE] + [0] * (KINDS - 1)
    rates[BRANCHES] = branches
    return Workload([Phase(cycles, tuple(rates))], 1_000_000_000)


def _counts(**kinds: int) -> list[int]:
    counts = [0] * KINDS
    counts[CYCLES] = kinds.get("cycles", 0)
    counts[BRANCHES] = kinds.get("branches", 0)
    return counts


def test_an_exit_stores_its_request_and_returns_the_result() -> None:
    host = FakeHost()
    host.slot[exits.RESULT] = 77
    assert host.vcpu.exit(ExitReason.MSR_READ, 0x38F, 5) == 77
    assert host.requests == [31]
    assert (host.slot[exits.ADDRESS], host.slot[exits.VALUE]) == (0x38F, 5)


@pytest.mark.parametrize(
    ("reason", "op"),
    [(ExitReason.MSR_READ, "rdmsr"), (ExitReason.MSR_WRITE, "wrmsr"), (ExitReason.RDPMC, "rdpmc")],
)
def test_a_fault_is_raised_where_the_access_was(reason: ExitReason, op: str) -> None:
    host = FakeHost()
    host.replies = [exits.FAULT_GP]
    with pytest.raises(GeneralProtectionError) as caught:
        host.vcpu.exit(reason, 0x123, 4)
    assert (caught.value.op, caught.value.address, caught.value.value) == (op, 0x123, 4)


@pytest.mark.rule("BND-15")
def test_an_injected_nmi_runs_the_handler_with_nmis_blocked() -> None:
    host = FakeHost()
    host.replies = [exits.INJECT_NMI]
    host.vcpu.on_nmi = lambda: host.vcpu.exit(ExitReason.MSR_READ, 0x38E) and None
    host.vcpu.exit(ExitReason.EXCEPTION_NMI)
    host.vcpu.exit(ExitReason.MSR_READ, 0x38E)
    assert host.requests == [0, 31 | exits.NMI_BLOCKED, 31]


@pytest.mark.rule("BND-15")
def test_the_result_survives_the_exits_of_the_handler() -> None:
    host = FakeHost()
    host.replies = [exits.INJECT_NMI]
    results = [11, 22]

    def answer() -> None:
        host.slot[exits.RESULT] = results.pop(0)

    host.answer = answer
    host.vcpu.on_nmi = lambda: host.vcpu.exit(ExitReason.MSR_READ, 0x38E) and None
    assert host.vcpu.exit(ExitReason.RDPMC, 0) == 11


@pytest.mark.rule("BND-14")
def test_a_wanted_nmi_window_exits_once_after_the_handler() -> None:
    host = FakeHost()
    host.replies = [exits.INJECT_NMI | exits.WANT_NMI_WINDOW]
    host.vcpu.exit(ExitReason.EXCEPTION_NMI)
    assert host.requests == [0, 8]
    host.vcpu.exit(ExitReason.MSR_READ, 1)
    assert host.requests == [0, 8, 31]


def test_a_window_wanted_during_the_handler_opens_after_it_and_may_inject() -> None:
    host = FakeHost()
    log: list[str] = []
    host.replies = [exits.INJECT_NMI, exits.WANT_NMI_WINDOW, exits.INJECT_NMI]

    def handler() -> None:
        log.append("in")
        host.vcpu.exit(ExitReason.MSR_READ, 0x38E)
        log.append("out")

    host.vcpu.on_nmi = handler
    host.vcpu.exit(ExitReason.EXCEPTION_NMI)
    # NMIs never nest: the second handler starts after the first one has ended.
    assert log == ["in", "out", "in", "out"]
    assert host.reasons() == [0, 31, 8, 31]


IF = exits.INTERRUPTIBLE
INJECT_41 = exits.INJECT_IRQ | 0x41 << exits.VECTOR_SHIFT


def _listening(*replies: int) -> tuple[FakeHost, list[str]]:
    """A host with these replies, and a log of the handlers, each of which makes one exit."""
    host, log = FakeHost(), list[str]()
    host.replies = [*replies]

    def handler(name: str) -> None:
        log.append(name)
        host.vcpu.exit(ExitReason.MSR_READ, 0x38E)
        log.append("iret")

    host.vcpu.on_nmi = lambda: handler("nmi")
    host.vcpu.on_interrupt = lambda vector: handler(f"{vector:#x}")
    return host, log


@pytest.mark.rule("BND-13", "BND-15")
def test_a_vectors_handler_runs_with_if_clear_and_nmis_not_blocked() -> None:
    host, log = _listening(0, INJECT_41)
    host.vcpu.exit(ExitReason.HLT)
    host.vcpu.set_interrupt_flag(enabled=True)
    host.vcpu.exit(ExitReason.EXCEPTION_NMI)
    host.vcpu.exit(ExitReason.HLT)
    assert log == ["0x41", "iret"]
    assert host.requests == [12, 0 | IF, 31, 12 | IF]


@pytest.mark.rule("BND-14")
def test_a_wanted_interrupt_window_exits_as_soon_as_if_is_set() -> None:
    host, log = _listening(exits.WANT_IRQ_WINDOW, 0, INJECT_41)
    host.vcpu.exit(ExitReason.EXCEPTION_NMI)
    host.vcpu.exit(ExitReason.HLT)
    assert log == []
    host.vcpu.set_interrupt_flag(enabled=True)
    assert log == ["0x41", "iret"]
    host.vcpu.set_interrupt_flag(enabled=False)
    host.vcpu.set_interrupt_flag(enabled=True)
    assert host.requests == [0, 12, 7 | IF, 31]


@pytest.mark.rule("BND-15")
def test_an_nmi_is_taken_inside_a_vectors_handler_and_if_comes_back_with_the_last_iret() -> None:
    host, log = _listening(INJECT_41, exits.INJECT_NMI)
    host.vcpu.set_interrupt_flag(enabled=True)
    host.vcpu.exit(ExitReason.EXCEPTION_NMI)
    host.vcpu.exit(ExitReason.HLT)
    assert log == ["0x41", "nmi", "iret", "iret"]
    assert host.requests == [0 | IF, 31, 31 | exits.NMI_BLOCKED, 12 | IF]


@pytest.mark.rule("BND-14", "PMI-12")
def test_after_an_nmi_the_window_opens_with_iret() -> None:
    host, log = _listening(exits.INJECT_NMI | exits.WANT_IRQ_WINDOW, 0, INJECT_41)
    host.vcpu.set_interrupt_flag(enabled=True)
    host.vcpu.exit(ExitReason.EXCEPTION_NMI)
    assert log == ["nmi", "iret", "0x41", "iret"]
    assert host.reasons() == [0, 31, 7, 31]


@pytest.mark.rule("BND-14", "BND-15")
@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (exits.FAULT_GP, "answers EXCEPTION_NMI with #GP"),
        (INJECT_41, "vector 0x41 while none can be taken"),
        (exits.INJECT_NMI, "an NMI while NMIs are blocked"),
    ],
)
def test_a_reply_that_no_host_may_give_ends_the_guest_in_one_line(reply: int, says: str) -> None:
    host, _ = _listening(reply, reply)
    with pytest.raises(PeerError, match=says):
        host.vcpu.exit(ExitReason.EXCEPTION_NMI)


def test_a_host_that_injects_without_end_ends_the_guest_too() -> None:
    host = FakeHost()
    host.replies = [exits.INJECT_NMI | exits.WANT_NMI_WINDOW] * 1000
    with pytest.raises(PeerError, match="at each of 16 windows in a row"):
        host.vcpu.exit(ExitReason.EXCEPTION_NMI)


@pytest.mark.parametrize("inject", [exits.INJECT_NMI, INJECT_41])
def test_a_handler_cannot_set_if(inject: int) -> None:
    host, _ = _listening(inject)

    def handler(*_: int) -> None:
        host.vcpu.set_interrupt_flag(enabled=False)
        host.vcpu.set_interrupt_flag(enabled=True)
        host.vcpu.exit(ExitReason.HLT)

    host.vcpu.on_nmi = host.vcpu.on_interrupt = handler
    host.vcpu.set_interrupt_flag(enabled=True)
    host.vcpu.exit(ExitReason.EXCEPTION_NMI)
    host.vcpu.exit(ExitReason.HLT)
    assert [bool(request & IF) for request in host.requests] == [True, False, True]


@pytest.mark.rule("BND-13", "BND-17")
def test_every_exit_carries_what_was_retired_since_the_last_one() -> None:
    host = FakeHost()
    vcpu = host.vcpu
    vcpu.retire(_counts(cycles=10, branches=3))
    vcpu.retire(_counts(cycles=5))
    vcpu.retire(_counts(cycles=7, branches=1), MODE_KERNEL)
    vcpu.exit(ExitReason.MSR_READ, 1)
    vcpu.exit(ExitReason.MSR_READ, 1)
    assert host.requests == [31 | USER | KERNEL, 31]
    assert host.retired[0] == (_counts(cycles=15, branches=3), _counts(cycles=7, branches=1))


def test_what_is_retired_shortens_the_distances_of_its_mode() -> None:
    host = FakeHost()
    host.live((CYCLES, MODE_USER, 100), (CYCLES, MODE_KERNEL, 50), (BRANCHES, 3, 30))
    assert host.vcpu.distances()[CYCLES] == 50
    host.vcpu.retire(_counts(cycles=60, branches=4))
    assert host.vcpu.distances() == _counts(cycles=40, branches=26)
    host.vcpu.retire(_counts(branches=5), MODE_KERNEL)
    assert host.vcpu.distances()[BRANCHES] == 21


def test_the_program_runs_to_the_cycle_and_not_further() -> None:
    host = FakeHost()
    program = host.vcpu.program = _program(cycles=64)
    host.vcpu.run_until(1000)
    assert program.cycles == 1000
    assert host.requests == []


@pytest.mark.rule("BND-17")
def test_the_nearest_overflow_stops_the_program_for_a_pmi() -> None:
    host = FakeHost()
    program = host.vcpu.program = _program()
    host.live((CYCLES, 3, 500), (BRANCHES, 3, 100))
    at: list[int] = []

    def answer() -> None:
        at.append(program.cycles)
        host.live()

    host.answer = answer
    host.vcpu.run_until(1000)
    # A branch every other cycle: the hundredth retires in cycle 200.
    assert at == [200]
    assert host.requests == [0 | USER]
    assert host.retired[0][0] == _counts(cycles=200, branches=100)


@pytest.mark.parametrize(("skid", "stopped"), [(0, 500), (30, 530)])
def test_it_can_stop_after_a_pmi_which_may_have_taken_time(skid: int, stopped: int) -> None:
    host = FakeHost(skid=skid)
    program = host.vcpu.program = _program()
    host.live((CYCLES, 3, 500))
    host.answer = host.live
    host.vcpu.run_until(1000, stop_at_pmi=True)
    assert program.cycles == stopped
    assert host.reasons() == [0]
    host.vcpu.run_until(1000, stop_at_pmi=True)
    assert program.cycles == 1000


@pytest.mark.rule("BND-17")
def test_skid_delays_the_pmi_by_its_cycles() -> None:
    host = FakeHost(skid=30)
    program = host.vcpu.program = _program()
    host.live((CYCLES, 3, 500))
    at: list[int] = []

    def answer() -> None:
        at.append(program.cycles)
        host.live()

    host.answer = answer
    host.vcpu.run_until(1000)
    assert at == [530]


def test_a_counter_that_does_not_count_in_user_mode_does_not_stop_the_program() -> None:
    host = FakeHost()
    host.vcpu.program = _program()
    host.live((CYCLES, MODE_KERNEL, 10))
    host.vcpu.run_until(100)
    assert host.requests == []


def test_latency_and_tail_run_in_kernel_mode_around_the_handler() -> None:
    host = FakeHost(latency=40, tail=25)
    program = host.vcpu.program = _program()
    cycles: list[int] = []
    host.vcpu.on_nmi = lambda: cycles.append(program.cycles)
    host.replies = [exits.INJECT_NMI]
    host.vcpu.exit(ExitReason.EXCEPTION_NMI)
    assert cycles == [40]
    assert program.cycles == 65
    host.vcpu.exit(ExitReason.MSR_READ, 1)
    assert host.requests[-1] == 31 | KERNEL
    assert host.retired[-1][1][CYCLES] == 65


def test_a_stray_pmi_is_flagged() -> None:
    host = FakeHost()
    host.vcpu.pmi_exit(stray=True)
    host.vcpu.pmi_exit()
    assert host.requests == [exits.STRAY_PMI, 0]


# Registration ----------------------------------------------------------------------------------


class FakeLeaves:
    """A host that answers CPUID from a table and publishes a page when told to."""

    def __init__(
        self,
        *,
        signature: bool,
        ready: bool,
        versions: int = 0x101,
        offered: int = 0x1A,
        size: int = PAGE_SIZE,
    ) -> None:
        self.host = FakeHost()
        self.host.answer = self._answer
        self.memory = memoryview(bytearray(2 * PAGE_SIZE)).cast("Q")
        self.ready = ready
        self.registered: list[tuple[int, int]] = []
        eax, ebx, ecx, edx = PmuCpuid(gp=4).encode()
        self.leaves = {0xA: (eax, ebx, ecx, edx), 1: (0, 0, 1 << 15, 0)}
        if signature:
            self.leaves[exits.LEAF_SIGNATURE] = (exits.LEAF_FEATURES, *exits.SIGNATURE)
            self.leaves[exits.LEAF_FEATURES] = (versions, offered, 0x5056_6000, size)

    def _answer(self) -> None:
        slot = self.host.slot
        reason = slot[exits.REQUEST] & exits.REASON_MASK
        if reason == ExitReason.CPUID:
            eax, ebx, ecx, edx = self.leaves.get(slot[exits.ADDRESS], (0, 0, 0, 0))
            slot[exits.RESULT] = eax | ebx << 32
            slot[exits.RESULT_HIGH] = ecx | edx << 32
        elif reason == ExitReason.MSR_READ:
            slot[exits.RESULT] = 1 << 13 if slot[exits.ADDRESS] == 0x345 else 0
        elif reason == ExitReason.MSR_WRITE:
            self.registered.append((slot[exits.ADDRESS], slot[exits.VALUE]))
            if self.ready:
                self.memory[PAGE_SIZE // 8 + page.VERSION] = page.PAGE_VERSION


def _seam_traps(leaves: Any) -> bool:
    before = len(leaves.host.requests)
    leaves.host.vcpu.seam.rdmsr(0x38E)
    return len(leaves.host.requests) > before


def test_cpuid_gives_the_shape_of_the_pmu() -> None:
    leaves = FakeLeaves(signature=False, ready=False)
    assert leaves.host.vcpu.pmu_cpuid() == PmuCpuid(gp=4)


@pytest.mark.rule("DSC-4")
def test_without_the_leaf_nothing_is_written_and_everything_traps() -> None:
    leaves = FakeLeaves(signature=False, ready=True)
    assert not leaves.host.vcpu.register_page(leaves.memory, PAGE_SIZE)
    assert leaves.registered == []
    assert _seam_traps(leaves)


@pytest.mark.rule("DSC-6", "FEA-1")
@pytest.mark.parametrize(
    "changes", [{"versions": 0x302}, {"versions": 0}, {"size": 8192}, {"offered": 0x42}]
)
def test_another_version_or_size_or_an_unknown_required_feature_is_not_registered(
    changes: dict[str, int],
) -> None:
    leaves = FakeLeaves(signature=True, ready=True, **changes)
    assert not leaves.host.vcpu.register_page(leaves.memory, PAGE_SIZE)
    assert leaves.registered == []
    assert _seam_traps(leaves)


@pytest.mark.rule("REG-8")
def test_a_refused_page_leaves_everything_trapping() -> None:
    leaves = FakeLeaves(signature=True, ready=False)
    assert not leaves.host.vcpu.register_page(leaves.memory, PAGE_SIZE)
    assert len(leaves.registered) == 1
    assert _seam_traps(leaves)


@pytest.mark.rule("FEA-4")
def test_only_known_features_are_asked_for_with_the_address() -> None:
    leaves = FakeLeaves(signature=True, ready=True)
    assert leaves.host.vcpu.register_page(leaves.memory, PAGE_SIZE)
    # Of the offered 0x1a only FREEZE (bit 1) is known; version 1, and bit 0 enables.
    assert leaves.registered == [(0x5056_6000, PAGE_SIZE | 0x103)]
    assert not _seam_traps(leaves)


@pytest.mark.rule("DSC-5")
def test_the_address_of_the_register_comes_from_the_leaf() -> None:
    leaves = FakeLeaves(signature=True, ready=True)
    assert leaves.host.vcpu.register_page(leaves.memory, PAGE_SIZE)
    leaves.host.vcpu.unregister_page()
    assert [address for address, _ in leaves.registered] == [0x5056_6000] * 2


@pytest.mark.rule("FEA-1")
def test_an_optional_feature_can_be_left_out() -> None:
    leaves = FakeLeaves(signature=True, ready=True)
    assert leaves.host.vcpu.register_page(leaves.memory, PAGE_SIZE, features=0)
    assert leaves.registered == [(0x5056_6000, PAGE_SIZE | 0x101)]


@pytest.mark.rule("GEN-3", "GEN-4")
@pytest.mark.parametrize(("generation", "traps"), [(0, True), (7, False)])
def test_another_generation_is_a_loss_and_the_invalid_one_ends_the_use_of_the_page(
    generation: int, traps: bool
) -> None:
    leaves = FakeLeaves(signature=True, ready=True)
    words = leaves.memory[PAGE_SIZE // 8 :]
    words[page.GENERATION] = 5
    vcpu = leaves.host.vcpu
    assert vcpu.register_page(leaves.memory, PAGE_SIZE)
    words[page.GENERATION] = generation
    vcpu.exit(ExitReason.HLT)
    assert (vcpu.seam.losses, _seam_traps(leaves)) == (1, traps)


def test_unregistering_writes_zero_and_traps_again() -> None:
    leaves = FakeLeaves(signature=True, ready=True)
    leaves.host.vcpu.register_page(leaves.memory, PAGE_SIZE)
    leaves.host.vcpu.unregister_page()
    assert leaves.registered[-1] == (0x5056_6000, 0)
    assert _seam_traps(leaves)
