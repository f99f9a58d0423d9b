"""Peers that break the rules: the other side ends with one line, and nothing is left."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import posix_ipc
import pytest

from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import control, memory
from pvpmu.shared.control import (
    CONTROL_VERSION,
    Channel,
    Hello,
    RefusalCode,
    Stats,
    StatsRequest,
    Welcome,
)
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import PeerError, RefusedError
from pvpmu.shared.exits import (
    FAULT_GP,
    INJECT_NMI,
    LIVE_COUNT,
    LIVE_VERSION,
    REPLY,
    REQUEST,
    RESULT,
    SLOT_SIZE,
    ExitReason,
)
from pvpmu.shared.memory import Segment

from .conftest import SHM, TIMEOUT_S, Vm, ended, hello, one_line

pytestmark = pytest.mark.process


MANY = 100_000
"""More messages than a socket buffers."""


def admitted(vm: Vm) -> tuple[Channel, Welcome]:
    """Shake hands as a guest of one vCPU; its memory must exist."""
    channel = control.connect(vm.name)
    assert channel is not None
    channel.set_timeout(TIMEOUT_S)
    channel.send(hello(vm))
    return channel, channel.expect(Welcome)


def test_a_full_entry_semaphore_ends_the_host_with_one_line(vm: Vm) -> None:
    host = vm.host("--design", "trap")
    with Segment.create(memory.segment_name(vm.name, "guest"), 4096):
        channel, welcome = admitted(vm)
        exit_name, entry_name = welcome.semaphores[0]
        entry = posix_ipc.Semaphore(entry_name)
        with (SHM / f"sem.{entry_name.lstrip('/')}").open("r+b") as file:
            # glibc keeps the value in the low half of the first word.
            file.write((posix_ipc.SEMAPHORE_VALUE_MAX).to_bytes(4, "little"))
        posix_ipc.Semaphore(exit_name).release()
        status, _, errors = ended(host)
        entry.close()
        channel.close()
    assert status == 1
    assert "semaphores of vCPU 0" in one_line(errors)


@pytest.mark.rule("BND-9")
@pytest.mark.parametrize("make", ["fifo", "folder", "short"])
def test_memory_that_is_no_segment_is_refused_without_touching_it(vm: Vm, make: str) -> None:
    host = vm.host()
    path = SHM / memory.segment_name(vm.name, "guest")
    if make == "fifo":
        os.mkfifo(path)
    elif make == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"x")
    try:
        channel = control.connect(vm.name)
        assert channel is not None
        channel.send(hello(vm))
        with pytest.raises(RefusedError, match=f"code {int(RefusalCode.BAD_MEMORY)}"):
            channel.expect(Welcome)
        channel.close()
    finally:
        path.rmdir() if make == "folder" else path.unlink()
    host.send_signal(signal.SIGTERM)
    status, _, errors = ended(host)
    assert status == 143
    assert "terminated" in one_line(errors)


def test_statistics_of_a_vcpu_that_has_not_run_are_empty_and_a_wrong_number_ends_the_session(
    vm: Vm,
) -> None:
    host = vm.host()
    with Segment.create(memory.segment_name(vm.name, "guest"), 4096):
        channel, _ = admitted(vm)
        channel.send(StatsRequest(0))
        assert channel.expect(Stats).stats.exits == {}
        channel.send(StatsRequest(1))
        status, _, errors = ended(host)
        channel.close()
    assert status == 1
    assert "StatsRequest(vcpu=1)" in one_line(errors)


def test_a_guest_that_never_reads_its_answers_ends_the_host(vm: Vm) -> None:
    host = vm.host()
    with Segment.create(memory.segment_name(vm.name, "guest"), 4096):
        channel, _ = admitted(vm)
        for _ in range(MANY):
            try:
                channel.send(StatsRequest(0))
            except PeerError:
                break
        status, _, errors = ended(host)
        channel.close()
    assert status == 1
    assert "gone" in one_line(errors) or "within" in errors


@pytest.mark.rule("BND-18")
def test_posts_without_requests_do_no_harm(vm: Vm) -> None:
    host = vm.host("--design", "trap")
    with Segment.create(memory.segment_name(vm.name, "guest"), 4096):
        channel, welcome = admitted(vm)
        segment = Segment.attach(welcome.segment, SLOT_SIZE)
        segment.words[REQUEST] = ExitReason.HLT
        exits, entries = (posix_ipc.Semaphore(name) for name in welcome.semaphores[0])
        for _ in range(1000):
            exits.release()
        for _ in range(1000):
            entries.acquire(TIMEOUT_S)
        channel.send(control.Bye())
        assert ended(host)[0] == 0
        segment.close()
        for semaphore in (exits, entries):
            semaphore.close()
        channel.close()


WELCOME = Welcome(
    version=CONTROL_VERSION,
    pid=1,
    design="page",
    segment="x",
    segment_bytes=SLOT_SIZE,
    slot_bytes=SLOT_SIZE,
    semaphores=[("/a", "/b")],
    cpus=[-1],
)


@pytest.mark.rule("BND-10")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cpus": []}, "expected 1 of each"),
        ({"semaphores": []}, "expected 1 of each"),
        ({"slot_bytes": 0}, "expected 1 of at least"),
        ({"segment_bytes": 8}, "expected 1 of at least"),
        ({"segment": "nothing.here"}, "no name of a shared memory segment"),
        ({"segment": "pvpmu.nobody.host"}, "No such file"),
    ],
)
def test_a_wrong_welcome_ends_the_guest_with_one_line(
    vm: Vm, changes: dict[str, object], says: str
) -> None:
    fields = {name: getattr(WELCOME, name) for name in WELCOME.__slots__} | changes
    with control.listen(vm.name) as listener:
        guest = vm.guest()
        channel = Channel(listener.accept()[0])
        channel.expect(Hello)
        channel.send(Welcome(**fields))
        status, _, errors = ended(guest)
        channel.close()
    assert status == 1
    assert says in one_line(errors)


GARBAGE: dict[str, tuple[dict[int, int], int, str]] = {
    "a fault at a legal access": ({REPLY: FAULT_GP}, 30, "refuses a legal access: #GP"),
    "live entries": ({LIVE_COUNT: 1 << 40, LIVE_VERSION: 999}, 30, "at most 19 fit the slot"),
    "NMIs in a handler": ({REPLY: INJECT_NMI}, 30, "while NMIs are blocked"),
    "a PMU that cannot be": ({RESULT: 0xFF02}, 1, "leaf 0xa: gp counters: 255 is outside 1..8"),
}
"""Words that the host stores over its own after so many good answers, and what the guest says."""
MANY_WAITS = 1000


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_in_the_slot_after_a_good_handshake_ends_the_guest_with_one_line(
    vm: Vm, what: str
) -> None:
    garbage, good, says = GARBAGE[what]
    with ExitStack() as stack:
        name = memory.segment_name(vm.name, "host")
        slot = stack.enter_context(Segment.create(name, SLOT_SIZE))
        names = [memory.semaphore_name(vm.name, 0, kind) for kind in memory.SEMAPHORES]
        exit_, entry = (memory.create_semaphore(name) for name in names)
        stack.callback(memory.remove_semaphore, exit_)
        stack.callback(memory.remove_semaphore, entry)
        listener = stack.enter_context(control.listen(vm.name))
        guest = vm.guest()
        channel = Channel(listener.accept()[0])
        stack.callback(channel.close)
        said = channel.expect(Hello)
        memory_of_guest = stack.enter_context(Segment.attach(said.memory, said.memory_bytes))
        changes = {"segment": name, "semaphores": [tuple(names)]}
        fields = {field: getattr(WELCOME, field) for field in WELCOME.__slots__} | changes
        channel.send(Welcome(**fields))
        host = HostVcpu(slot.words, memory_of_guest.words, design_named("trap"), PmuCpuid())
        served = waited = 0
        while guest.poll() is None and waited < MANY_WAITS:
            try:
                exit_.acquire(0.05)
            except posix_ipc.BusyError:
                waited += 1
                continue
            host.serve()
            served += 1
            for word, value in garbage.items() if served > good else ():
                slot.words[word] = value
            entry.release()
        status, _, errors = ended(guest)
        # What looks into the segments must be gone before they can be unmapped.
        del host
        gc.collect()
    assert status == 1
    assert says in one_line(errors)


def test_a_host_whose_backlog_is_full_does_not_hold_the_guest_beyond_its_wait(vm: Vm) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(control.socket_address(vm.name))
        listener.listen(0)
        first = control.connect(vm.name)
        status, _, errors = ended(vm.start("pvpmu.guest.cli", "--wait", "0.1"))
        assert first is not None
        first.close()
    assert status == 1
    assert "no host" in one_line(errors)


def test_a_closed_terminal_ends_the_host_like_a_signal(vm: Vm) -> None:
    # These tests may run under nohup themselves.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        host = vm.host()
    finally:
        signal.signal(signal.SIGHUP, before)
    host.send_signal(signal.SIGHUP)
    status, _, errors = ended(host)
    assert status == 129
    assert "terminated" in one_line(errors)
    assert vm.left() == []


def test_a_host_under_nohup_survives_the_terminal(vm: Vm) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        host = vm.host()
    finally:
        signal.signal(signal.SIGHUP, before)
    host.send_signal(signal.SIGHUP)
    assert ended(vm.guest())[0] == 0
    assert ended(host)[0] == 0


def test_a_wait_of_nothing_is_no_defect(vm: Vm) -> None:
    status, _, errors = ended(vm.start("pvpmu.host.cli", "--wait", "0"))
    assert status == 1
    assert "no guest came" in one_line(errors)


def test_a_pmu_that_the_scenario_was_not_written_for_is_refused(vm: Vm) -> None:
    host = vm.host("--gp", "2")
    status, _, errors = ended(vm.guest())
    assert status == 2
    assert "needs 8 GP and 3 fixed counters of 48 bits" in one_line(errors)
    assert ended(host)[0] == 0


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pvpmu.cli", "cleanup"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
