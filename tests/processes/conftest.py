"""A VM name of its own for every test, and the commands started for it."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pvpmu.shared import memory
from pvpmu.shared.control import CONTROL_VERSION, Hello

TIMEOUT_S = 300
SHM = Path("/dev/shm")  # noqa: S108 (where the names are)
SHORT = """
name = "short"
summary = "10 ms of four sampled events"
duration_us = 10_000
[[events]]
name = "cpu-cycles"
frequency = 4000
initial_period = 625_000
[[events]]
name = "branch-instructions"
period = 100_000
[workload]
phase_ms_min = 1
phase_ms_max = 3
spread_permille = 100
phases = 4
[workload.per_second]
instructions = 4_000_000_000
branch-instructions = 900_000_000
"""


@dataclass
class Vm:
    """One VM name, and the processes that a test starts for it."""

    name: str
    scenario: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, module: str, *args: str) -> subprocess.Popen[str]:
        """Start a command with its output in pipes, unbuffered."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--name", self.name, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.started.append(process)
        return process

    def host(self, *args: str) -> subprocess.Popen[str]:
        """Start a host and wait until it waits for its guest."""
        process = self.start("pvpmu.host.cli", "--wait", str(TIMEOUT_S), *args)
        assert process.stdout is not None
        assert "waiting for a guest" in process.stdout.readline()
        return process

    def guest(self, *args: str) -> subprocess.Popen[str]:
        """Start a guest on the short scenario."""
        scenario = ("--scenario", str(self.scenario))
        return self.start("pvpmu.guest.cli", *scenario, "--wait", str(TIMEOUT_S), *args)

    def running_guest(self) -> subprocess.Popen[str]:
        """Start a guest with plenty to do and wait until it has done the first run."""
        process = self.guest("--runs", "100000")
        assert process.stdout is not None
        assert process.stdout.readline().startswith("run 1")
        return process

    def left(self) -> list[str]:
        """Files of ``/dev/shm`` that bear the name."""
        return sorted(path.name for path in SHM.iterdir() if self.name in path.name)


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    scenario = tmp_path / "short.toml"
    scenario.write_text(SHORT)
    made = Vm(f"test-{uuid.uuid4().hex[:12]}", scenario)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()
    memory.cleanup()
    assert made.left() == []


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, output and the error lines of a command that ends by itself."""
    output, errors = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, output, errors


def one_line(errors: str) -> str:
    assert errors.count("\n") == 1, errors
    return errors


def hello(vm: Vm, **changes: object) -> Hello:
    fields: dict[str, object] = {
        "version": CONTROL_VERSION,
        "pid": os.getpid(),
        "vcpus": 1,
        "memory": memory.segment_name(vm.name, "guest"),
        "memory_bytes": 4096,
        **changes,
    }
    return Hello(**fields)  # type: ignore[arg-type]
