"""Evidence of a few short runs, gathered without processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pvpmu.bench.document import document
from pvpmu.bench.measure import BenchConfig, measure
from pvpmu.bench.reference import load_reference
from pvpmu.cost.shelf import models_named
from pvpmu.guest.scenario import Scenario, load_scenario
from pvpmu.report.collect import SCHEMA, swept
from pvpmu.report.plan import Asked, sweeps
from pvpmu.shared.design import design_named
from pvpmu.sweep.engine import Engine

from ..sweep.conftest import Inline  # noqa: TID252 (tests are no package)

Json = dict[str, Any]
DESIGNS = ("trap-5.14", "trap", "page")
COSTS = ("icx-2021-2p", "icx-2021-3p")


def quiet(_share: float, _label: str) -> None:
    """Progress that nobody watches."""


def evidence_of(
    scenario: Scenario,
    folder: Path,
    designs: Sequence[str] = DESIGNS,
    costs: Sequence[str] = COSTS,
) -> Json:
    """What ``bench --report`` gathers of a shipped scenario, inline, at fewer points."""
    config = BenchConfig(
        scenario=scenario,
        designs=[design_named(design) for design in designs],
        transport="inline",
        vcpus=1,
        runs=2,
        seed=3,
        pin="same",
        clock=time.perf_counter_ns,
    )
    reference = load_reference(scenario.reference)
    bench = document(config, measure(config, quiet), models_named(costs), reference)
    asked = Asked(scenario.name, scenario, designs, costs, 3)
    engine = Engine(Inline(), 1, ())
    found = {}
    for sweep, axes in sweeps(asked, scenario).items():
        few = {key: values[::3] if len(values) > 4 else values for key, values in axes.items()}
        few["scenario.duration_us"] = (2000,)
        found[sweep] = swept(sweep, few, folder, engine, quiet)
    return {
        "schema": SCHEMA,
        "command": "pvpmu bench --report <here>",
        "bench": bench,
        "sweeps": found,
        "vcpus": {str(n): {design: [1000 * n, 1500 * n] for design in designs} for n in (1, 2)},
    }


@pytest.fixture(scope="session")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Json:
    scenario = replace(load_scenario("br_instr"), duration_us=5000)
    return evidence_of(scenario, tmp_path_factory.mktemp("report"))
