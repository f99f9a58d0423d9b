"""One short measurement per session: two designs inline, and its document."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from pvpmu.bench.document import Json, document
from pvpmu.bench.measure import BenchConfig, Measured, measure
from pvpmu.bench.reference import load_reference
from pvpmu.cost.shelf import shipped_models
from pvpmu.guest.scenario import load_scenario
from pvpmu.host import perf_open, perf_sources
from pvpmu.host.perf_sources import Sources
from pvpmu.shared.design import design_named
from pvpmu.shared.events import CYCLES

SEED = 3


def short_config(**changes: object) -> BenchConfig:
    """20 ms of the 2021 workload on three designs, two runs, two vCPUs."""
    config = BenchConfig(
        scenario=replace(load_scenario("br_instr"), duration_us=20_000),
        designs=[design_named(name) for name in ("trap-5.14", "trap", "page")],
        transport="inline",
        vcpus=2,
        runs=2,
        seed=SEED,
        pin="same",
        clock=time.perf_counter_ns,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def quiet(_share: float, _label: str) -> None:
    """Progress that nobody watches."""


def made(config: BenchConfig, measured: Measured) -> Json:
    return document(config, measured, shipped_models(), load_reference(config.scenario.reference))


@pytest.fixture
def _only_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a PMU."""
    clocks = Sources({CYCLES: (perf_open.TYPE_SOFTWARE, perf_open.SW_CPU_CLOCK)}, clocks=True)
    monkeypatch.setattr(perf_sources, "_found_here", lambda: clocks)


@pytest.fixture(scope="session")
def config() -> BenchConfig:
    return short_config()


@pytest.fixture(scope="session")
def measured(config: BenchConfig) -> Measured:
    return measure(config, quiet)


@pytest.fixture(scope="session")
def result(config: BenchConfig, measured: Measured) -> Json:
    return made(config, measured)
