"""Recordings of real processes: each side's own, and both in one of a bench."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pvpmu.bench.measure import BenchConfig
from pvpmu.bench.recorded import Recorded, count, record
from pvpmu.bench.vm import VmConfig, open_vm
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import load_scenario, run_seed
from pvpmu.recording.file import RecordingFile
from pvpmu.recording.options import RecordTo
from pvpmu.recording.reader import Recording
from pvpmu.shared.design import design_named
from pvpmu.shared.exits import ExitReason

from .conftest import Vm, ended, one_line

pytestmark = pytest.mark.process


def counted(path: Path) -> list[Recorded]:
    """What each stream of a file holds."""
    found = []
    with Recording(path) as recording:
        assert not recording.problem
        for stream in recording.streams:
            found.append(Recorded())
            count(found[-1], stream)
    return found


def test_host_and_guest_record_to_files_of_their_own(vm: Vm, tmp_path: Path) -> None:
    files = [tmp_path / "host", tmp_path / "guest"]
    host = vm.host("--design", "page", "--vcpus", "2", "--record", str(files[0]))
    guest = vm.guest("--vcpus", "2", "--runs", "2", "--json", "--record", str(files[1]))
    status, output, errors = ended(guest)
    assert (status, errors) == (0, "")
    status, said, errors = ended(host)
    assert (status, errors) == (0, "")
    assert f"records in {files[0]}" in said
    runs = json.loads(output)["runs"]
    hosts, guests = map(counted, files)
    for vcpu in range(2):
        mine = [run for run in runs if run["vcpu"] == vcpu]
        exits: Counter[str] = Counter()
        for run in mine:
            exits.update(run["exits"])
        assert {ExitReason(reason).name: n for reason, n in hosts[vcpu].exits.items()} == exits
        assert sum(hosts[vcpu].calls) == sum(run["perf_calls"] for run in mine)
        for name in ("samples", "handlers", "spurious"):
            assert getattr(guests[vcpu], name) == sum(run[name] for run in mine)
    assert vm.left() == []


def test_both_sides_of_a_vm_are_recorded_while_it_runs(tmp_path: Path) -> None:
    scenario = replace(load_scenario("br_instr"), duration_us=4000)
    files = [tmp_path / "guest", tmp_path / "host"]
    recording = RecordingFile(files[0], {})
    config = VmConfig(
        name=f"rec-{os.getpid()}",
        design=design_named("page"),
        cpuid=scenario.cpuid,
        recording=recording,
        host_record=RecordTo(files[1]),
    )
    with open_vm(config, "process") as vm:
        (report,) = vm.run([RunJob(scenario, run_seed(1, 0, 0), record=True)])
        (stats,) = vm.stats()
    (guest,), (host,) = map(counted, files)
    assert guest.samples == report.counts.samples > 0
    assert host.exits == stats.exits
    assert (recording.outcome.lost, recording.outcome.problem) == (0, "")


def test_a_bench_that_is_interrupted_leaves_both_sides_of_what_ran(tmp_path: Path) -> None:
    scenario = replace(load_scenario("br_instr"), duration_us=4000)
    config = BenchConfig(
        scenario=scenario,
        designs=[design_named("page")],
        transport="process",
        vcpus=1,
        runs=1,
        seed=1,
        pin="same",
        clock=time.perf_counter_ns,
    )
    vm_config = VmConfig(name=f"rec-{os.getpid()}", design=config.designs[0], cpuid=scenario.cpuid)

    def interrupted(vm: Any) -> None:
        vm.run([config.job("page", 1, record=True)])
        raise KeyboardInterrupt

    to = RecordTo(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        record(config, to, vm_config, config.designs[0], interrupted)
    assert list(tmp_path.iterdir()) == [to.path]
    with Recording(to.path) as recording:
        assert sorted(stream.side for stream in recording.streams) == ["guest", "host"]
        assert all(stream.count for stream in recording.streams)


def test_a_host_that_is_killed_leaves_a_recording_that_can_be_read(vm: Vm, tmp_path: Path) -> None:
    file = tmp_path / "host"
    host = vm.host("--record", str(file))
    guest = vm.running_guest()
    host.kill()
    ended(host)
    ended(guest)
    with Recording(file) as recording:
        assert "no end mark" in recording.problem or "cut off" in recording.problem
        (stream,) = recording.streams
        assert stream.count > 0


def test_a_host_that_is_terminated_closes_its_recording(vm: Vm, tmp_path: Path) -> None:
    file = tmp_path / "host"
    host = vm.host("--record", str(file))
    guest = vm.running_guest()
    host.terminate()
    assert ended(host)[0] == 128 + 15
    ended(guest)
    with Recording(file) as recording:
        assert recording.problem == ""


@pytest.mark.parametrize("side", ["host", "guest"])
def test_a_full_disk_is_told_and_ends_nothing(vm: Vm, side: str) -> None:
    full = ("--record", "/dev/full")
    host = vm.host(*(full if side == "host" else ()))
    status, _, guest_errors = ended(vm.guest(*(full if side == "guest" else ())))
    host_status, _, host_errors = ended(host)
    assert (status, host_status) == (0, 0)
    line = one_line(guest_errors + host_errors).strip()
    assert line.startswith(f"pvpmu-{side}: warning: /dev/full: ")
    assert line.endswith("records lost: No space left on device")


@pytest.mark.parametrize("module", ["pvpmu.host.cli", "pvpmu.guest.cli"])
def test_a_file_that_cannot_be_written_is_refused_at_once(
    vm: Vm, tmp_path: Path, module: str
) -> None:
    status, _, errors = ended(vm.start(module, "--record", str(tmp_path)))
    assert status == 2
    assert one_line(errors).strip().endswith(f"{tmp_path}: is a folder, expected a file")
