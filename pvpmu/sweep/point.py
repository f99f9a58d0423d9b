"""One simulation of a sweep: plain data in, plain data out, in whatever process it runs."""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu import __version__
from pvpmu.bench.counterpart import count_inline
from pvpmu.bench.totals import Totals
from pvpmu.guest.scenario import Scenario
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
    design = task.design
    return count_inline(task.scenario, design, design.guest, seed=task.seed, vcpus=task.vcpus)
