"""Finding hosts and reading what they publish; nothing is ever stored."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pvpmu.console.attach import Attached, running
from pvpmu.shared import liveview, memory
from pvpmu.shared.errors import UsageError
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.liveview import AccessPath, Key, State, Status

WRITE = int(ExitReason.MSR_WRITE)
CTRL = Key(WRITE, 0x38F, AccessPath.EXIT)
STATUS = Key(ExitReason.MSR_READ, 0x38E, AccessPath.PAGE)


def test_a_host_is_found_by_name_and_read(publish: Any) -> None:
    published = publish(vcpus=2, design="trap")
    published.vcpu(1).served(WRITE, 0x38F, State.TRAP_ONLY)
    published.live(1).record(STATUS.reason, STATUS.address, STATUS.path, 180)
    assert published.name in running()
    with Attached(published.name) as attached:
        vm = attached.read()
    assert (vm.name, vm.design, vm.status, vm.lives) == (
        published.name, "trap", Status.SERVING, True,
    )  # fmt: skip
    assert (vm.guest, vm.used) == (4711, 2)
    assert vm.vcpus[0].exits == {}
    assert vm.vcpus[1].exits == {CTRL: 1}
    assert vm.vcpus[1].guest is not None
    assert vm.vcpus[1].guest.series == {STATUS: {180: 1}}
    assert vm.records


def test_what_is_published_is_read_anew_each_time(publish: Any) -> None:
    published = publish(records=False)
    vcpu = published.vcpu(0)
    with Attached(published.name) as attached:
        assert attached.read().vcpus[0].exits == {}
        vcpu.served(WRITE, 0x38F, State.TRAP_ONLY)
        assert attached.read().vcpus[0].exits == {CTRL: 1}
        assert not attached.read().records


def test_a_guest_that_comes_later_is_found(publish: Any) -> None:
    published = publish(serving=False)
    with Attached(published.name) as attached:
        assert attached.read().status is Status.WAITING
        assert not attached.read().records
        published.host.words[liveview.VM_STATUS] = Status.SERVING
        assert attached.read().records


def test_the_last_numbers_outlive_the_host(publish: Any) -> None:
    published = publish()
    vcpu = published.vcpu(0)
    with Attached(published.name) as attached:
        attached.read()
        vcpu.served(WRITE, 0x38F, State.TRAP_ONLY)
        published.live(0).record(STATUS.reason, STATUS.address, STATUS.path, 180)
        published.end(Status.LOST)
        vm = attached.read()
    assert vm.ended
    assert not vm.lives
    assert vm.condition == "host ended: peer lost"
    assert vm.vcpus[0].exits == {CTRL: 1}
    assert vm.vcpus[0].guest is not None
    assert published.name not in running()


def test_a_guest_that_cuts_its_segment_only_loses_its_own_numbers(publish: Any) -> None:
    published = publish(vcpus=2)
    with Attached(published.name) as attached:
        attached.read()
        os.truncate(f"/dev/shm/{published.guest.name}", memory.HEADER_SIZE + 4096 + 4096)  # noqa: S108
        vm = attached.read()
        assert [vcpu.guest for vcpu in vm.vcpus][1] is None


def test_a_host_that_does_not_run_is_one_clear_error(publish: Any) -> None:
    published = publish()
    with pytest.raises(UsageError, match=r"no host of 'nobody'; running: .*" + published.name):
        Attached("nobody")


def test_another_version_says_so(publish: Any) -> None:
    published = publish()
    published.host.words[liveview.VM_VERSION] = 99
    with pytest.raises(UsageError, match="publishes version 99, expected 1"):
        Attached(published.name)


@pytest.mark.parametrize("vcpus", [0, 1025, (1 << 64) - 1])
def test_a_number_of_vcpus_that_cannot_be_is_refused(publish: Any, vcpus: int) -> None:
    published = publish()
    published.host.words[liveview.VM_VCPUS] = vcpus
    with pytest.raises(UsageError, match="vCPUs, expected 1 to 1024"):
        Attached(published.name)


def test_a_host_of_another_user_says_why(publish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    published = publish()

    def refused(name: str, size: int) -> None:
        raise memory.PeerError(f"{name}: Permission denied")

    monkeypatch.setattr(memory, "inspect_segment", refused)
    with pytest.raises(UsageError, match=r"cannot be read: .*Permission denied"):
        Attached(published.name)


def test_a_segment_whose_owner_died_is_no_host(
    publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish()
    monkeypatch.setattr(memory, "_owner_lives", lambda _: False)
    with pytest.raises(UsageError, match="has ended"):
        Attached(published.name)
