"""What a host publishes of a vCPU: exits by key, the state, PMIs, all since it began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.host.liveview import HostLive, VmLive, publishing
from pvpmu.host.pmi import PmiCounts
from pvpmu.shared import liveview, page
from pvpmu.shared import registers as msr
from pvpmu.shared.errors import PeerError
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.liveview import EXIT_KEYS, OTHER, AccessPath, Key, State, Status

WRITE, READ = int(ExitReason.MSR_WRITE), int(ExitReason.MSR_READ)
EXIT, COMMIT = AccessPath.EXIT, AccessPath.COMMIT
ALL_ON = 0x7_0000_00FF


def new_words() -> memoryview:
    return memoryview(bytearray(liveview.HOST_VCPU.size)).cast("Q")


def exits_of(words: memoryview) -> dict[Key, int]:
    counts = words[liveview.HOST_EXITS : liveview.HOST_EXITS + len(EXIT_KEYS)].tolist()
    return {key: count for key, count in zip(EXIT_KEYS, counts, strict=True) if count}


def pmis_of(words: memoryview) -> dict[str, int]:
    first = liveview.HOST_PMI
    found = words[first : first + len(liveview.PMI_WORDS)].tolist()
    return dict(zip(liveview.PMI_WORDS, found, strict=True))


@pytest.fixture
def live() -> tuple[HostLive, memoryview]:
    words = new_words()
    return HostLive(words), words


def watched(machine: Any) -> memoryview:
    """Publish a machine's exits from here on; returns the words."""
    words = new_words()
    machine.host.serve = publishing(machine.host, machine.slot, HostLive(words))
    return words


def test_each_exit_counts_under_its_reason_and_register(live: Any) -> None:
    publisher, words = live
    for _ in range(3):
        publisher.served(WRITE, msr.GLOBAL_CTRL, State.TRAP_ONLY)
    publisher.served(int(ExitReason.RDPMC), 1, State.TRAP_ONLY)
    publisher.served(int(ExitReason.HLT), 0, State.TRAP_ONLY)
    assert exits_of(words) == {
        Key(WRITE, msr.GLOBAL_CTRL, EXIT): 3,
        Key(ExitReason.RDPMC, 1, EXIT): 1,
        Key(ExitReason.HLT, 0, EXIT): 1,
    }


@pytest.mark.parametrize(
    ("reason", "address", "key"),
    [
        (WRITE, 0x1234, Key(WRITE, OTHER, EXIT)),
        (READ, (1 << 64) - 1, Key(READ, OTHER, EXIT)),
        (int(ExitReason.CPUID), 0x4000_0100, Key(ExitReason.CPUID, 0, EXIT)),
        (2, 0x38F, EXIT_KEYS[-1]),
    ],
)
def test_what_is_no_register_or_no_known_reason_counts_together(
    live: Any, reason: int, address: int, key: Key
) -> None:
    publisher, words = live
    publisher.served(reason, address, State.TRAP_ONLY)
    assert exits_of(words) == {key: 1}


def test_a_write_that_leaves_frozen_is_a_commit(live: Any) -> None:
    publisher, words = live
    publisher.entered(State.FROZEN, 1)
    publisher.served(WRITE, msr.GLOBAL_CTRL, State.RUNNING)
    publisher.served(WRITE, msr.GLOBAL_CTRL, State.FROZEN)
    assert exits_of(words) == {
        Key(WRITE, msr.GLOBAL_CTRL, COMMIT): 1,
        Key(WRITE, msr.GLOBAL_CTRL, EXIT): 1,
    }


def test_a_commit_whose_entry_brings_a_pmi_that_freezes_is_still_one(live: Any) -> None:
    publisher, words = live
    publisher.entered(State.FROZEN, 1)
    publisher.served(WRITE, msr.GLOBAL_CTRL, State.FROZEN, injected=True)
    assert exits_of(words) == {Key(WRITE, msr.GLOBAL_CTRL, COMMIT): 1}


def test_a_write_of_a_register_that_starts_nothing_is_never_a_commit(live: Any) -> None:
    publisher, words = live
    publisher.entered(State.FROZEN, 1)
    publisher.served(WRITE, msr.PV_PAGE, State.RUNNING)
    assert exits_of(words) == {Key(WRITE, msr.PV_PAGE, EXIT): 1}


def test_pmis_go_on_over_the_windows_of_the_statistics(live: Any) -> None:
    publisher, words = live
    first = PmiCounts(raised=3, delivered=2)
    publisher.pmis(first)
    first.delivered = 3
    publisher.pmis(PmiCounts(raised=1, coalesced=1))
    assert pmis_of(words) == {
        **dict.fromkeys(liveview.PMI_WORDS, 0), "raised": 4, "delivered": 3, "coalesced": 1,
    }  # fmt: skip


def test_a_host_vcpu_publishes_what_its_statistics_count(new_machine: Callable[..., Any]) -> None:
    machine = new_machine(paged=False)
    words = watched(machine)
    machine.run_four()
    machine.nmi(branches=1000)
    published = exits_of(words)
    counted = machine.host.stats.exits
    assert sum(published.values()) == sum(counted.values())
    for reason, count in counted.items():
        assert sum(n for key, n in published.items() if key.reason == reason) == count
    assert pmis_of(words)["delivered"] == machine.host.delivery.counts.delivered == 1
    assert words[liveview.HOST_STATE] == State.TRAP_ONLY


def test_the_state_and_the_generation_follow_the_page(new_machine: Callable[..., Any]) -> None:
    machine = new_machine()
    words = watched(machine)
    machine.program_four()
    assert words[liveview.HOST_STATE] == State.TRAP_ONLY
    assert words[liveview.HOST_GENERATION] == 0
    page_words = machine.register()
    assert words[liveview.HOST_STATE] == State.FROZEN
    assert words[liveview.HOST_GENERATION] == page_words[page.GENERATION] != 0
    machine.write(msr.GLOBAL_CTRL, ALL_ON)
    assert words[liveview.HOST_STATE] == State.RUNNING
    assert exits_of(words)[Key(WRITE, msr.GLOBAL_CTRL, COMMIT)] == 1
    machine.write(msr.GLOBAL_CTRL, 0)
    assert words[liveview.HOST_STATE] == State.FROZEN
    machine.write(msr.PV_PAGE, 0)
    assert words[liveview.HOST_STATE] == State.TRAP_ONLY
    assert words[liveview.HOST_GENERATION] == 0


def test_a_vcpu_reset_ends_no_count(new_machine: Callable[..., Any]) -> None:
    machine = new_machine(paged=False)
    words = watched(machine)
    machine.run_four()
    machine.nmi(branches=1000)
    before = exits_of(words), pmis_of(words)
    for control in (Control.STOP, Control.RESET, Control.START):
        machine.exit(ExitReason.CONTROL, value=control)
    assert (exits_of(words), pmis_of(words)) == before


def test_the_end_of_a_guest_says_whether_it_said_bye() -> None:
    words = memoryview(bytearray(liveview.VM.size)).cast("Q")
    live = VmLive("name", words)
    with live.serving(4711, 2):
        assert words[liveview.VM_STATUS] == Status.SERVING
        assert words[liveview.VM_GUEST] == 4711
        assert words[liveview.VM_GUEST_VCPUS] == 2
    assert words[liveview.VM_STATUS] == Status.DONE
    for error, status in ((PeerError, Status.LOST), (KeyboardInterrupt, Status.STOPPED)):
        with pytest.raises(error), live.serving(4712, 2):
            raise error
        assert words[liveview.VM_STATUS] == status
