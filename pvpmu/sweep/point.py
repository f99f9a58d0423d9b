"""One simulation of a sweep: plain data in, plain data out, in whatever process it runs."""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu import __version__
from pvpmu.bench.totals import Totals
from pvpmu.bench.vm import InlineVm, VmConfig
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import Scenario, run_seed
from pvpmu.shared.design import Design
from pvpmu.shared.errors import PeerError


@dataclass(frozen=True, slots=True)
class Task:
    """What to simulate. ``version``: of the pvpmu that asks."""

    scenario: Scenario
    design: Design
    seed: int
    vcpus: int
    version: str = __version__


def simulate(task: Task) -> Totals:
    """Count one recorded run inline, as the first run of ``pvpmu bench`` would.

    Raises :class:`PeerError` where another version of pvpmu is installed.
    """
    if task.version != __version__:
        raise PeerError(f"a worker has pvpmu {__version__}, expected {task.version}")
    scenario = task.scenario
    vm = InlineVm(
        VmConfig(
            design=task.design,
            cpuid=scenario.cpuid,
            vcpus=task.vcpus,
            load=scenario.host_load,
        )
    )
    jobs = [
        RunJob(task.scenario, run_seed(task.seed, 0, vcpu), record=True, guest=task.design.guest)
        for vcpu in range(task.vcpus)
    ]
    totals = Totals()
    for report, stats in zip(vm.run(jobs), vm.stats(), strict=True):
        totals.add_recorded(report, stats)
    return totals
