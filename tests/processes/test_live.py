"""The live view of real hosts and guests: what is published is what was counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pvpmu.bench.measure import TIMED_PASSES
from pvpmu.bench.vm import VmConfig, open_vm
from pvpmu.console.attach import Attached, running, unpublished
from pvpmu.shared import memory
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.liveview import HANDLER_KEY, HOST_SIDE, AccessPath, State, Status

from .conftest import TIMEOUT_S, Vm, ended, one_line

pytestmark = pytest.mark.process
SHM = Path("/dev/shm")  # noqa: S108 (where the names are)
REGISTERS = (ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC)


def top(vm: Vm, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pvpmu.cli", "top", vm.name, "--json", "-s", "0.1", *args],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_any_running_host_can_be_watched_and_its_exits_add_up(vm: Vm) -> None:
    host = vm.host("--design", "page")
    with Attached(vm.name) as attached:
        assert attached.read().condition == "waiting for a guest"
        status, output, _ = ended(vm.guest("--json"))
        assert (status, ended(host)[0]) == (0, 0)
        last = attached.read()
    (run,) = json.loads(output)["runs"]
    assert last.status is Status.DONE
    assert not last.lives
    assert not last.records
    (vcpu,) = last.vcpus
    published = dict.fromkeys(run["exits"], 0)
    for key, count in vcpu.exits.items():
        name = ExitReason(key.reason).name
        published[name] = published.get(name, 0) + count
    # Boot and shutdown exit too, outside the measured window, but take no PMIs.
    assert published["EXCEPTION_NMI"] == run["exits"]["EXCEPTION_NMI"]
    for name, count in run["exits"].items():
        assert count <= published[name] <= count + 60
    assert vcpu.pmis["delivered"] == run["handlers"]


def test_a_host_that_publishes_nothing_serves_and_is_not_seen(vm: Vm) -> None:
    host = vm.host("--design", "page", "--no-publish")
    assert not (SHM / memory.segment_name(vm.name, HOST_SIDE)).exists()
    done = top(vm)
    assert done.returncode == 2
    assert f"the host of '{vm.name}' publishes nothing for the view" in one_line(done.stderr)
    status, output, _ = ended(vm.guest("--json"))
    assert (status, ended(host)[0]) == (0, 0)
    assert json.loads(output)["runs"][0]["handlers"] > 0


def test_a_view_of_what_is_not_published_is_a_mistake() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pvpmu.host.cli", "--live", "--no-publish"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "not allowed with argument --live" in one_line(done.stderr)


@pytest.mark.parametrize("live", [False, True])
def test_a_host_to_be_measured_publishes_only_when_it_is_watched(live: bool) -> None:
    design, name = design_named("trap"), f"measured-{os.getpid()}"
    with open_vm(VmConfig(design=design, cpuid=PmuCpuid(), name=name, live=live), "process"):
        assert (SHM / memory.segment_name(name, "host")).exists()
        assert (SHM / memory.segment_name(name, HOST_SIDE)).exists() == live
        assert (name in unpublished(), name in running()) == (not live, live)


def test_a_watched_run_has_the_samples_of_one_that_is_not(vm: Vm) -> None:
    runs = []
    for live in ((), ("--live",)):
        host = vm.host("--design", "page")
        status, output, _ = ended(vm.guest("--json", *live))
        assert (status, ended(host)[0]) == (0, 0)
        (run,) = json.loads(output)["runs"]
        del run["handler_ns"]
        runs.append(run)
    assert runs[0] == runs[1]


def test_what_the_guest_records_is_what_the_host_counts(vm: Vm) -> None:
    host = vm.host("--design", "page")
    guest = vm.guest("--json", "--live", "--runs", "2")
    with Attached(vm.name) as attached:
        while not attached.read().ended:
            # Each look finds the guest's segment as soon as it is there.
            ended_guest = guest.poll()
            assert ended_guest in (None, 0)
        last = attached.read()
    status, output, _ = ended(guest)
    assert (status, ended(host)[0]) == (0, 0)
    runs = json.loads(output)["runs"]
    (vcpu,) = last.vcpus
    assert vcpu.guest is not None
    counts = vcpu.guest.counts
    assert counts[HANDLER_KEY] == sum(run["handlers"] for run in runs)
    assert vcpu.guest.spurious == sum(run["spurious"] for run in runs)
    for key, count in vcpu.exits.items():
        if key.reason in REGISTERS:
            assert counts[key] == count, key
    avoided = sum(n for key, n in counts.items() if key.path is AccessPath.PAGE)
    assert avoided > 3 * sum(n for key, n in counts.items() if key.path is AccessPath.COMMIT)
    assert vcpu.guest.floor_ns > 0
    assert vcpu.guest.dropped == 0


def test_a_host_that_wants_latencies_gets_them(vm: Vm) -> None:
    """The view of ``pvpmu-host --live`` has no terminal here: it prints lines."""
    host = vm.start("pvpmu.host.cli", "--wait", str(TIMEOUT_S), "--design", "page", "--live")
    assert host.stderr is not None
    assert "avoid/s" in host.stderr.readline()
    guest = vm.guest("--runs", "100000")
    title_and_lines = iter(host.stderr.readline, "")
    # One of the lines has latencies of the page.
    assert any("ns" in line or "us" in line for line in title_and_lines)
    guest.send_signal(signal.SIGINT)
    ended(guest)
    status, output, errors = ended(host)
    assert (status, output) == (1, "")
    assert f"pvpmu: {vm.name}: host ended: peer lost\n" in errors
    assert "the guest has gone without Bye" in errors


def test_a_killed_guest_is_a_lost_peer_and_the_last_numbers_stay(vm: Vm) -> None:
    host = vm.host("--design", "page", "--vcpus", "2")
    guest = vm.running_guest()
    with Attached(vm.name) as attached:
        before = attached.read()
        assert before.condition == f"guest {guest.pid}"
        assert before.used == 1
        assert before.vcpus[1].state is State.ABSENT
        guest.kill()
        assert ended(host)[0] == 1
        last = attached.read()
    assert last.condition == "host ended: peer lost"
    assert last.state_of(last.vcpus[0]) == "peer lost"
    assert sum(last.vcpus[0].exits.values()) >= sum(before.vcpus[0].exits.values()) > 0


def test_a_killed_host_is_lost(vm: Vm) -> None:
    host, guest = vm.host(), vm.running_guest()
    with Attached(vm.name) as attached:
        attached.read()
        host.kill()
        ended(guest)
        host.wait(TIMEOUT_S)
        last = attached.read()
    assert last.condition == "host lost"


def test_the_view_that_a_guest_starts_ends_with_it(vm: Vm) -> None:
    vm.host("--design", "trap")
    guest = vm.guest("--live", "--runs", "100000")
    assert guest.stderr is not None
    assert "avoid/s" in guest.stderr.readline()
    children = Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split()
    views = [int(c) for c in children if b"\0top\0" in Path(f"/proc/{c}/cmdline").read_bytes()]
    assert len(views) == 1
    guest.send_signal(signal.SIGTERM)
    assert ended(guest)[0] == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(views[0], 0)


def test_a_bench_shows_its_designs_side_by_side(vm: Vm, tmp_path: Path) -> None:
    result = tmp_path / "bench.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "pvpmu.cli", "bench", "--scenario", str(vm.scenario),
            "--design", "trap", "page", "--live", "--json", str(result),
        ],
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    designs = {line.split()[2] for line in done.stderr.splitlines() if line[0].isdigit()}
    assert designs == {"trap", "page"}
    assert "note: --live: every access" in done.stdout
    made: dict[str, Any] = json.loads(result.read_text("utf-8"))
    assert made["live_view"]["record_ns"]["p50"] > 0
    # A line ends with exits and exits avoided, of a counting pass and the timed ones of each
    # run: nothing that measures single accesses is there.
    shown = {}
    for line in done.stderr.splitlines():
        if line[0].isdigit():
            _, _, design, *_, exits, avoided = line.split()
            shown[design] = int(exits.replace(",", "")), avoided
    passes = 1 + TIMED_PASSES
    for each in made["designs"]:
        # Boot and shutdown exit too.
        exits = passes * sum(each["exits"].values())
        assert exits <= shown[each["name"]][0] <= exits + 60 * passes * made["runs"]
    assert shown["trap"][1] == "0"
    assert int(shown["page"][1].replace(",", "")) > 0


def test_inline_there_are_no_processes_to_look_at() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pvpmu.cli", "bench", "--transport", "inline", "--live"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "--live needs --transport process, got inline" in one_line(done.stderr)


def test_a_json_view_ends_when_its_host_does(vm: Vm) -> None:
    vm.host("--design", "page")
    guest = vm.running_guest()
    (one,) = top(vm, "-n", "1").stdout.splitlines()
    assert json.loads(one)["vms"][0]["rates"]["exits"] >= 0
    guest.kill()
    done = top(vm)
    # Either it saw the end, or there was nothing left to look at.
    assert done.returncode in (0, 2)
