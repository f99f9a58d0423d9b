"""Memory does not grow with the length of a run, only with the samples asked for."""

from __future__ import annotations

import gc
import time
import tracemalloc
from dataclasses import replace

import pytest

from pvpmu.bench.vm import InlineVm, VmConfig
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import load_scenario
from pvpmu.shared.design import design_named

ALLOWED_BYTES = 48 * 1024
"""Histogram buckets and digests; what a list of 500 handler times would take is above it."""


def kept_and_peak(duration_us: int, *, samples: int = 0, record: bool = False) -> tuple[int, int]:
    """Bytes that are alive after a run beyond those before it, and the most there were."""
    scenario = replace(load_scenario("br_instr"), duration_us=duration_us)
    vm = InlineVm(VmConfig(design=design_named("page"), cpuid=scenario.cpuid))
    job = RunJob(
        scenario,
        seed=1,
        record=record,
        clock=None if record else time.perf_counter_ns,
        sample_capacity=samples,
    )
    gc.collect()
    tracemalloc.start()
    try:
        results = vm.run([job])
        gc.collect()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert results[0].counts.samples > duration_us // 100
    return kept, peak


@pytest.mark.parametrize("record", [False, True])
def test_a_run_that_is_eight_times_as_long_takes_no_more_memory(record: bool) -> None:
    kept_and_peak(5_000, record=record)
    short = kept_and_peak(10_000, record=record)
    long = kept_and_peak(80_000, record=record)
    assert long[0] - short[0] < ALLOWED_BYTES
    assert long[1] - short[1] < ALLOWED_BYTES


def test_samples_that_are_asked_for_are_what_grows() -> None:
    none = kept_and_peak(80_000)
    all_of_them = kept_and_peak(80_000, samples=100_000)
    assert all_of_them[0] - none[0] > ALLOWED_BYTES
