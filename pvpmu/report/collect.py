"""Gather the evidence: the sweeps, and handlers measured on several vCPUs at once."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pvpmu.bench.measure import BenchConfig, Progress
from pvpmu.bench.realvm import DEFAULT_DESIGNS, LINUX_DESIGNS, RealConfig, measure_real
from pvpmu.bench.realvm_document import real_document
from pvpmu.bench.vm import VmConfig, open_vm
from pvpmu.cost.shelf import models_named
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import load_scenario, run_seed
from pvpmu.report.plan import LONGEST_US, STAND_IN, Asked, sweeps
from pvpmu.shared.design import designs_named
from pvpmu.shared.errors import ResourceError
from pvpmu.shared.histogram import Histogram
from pvpmu.sweep.engine import Engine, open_engine
from pvpmu.sweep.grid import Axes
from pvpmu.sweep.read import read_rows
from pvpmu.sweep.request import command_of, make_grid
from pvpmu.sweep.row import columns
from pvpmu.sweep.run import run_sweep
from pvpmu.sweep.store import open_file
from pvpmu.vm.serve import PERIODS
from pvpmu.vm.session import Perf

Json = dict[str, Any]
SCHEMA = "pvpmu-report/1"
_PMIS = 1000
"""Of each design on a real VM."""
TURNS = 5
"""Passes of each design and number of vCPUs."""


def gather(
    asked: Asked, config: BenchConfig, bench: Json, command: str, folder: Path, progress: Progress
) -> Json:
    """Everything that the pages say, as plain values; CSV files of the sweeps go to ``folder``."""
    by_vcpus = handlers_by_vcpus(config, progress)
    # Inline everything is this one process, and quick.
    vm = None
    if config.transport != "inline":
        vm = on_a_real_vm(asked.costs, config.scenario.missing_events, progress)
    found = {}
    jobs = len(os.sched_getaffinity(0))
    with open_engine("local", jobs=jobs, scheduler="") as engine:
        for name, axes in sweeps(asked, load_scenario(STAND_IN)).items():
            found[name] = swept(name, axes, folder, engine, progress)
    return {
        "schema": SCHEMA,
        "command": command,
        "bench": bench,
        "sweeps": found,
        "vcpus": by_vcpus,
        "real_vm": vm,
    }


def on_a_real_vm(
    costs: Sequence[str], missing_events: str, progress: Progress
) -> dict[str, Json] | str:
    """Documents by whose perf the host's is; the reason where no real VM can be had here."""
    found: dict[str, Json] = {}
    designs: dict[Perf, Sequence[str]] = {"model": DEFAULT_DESIGNS, "linux": LINUX_DESIGNS}
    try:
        for perf, names in designs.items():
            config = RealConfig(
                designs=designs_named(names),
                pmis=_PMIS,
                period=PERIODS[perf],
                turns=TURNS,
                perf=perf,
                missing_events=missing_events,
            )
            measured = measure_real(config, progress)
            found[perf] = real_document(config, measured, models_named(costs))
    except ResourceError as error:
        return found or str(error)
    return found


def swept(name: str, axes: Axes, folder: Path, engine: Engine, progress: Progress) -> Json:
    """Run one sweep into ``folder``; returns its command line and rows as plain values."""
    path = folder / f"{name}.csv"
    # A file of an earlier report may be of other code.
    path.unlink(missing_ok=True)
    grid = make_grid(axes, ())
    command = shlex.join(command_of(axes, path.name))
    names = (*grid.axes, *columns(next(grid.blocks()).resolved[0]))

    def done(points: int) -> None:
        progress(points / grid.size, f"{name}: counting")

    with open_file(
        path, digest=grid.digest, command=command, columns=names, size=grid.size
    ) as file:
        run_sweep(grid, file, engine, done)
    return {"command": command, "rows": read_rows(path)}


def handlers_by_vcpus(config: BenchConfig, progress: Progress) -> Json | None:
    """p50 of the NMI handler in ns, by number of vCPUs and design, a value per turn.

    Up to as many vCPUs as CPUs, each pair of workers on a CPU of its own. None where that says
    nothing: vCPUs that take turns in one process, or workers that are not pinned so.
    """
    cpus = len(os.sched_getaffinity(0))
    if config.transport != "process" or config.pin != "same" or cpus < 2:
        return None
    scenario = config.scenario
    if scenario.script is None:
        scenario = replace(scenario, duration_us=min(scenario.duration_us, LONGEST_US))
    config = replace(config, scenario=scenario)
    numbers = [number for number in (1, 2, 4, 8, 16) if number <= cpus]
    return {
        str(vcpus): _handlers(config, vcpus, progress, position / len(numbers), 1 / len(numbers))
        for position, vcpus in enumerate(numbers)
    }


def _handlers(
    config: BenchConfig, vcpus: int, progress: Progress, start: float, share: float
) -> dict[str, list[int]]:
    names = [design.name for design in config.designs]
    found: dict[str, list[int]] = {name: [] for name in names}
    jobs = [
        RunJob(config.scenario, run_seed(config.seed, 0, vcpu), clock=config.clock)
        for vcpu in range(vcpus)
    ]
    with contextlib.ExitStack() as stack:
        vms = {
            design.name: stack.enter_context(
                open_vm(
                    VmConfig(
                        name=f"report-{os.getpid()}-{number}",
                        design=design,
                        vcpus=vcpus,
                        cpuid=config.scenario.cpuid,
                        pin=config.pin,
                    ),
                    config.transport,
                )
            )
            for number, design in enumerate(config.designs)
        }
        for turn in range(TURNS):
            for name in _rotated(names, turn):
                progress(start + share * turn / TURNS, f"handlers on {vcpus} vCPUs: {name}")
                together = Histogram()
                for report in vms[name].run(jobs):
                    together.merge(report.handler_ns)
                found[name].append(together.quantile(0.5))
    return found


def _rotated(names: Sequence[str], by: int) -> list[str]:
    by %= len(names)
    return [*names[by:], *names[:by]]
