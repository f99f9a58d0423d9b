"""One simulation of a sweep: plain data in, plain data out, in whatever process it runs."""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu import __version__
from pvpmu.bench.counterpart import count_inline
from pvpmu.bench.totals import Totals
from pvpmu.guest.scenario import Scenario
from pvpmu.shared.costs import Costs
from pvpmu.shared.design import Design
from pvpmu.shared.errors import PeerError


@dataclass(frozen=True, slots=True)
class Task:
    """What to simulate, on as many vCPUs as the scenario has.

    ``charge``: what is charged to the guest clock, whole ns. ``version``: of who asks.
    """

    scenario: Scenario
    design: Design
    seed: int
    charge: Costs | None = None
    version: str = __version__


def simulate(task: Task) -> Totals:
    """Count one recorded run inline, as the first run of ``pvpmu bench`` would.

    Raises :class:`PeerError` where another version of pvpmu is installed.
    """
    if task.version != __version__:
        raise PeerError(f"a worker has pvpmu {__version__}, expected {task.version}")
    design, scenario = task.design, task.scenario
    return count_inline(
        scenario,
        design,
        design.guest,
        seed=task.seed,
        vcpus=scenario.vcpus,
        charge=task.charge,
    )
