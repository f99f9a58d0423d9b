"""Host and guest as real processes: every way to start, to end and to be ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pvpmu.bench.vm import InlineVm, VmConfig, open_vm
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import load_scenario, run_seed
from pvpmu.shared import control, memory
from pvpmu.shared.control import CONTROL_VERSION, Hello, RefusalCode, Welcome
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import RefusedError
from pvpmu.shared.memory import Segment

from .conftest import SHORT, TIMEOUT_S, Vm, ended, hello, one_line

pytestmark = pytest.mark.process


def inline_digests(scenario: Path, design: str, vcpus: int, seed: int) -> list[str]:
    loaded = load_scenario(str(scenario))
    vm = InlineVm(VmConfig(design=design_named(design), cpuid=loaded.cpuid, vcpus=vcpus))
    jobs = [RunJob(loaded, run_seed(seed, 0, vcpu)) for vcpu in range(vcpus)]
    return [report.counts.samples_digest for report in vm.run(jobs)]


@pytest.mark.rule("BND-8", "BND-19")
@pytest.mark.parametrize("pin", ["same", "split", "none"])
def test_processes_take_the_same_samples_as_inline_wherever_they_run(vm: Vm, pin: str) -> None:
    if pin == "split" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("--pin split needs 2 CPUs")
    host = vm.host("--design", "page", "--vcpus", "2", "--pin", pin)
    status, output, errors = ended(vm.guest("--vcpus", "2", "--seed", "5", "--json"))
    assert (status, errors) == (0, "")
    assert ended(host)[0] == 0
    result = json.loads(output)
    assert result["design"] == "page"
    assert [run["page_registered"] for run in result["runs"]] == [True, True]
    digests = [run["samples_digest"] for run in result["runs"]]
    assert digests == inline_digests(vm.scenario, "page", 2, 5)
    assert all(event["count_error"] == 0 for run in result["runs"] for event in run["events"])
    assert vm.left() == []


def test_the_hosts_own_events_compete_in_a_process_as_inline() -> None:
    scenario = replace(load_scenario("host-profiles"), duration_us=4000)
    config = VmConfig(
        name=f"load-{os.getpid()}",
        design=design_named("page"),
        cpuid=scenario.cpuid,
        load=scenario.host_load,
    )
    seen = []
    for transport in ("process", "inline"):
        with open_vm(config, transport) as vm:
            (report,) = vm.run([RunJob(scenario, run_seed(1, 0, 0))])
            (stats,) = vm.stats()
            seen.append((report.counts.told, stats.load))
    assert seen[0] == seen[1]
    assert seen[0][1] is not None
    assert seen[0][1].refused > 0


def test_the_guest_may_be_started_first(vm: Vm) -> None:
    guest = vm.guest()
    host = vm.host("--design", "trap")
    status, output, _ = ended(guest)
    assert status == 0
    assert "no page: every access exits" in output
    assert ended(host)[0] == 0


def test_a_guest_may_use_fewer_vcpus_than_the_host_offers(vm: Vm) -> None:
    host = vm.host("--vcpus", "3")
    assert ended(vm.guest("--vcpus", "2"))[0] == 0
    assert ended(host)[0] == 0


def test_a_host_that_never_comes_ends_the_guest(vm: Vm) -> None:
    status, _, errors = ended(vm.start("pvpmu.guest.cli", "--wait", "0"))
    assert status == 1
    assert "no host" in one_line(errors)
    assert vm.left() == []


def test_a_guest_that_never_comes_ends_the_host(vm: Vm) -> None:
    status, _, errors = ended(vm.start("pvpmu.host.cli", "--wait", "0.05"))
    assert status == 1
    assert "no guest" in one_line(errors)
    assert vm.left() == []


@pytest.mark.rule("BND-12")
def test_a_second_host_of_the_same_name_is_told_so(vm: Vm) -> None:
    first = vm.host()
    status, _, errors = ended(vm.start("pvpmu.host.cli"))
    assert status == 1
    assert "in use" in one_line(errors)
    assert ended(vm.guest())[0] == 0
    assert ended(first)[0] == 0


@pytest.mark.rule("BND-12")
def test_a_second_guest_of_the_same_name_is_told_so(vm: Vm) -> None:
    vm.host()
    vm.running_guest()
    status, _, errors = ended(vm.guest())
    assert status == 1
    assert "in use" in one_line(errors)


def test_too_many_vcpus_are_refused_and_the_host_goes_on_waiting(vm: Vm) -> None:
    host = vm.host("--vcpus", "1")
    status, _, errors = ended(vm.guest("--vcpus", "2"))
    assert status == 1
    assert "2 vCPUs, expected 1 to 1" in one_line(errors)
    assert ended(vm.guest())[0] == 0
    assert ended(host)[0] == 0


@pytest.mark.rule("BND-6", "BND-9")
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": CONTROL_VERSION + 1}, RefusalCode.WRONG_VERSION),
        ({"vcpus": 2}, RefusalCode.TOO_MANY_VCPUS),
        ({"vcpus": 0}, RefusalCode.TOO_MANY_VCPUS),
        ({"memory_bytes": 4095}, RefusalCode.BAD_MEMORY),
        ({"memory_bytes": 1 << 40}, RefusalCode.BAD_MEMORY),
        ({"memory": "../etc/passwd"}, RefusalCode.BAD_MEMORY),
    ],
)
def test_a_wrong_hello_is_refused_with_its_code(
    vm: Vm, changes: dict[str, object], code: RefusalCode
) -> None:
    host = vm.host("--vcpus", "1")
    with Segment.create(memory.segment_name(vm.name, "guest"), 4096):
        channel = control.connect(vm.name)
        assert channel is not None
        channel.send(hello(vm, **changes))
        with pytest.raises(RefusedError, match=f"code {int(code)}"):
            channel.expect(Welcome)
        channel.close()
    assert host.poll() is None


@pytest.mark.rule("BND-9")
def test_garbage_on_the_control_socket_is_refused_and_the_host_goes_on(vm: Vm) -> None:
    host = vm.host()
    channel = control.connect(vm.name)
    assert channel is not None
    channel._sock.send(b"\xc1 no msgpack")
    with pytest.raises(RefusedError, match=f"code {int(RefusalCode.MALFORMED)}"):
        channel.expect(Welcome)
    channel.close()
    assert ended(vm.guest())[0] == 0
    assert ended(host)[0] == 0


@pytest.mark.rule("BND-9")
def test_a_visitor_of_a_busy_host_is_refused(vm: Vm) -> None:
    vm.host()
    vm.running_guest()
    channel = control.connect(vm.name)
    assert channel is not None
    with pytest.raises(RefusedError, match=f"code {int(RefusalCode.BUSY)}"):
        channel.expect(Welcome)
    channel.close()


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_a_waiting_host_with_one_line(
    vm: Vm, number: signal.Signals, status: int, word: str
) -> None:
    host = vm.host()
    host.send_signal(number)
    got, _, errors = ended(host)
    assert got == status
    assert word in one_line(errors)
    assert vm.left() == []


def test_ctrl_c_on_both_in_the_middle_of_a_run_leaves_nothing(vm: Vm) -> None:
    host, guest = vm.host(), vm.running_guest()
    for process in (host, guest):
        process.send_signal(signal.SIGINT)
    assert {ended(host)[0], ended(guest)[0]} <= {1, 130}
    assert vm.left() == []


def test_ctrl_c_on_the_guest_alone_ends_the_host_too(vm: Vm) -> None:
    host, guest = vm.host(), vm.running_guest()
    guest.send_signal(signal.SIGINT)
    status, _, errors = ended(guest)
    assert status == 130
    assert "interrupted" in one_line(errors)
    status, _, errors = ended(host)
    assert status == 1
    assert "guest has gone" in one_line(errors)
    assert vm.left() == []


@pytest.mark.rule("BND-11", "END-7")
def test_a_killed_guest_ends_the_host_and_its_memory_is_removed(vm: Vm) -> None:
    host, guest = vm.host(), vm.running_guest()
    guest.kill()
    guest.wait(TIMEOUT_S)
    status, _, errors = ended(host)
    assert status == 1
    assert "guest has gone" in one_line(errors)
    assert vm.left() == []


@pytest.mark.rule("BND-11")
def test_a_killed_host_ends_the_guest_and_its_names_are_removed(vm: Vm) -> None:
    host, guest = vm.host(), vm.running_guest()
    with memory.watched(vm.name):
        host.kill()
        host.wait(TIMEOUT_S)
        status, _, errors = ended(guest)
        assert status == 1
        assert "host has gone" in one_line(errors)
        assert vm.left() == []


def workers_of(pid: int) -> list[int]:
    """Worker processes; multiprocessing's resource tracker may be another child."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in listed if b"workers" in Path(f"/proc/{c}/cmdline").read_bytes()]


@pytest.mark.parametrize("side", ["host", "guest"])
def test_a_killed_worker_ends_both_sides(vm: Vm, side: str) -> None:
    host, guest = vm.host(), vm.running_guest()
    (worker,) = workers_of((host if side == "host" else guest).pid)
    os.kill(worker, signal.SIGKILL)
    results = {"host": ended(host), "guest": ended(guest)}
    assert [status for status, _, _ in results.values()] == [1, 1]
    assert f"the {side}'s worker of vCPU 0 ended" in one_line(results[side][2])
    assert vm.left() == []


def test_after_killing_everything_the_next_start_removes_the_names(vm: Vm) -> None:
    host, guest = vm.host(), vm.running_guest()
    assert len(vm.left()) == 5
    for process in (host, guest):
        process.kill()
    for process in (host, guest):
        process.wait(TIMEOUT_S)
    second = vm.host()
    assert memory.segment_name(vm.name, "guest") not in vm.left()
    assert ended(vm.guest())[0] == 0
    assert ended(second)[0] == 0
    assert vm.left() == []


def test_cleanup_removes_the_names_of_dead_owners_and_only_those(vm: Vm, tmp_path: Path) -> None:
    other = Vm(vm.name + "-live", vm.scenario)
    vm.started.append(other.host())
    host = vm.host()
    dead = {name for name in vm.left() if name not in other.left()}
    assert len(dead) == 4
    host.kill()
    host.wait(TIMEOUT_S)
    done = subprocess.run(
        [sys.executable, "-m", "pvpmu.cli", "cleanup"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    # Any other pvpmu on this machine may have removed some of them first.
    *lines, last = done.stdout.splitlines()
    assert {line.split()[1] for line in lines if vm.name in line} <= dead
    assert last.endswith(" in use by live owners")
    assert vm.left() == other.left() != []
    other.started.append(other.guest())
    assert ended(other.started[-1])[0] == 0


def test_a_user_mistake_in_a_job_ends_both_sides_in_order(vm: Vm) -> None:
    text = SHORT.replace('"cpu-cycles"', '"ref-cycles"')
    vm.scenario.write_text(text.replace("[[events]]", "fixed = 0\n[[events]]", 1))
    host = vm.host("--fixed", "0")
    status, _, errors = ended(vm.guest())
    assert status == 2
    assert "ref-cycles" in one_line(errors)
    assert ended(host)[0] == 0


def test_a_vanished_host_is_noticed_before_the_handshake_ends(vm: Vm) -> None:
    with control.listen(vm.name) as listener:
        guest = vm.guest()
        connection, _ = listener.accept()
        connection.close()
    status, _, errors = ended(guest)
    assert status == 1
    assert "gone" in one_line(errors) or "end of connection" in errors


@pytest.mark.rule("BND-10")
def test_the_guest_refuses_a_host_of_another_version(vm: Vm) -> None:
    with control.listen(vm.name) as listener:
        guest = vm.guest()
        connection, _ = listener.accept()
        channel = control.Channel(connection)
        channel.expect(Hello)
        channel.send(Welcome(CONTROL_VERSION + 1, os.getpid(), "page", "x", 0, 0, [], []))
        status, _, errors = ended(guest)
        channel.close()
    assert status == 1
    assert f"version {CONTROL_VERSION + 1}, expected {CONTROL_VERSION}" in one_line(errors)
