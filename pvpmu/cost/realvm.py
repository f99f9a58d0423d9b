"""Measure what a real VM's exits and the kernel's perf calls take here, for a cost model."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from statistics import mean

from pvpmu.cost.calibrate import RealCosts
from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.perf import Attr
from pvpmu.host.perf_linux import OVERFLOW_SIGNALS, LinuxContext, group_times
from pvpmu.host.perf_sources import sources_here, why_not
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.events import CYCLES
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER
from pvpmu.shared.histogram import summarize
from pvpmu.shared.tally import CALL_KINDS, ENABLE, PAUSE, PERIOD, READ_VALUE
from pvpmu.vm.cpl import user_or_kernel
from pvpmu.vm.jobs import FloorJob, TscJob
from pvpmu.vm.session import VmConfig, open_session

_EXITS = 400
_CALLS = 300
_GROUP = 4
_FAR = 1 << 60
"""No overflow comes."""


def real_costs() -> RealCosts:
    """Measure them; raises :class:`ResourceError` where no VM can be made."""
    execution = user_or_kernel()
    config = VmConfig(
        design=design_named("trap"),
        cpuid=PmuCpuid(),
        user=execution.user,
        name=f"calibrate-vm-{os.getpid()}",
        publish=False,
    )
    with open_session(config) as vm:
        (khz,) = vm.run([TscJob()])
        (floors,) = vm.run([FloorJob(_EXITS)])
    ns = {name: [cycles * 1e6 / khz for cycles in spans] for name, spans in floors.items()}
    stamps = summarize(ns["stamps"])["p50"]
    facts: dict[str, str | int | float] = {
        "kvm": execution.module,
        "execution": execution.described,
        "guest_cpl": 3 if execution.user else 0,
        "tsc_khz": khz,
        "empty_exit_p50_ns": round(summarize(ns["empty_exit"])["p50"] - stamps, 1),
        "gate_p50_ns": round(summarize(ns["gate"])["p50"] - stamps, 1),
        "page_word_p50_ns": round(summarize(ns["page_word"])["p50"], 2),
    }
    # A gate is no part of an exit: only this way to run the driver needs it.
    gate = facts["gate_p50_ns"] if execution.user else 0
    exits = [max(each - stamps - float(gate), 0.0) for each in ns["msr_exit"]]
    reason = why_not()
    if reason is not None:
        return RealCosts(exits, (), (), {**facts, "perf": reason})
    calls = _calls()
    # A vPMU makes as many of one kind as of another: what counts is their mean, round by round.
    live = _means(calls, (PAUSE, PERIOD, ENABLE), runs=True)
    redundant = _means(calls, (PAUSE, READ_VALUE, PERIOD), runs=False)
    facts["perf"] = sources_here().described
    for (kind, runs), took in calls.items():
        state = "running" if runs else "paused"
        facts[f"{CALL_KINDS[kind]}_{state}_p50_ns"] = summarize(took)["p50"]
    for name, spans in group_times(_GROUP, _CALLS, time.perf_counter_ns).items():
        facts[f"stop_and_start_{_GROUP}_{name}_p50_ns"] = summarize(spans)["p50"]
    return RealCosts(exits, live, redundant, facts)


def _means(
    calls: dict[tuple[int, bool], list[float]], kinds: Sequence[int], *, runs: bool
) -> list[float]:
    return [mean(took) for took in zip(*(calls[kind, runs] for kind in kinds), strict=True)]


def _calls() -> dict[tuple[int, bool], list[float]]:
    """ns of each call, by kind and whether the event runs when it is made."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OVERFLOW_SIGNALS)
    context = LinuxContext(PhysicalPmu(), sources_here(), time.perf_counter_ns)
    found: dict[tuple[int, bool], list[float]] = {}
    try:
        event = context.create(Attr(CYCLES, MODE_USER | MODE_KERNEL, pinned=True), _FAR, _nothing)
        assert event is not None
        steps = (
            (READ_VALUE, True, lambda: context.read_value(event)),
            (PERIOD, True, lambda: context.period(event, _FAR)),
            (PAUSE, True, lambda: context.pause(event)),
            (PAUSE, False, lambda: context.pause(event)),
            (READ_VALUE, False, lambda: context.read_value(event)),
            (PERIOD, False, lambda: context.period(event, _FAR)),
            (ENABLE, True, lambda: context.enable(event)),
        )
        for _ in range(_CALLS):
            for kind, runs, call in steps:
                start = time.perf_counter_ns()
                call()
                found.setdefault((kind, runs), []).append(time.perf_counter_ns() - start)
    finally:
        context.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return found


def _nothing() -> None:
    return None
