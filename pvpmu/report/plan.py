"""Which sweeps the evidence needs beside the measurement itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pvpmu.guest.scenario import Scenario
from pvpmu.report.factorial import axes_here, combinations
from pvpmu.sweep.grid import Axes

LONGEST_US = 100_000
"""Guest clock of a point: enough for hundreds of handlers."""
EVENTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
FREQUENCIES = (250, 500, 1000, 2000, 4000, 8000)
VCPUS = (1, 2, 4, 8)
STAND_IN = "br_instr"
"""The workload of curves when the measurement's is a script, which has its events given."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was measured: names as the command line gave them, ``scenario`` loaded.

    ``driver``: that of all designs, None where each has its own.
    """

    name: str
    scenario: Scenario
    designs: Sequence[str]
    costs: Sequence[str]
    seed: int
    driver: str | None = None


def sweeps(asked: Asked, stand_in: Scenario) -> dict[str, Axes]:
    """The axes of each sweep by its name; ``stand_in``: the scenario called :data:`STAND_IN`."""
    scripted = asked.scenario.script is not None
    name, scenario = (STAND_IN, stand_in) if scripted else (asked.name, asked.scenario)
    base: Axes = {
        "scenario": (name,),
        "design": tuple(asked.designs),
        "cost": tuple(asked.costs),
        "seed": (asked.seed,),
        "charge": (False,),
        "scenario.duration_us": (min(scenario.duration_us, LONGEST_US),),
    }
    if asked.driver is not None:
        base = {**base, "design.driver": (asked.driver,)}
    choices = {**base, "scenario": (asked.name,), **combinations(axes_here())}
    if scripted:
        # A script has as much to do in less time.
        del choices["scenario.duration_us"]
    found: dict[str, Axes] = {"factorial": choices}
    found["events"] = {**base, "scenario.vcpus": (1,), "events": EVENTS}
    if any(event.frequency for event in scenario.events):
        rates = tuple(hz for hz in FREQUENCIES if hz <= scenario.max_sample_rate)
        found["frequency"] = {**base, "scenario.vcpus": (1,), "frequency": rates}
    found["vcpus"] = {**base, "scenario.vcpus": VCPUS}
    return found
