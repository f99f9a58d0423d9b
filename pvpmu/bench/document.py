"""The result document: what ``--json`` writes and what the table is printed from.

Documented in ``docs/bench-json.md``; ``SCHEMA`` changes when a field's meaning does.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from pvpmu import __version__
from pvpmu.bench.background import exit_mix, given_exits
from pvpmu.bench.checks import outcomes
from pvpmu.bench.counted import Json, counted
from pvpmu.bench.counterpart import predictions
from pvpmu.bench.environment import environment
from pvpmu.bench.livecost import LiveCosts
from pvpmu.bench.measure import BenchConfig, Measured, Scaling
from pvpmu.bench.realperf import perf_described, perf_times
from pvpmu.bench.reference import Reference
from pvpmu.bench.switches import given_switches
from pvpmu.bench.totals import Totals
from pvpmu.cost.model import CostModel, parts_of
from pvpmu.cost.sensitivity import POINTS, sensitivity
from pvpmu.guest.latency import ROUND_TRIP, WORD_READ, WORD_WRITE, LatencyReport
from pvpmu.shared import registers as msr
from pvpmu.shared.design import KVM_AXES, Design
from pvpmu.shared.histogram import summarize
from pvpmu.shared.registers import BY_ADDRESS

SCHEMA = "pvpmu-bench/1"


_LIVE_NOTE = (
    "--live: every access, exit and handler was recorded for the live view, and every exit of the "
    "passes published; "
    "the handler's wall times and the accesses per second include that."
)


def document(
    config: BenchConfig,
    measured: Measured,
    models: Iterable[CostModel],
    reference: Reference | None,
) -> Json:
    """The whole result as plain JSON values."""
    models = list(models)
    designs = [_design(config, name, measured, models) for name in measured.totals]
    result: Json = {
        "schema": SCHEMA,
        "version": __version__,
        "scenario": config.scenario.name,
        "summary": config.scenario.summary,
        "notes": [*config.scenario.notes, *([_LIVE_NOTE] if config.live else [])],
        "transport": config.transport,
        "pin": config.pin if config.transport == "process" else None,
        "seed": config.seed,
        "runs": config.runs,
        "vcpus": config.vcpus,
        "charge": config.charge.name if config.charge is not None else None,
        "perf": perf_described(config.perf, config.scenario.missing_events),
        "perf_events": config.counted_by,
        "environment": environment(),
        "floors": _floors(measured.latency.values()),
        "scaling": _scaling(measured.scaling),
        "live_view": _live_view(measured.live_costs),
        "baseline": _baseline(config),
        "models": {model.name: model.file.summary for model in models},
        "cost_models": {model.name: model.described() for model in models},
        "sensitivity": _sensitivity(measured, models),
        "prediction": predictions(reference, models, measured.totals, measured.counterpart),
        "reference": _reference(reference),
        "background": given_exits(config.scenario, config.runs * config.vcpus),
        "designs": designs,
    }
    (baseline,) = (design for design in designs if design["name"] == result["baseline"])
    for design in designs:
        given = result["background"]
        design["exit_mix"] = exit_mix(design, baseline, given)
        design["given_switches"] = given_switches(config.scenario, design, given, models)
    return {**result, **outcomes(config, measured, designs)}


def _design(config: BenchConfig, name: str, measured: Measured, models: list[CostModel]) -> Json:
    totals, latency = measured.totals[name], measured.latency[name]
    (design,) = (design for design in config.designs if design.name == name)
    return {
        "name": name,
        "summary": design.summary,
        "driver": config.guest(name).driver,
        "axes": _axes(design),
        "equivalent": design.equivalent,
        "differences": list(design.differences),
        "leaves_out": list(design.leaves_out),
        "wall_valid": _wall_valid(design),
        **counted(config.scenario, totals, models),
        "handler_ns": totals.handler.summary(),
        "handler_buckets": totals.handler.buckets(),
        "handler_p50s": totals.handler_p50s,
        "handler_to_baseline": _against(totals, measured.totals[_baseline(config)])
        if _wall_valid(design)
        else None,
        "real_perf": perf_times(totals.times, totals.guest["handlers"]),
        "timer_ns": totals.timer_ns,
        "accesses_per_s": round(statistics.median(totals.access_rates)),
        "ratios": _ratios(latency),
        "access_ns": {
            "page_read": _accesses(latency.page_read, latency.plain),
            "page_write": _accesses(latency.page_write, latency.plain),
            "exit": _exits(latency),
        },
    }


def _wall_valid(design: Design) -> bool:
    """Whether wall-clock figures mean anything: not where accesses cross that need not exit."""
    return design.vpmu == "emulated"


def _axes(design: Design) -> Json:
    """What tells a design from others, for tables by axis."""
    return {
        "page": design.page,
        "freeze": design.freeze,
        "is_paused": design.is_paused,
        **design.host_axes._asdict(),
        "context_lock": design.context_lock,
        "vpmu": design.vpmu,
        "host": design.host,
    }


def _baseline(config: BenchConfig) -> str:
    """The design that others are compared with: KVM's of today, else the last without a page.

    Without either the first.
    """
    trapping = [each for each in config.designs if not each.page and each.vpmu == "emulated"]
    kvms = [each for each in trapping if each.host_axes == KVM_AXES and each.is_paused]
    for found in (kvms[:1], trapping[-1:], config.designs[:1]):
        for design in found:
            return design.name
    raise ValueError("no design")


def _against(totals: Totals, baseline: Totals) -> float | None:
    """p50 of the handler by the baseline's of the same turn, median over turns."""
    pairs = zip(totals.handler_p50s, baseline.handler_p50s, strict=True)
    ratios = [mine / base for mine, base in pairs if base]
    return round(statistics.median(ratios), 3) if ratios else None


def _accesses(by_register: dict[str, list[float]], plain: set[str]) -> Json | None:
    """Summary over the plain words' batches, then one by register."""
    if not by_register:
        return None
    pooled = [ns for name in plain for ns in by_register.get(name, [])]
    return {
        **summarize(pooled),
        "plain": sorted(plain),
        "registers": {name: summarize(ns) for name, ns in by_register.items()},
    }


def _exits(latency: LatencyReport) -> Json:
    status = BY_ADDRESS[msr.GLOBAL_STATUS].name
    return {
        **summarize(latency.exit[status]),
        "access": f"rdmsr {status}",
        "registers": {name: summarize(ns) for name, ns in latency.exit.items()},
    }


def _ratios(latency: LatencyReport) -> Json:
    """Accesses against the floors of the same round, median over rounds; None without a floor.

    The machine's speed changes within a run, so that only neighbours in time compare.
    """
    floors = latency.floors
    status = latency.exit[BY_ADDRESS[msr.GLOBAL_STATUS].name]

    def worst(by_register: dict[str, list[float]], floor: list[float]) -> float | None:
        return max((_paired(batches, floor) for batches in by_register.values()), default=None)

    ratios: dict[str, float | None] = {"exit_to_round_trip": None}
    if ROUND_TRIP in floors:
        ratios["exit_to_round_trip"] = _paired(status, floors[ROUND_TRIP])
    for key, by_register, floor in (
        ("read", latency.page_read, floors[WORD_READ]),
        ("write", latency.page_write, floors[WORD_WRITE]),
    ):
        plain = {name: by_register[name] for name in latency.plain if name in by_register}
        ratios[f"plain_page_{key}_to_word"] = worst(plain, floor)
        ratios[f"any_page_{key}_to_word"] = worst(by_register, floor)
        ratios[f"any_page_{key}_to_exit"] = worst(by_register, status)
    return {key: value and round(value, 3) for key, value in ratios.items()}


def _paired(batches: list[float], floor: list[float]) -> float:
    # A floor of 0 can only be a clock too coarse for it.
    return statistics.median(ns / max(by, 0.1) for ns, by in zip(batches, floor, strict=True))


def _floors(reports: Iterable[LatencyReport]) -> Json:
    pooled: dict[str, list[float]] = {}
    for report in reports:
        for name, batches in report.floors.items():
            pooled.setdefault(name, []).extend(batches)
    summaries = {
        name: summarize(pooled[name]) if name in pooled else None
        for name in (ROUND_TRIP, WORD_READ, WORD_WRITE)
    }
    p50s = {f"{name}_ns": summary and summary["p50"] for name, summary in summaries.items()}
    return {**p50s, "summaries": summaries}


def _live_view(costs: LiveCosts | None) -> Json | None:
    if costs is None:
        return None
    return {
        "publish_ns": summarize(costs.publish),
        "record_ns": summarize(costs.record),
    }


def _scaling(scaling: Scaling | None) -> Json | None:
    if scaling is None:
        return None
    return {
        "exits_per_s_1": round(scaling.one),
        "exits_per_s_2": round(scaling.two),
        "ratio": round(scaling.ratio, 3),
    }


def _reference(reference: Reference | None) -> Json | None:
    if reference is None:
        return None
    return {
        "name": reference.name,
        "summary": reference.summary,
        "exits": reference.exits,
        "msr_write": reference.msr_write,
        "msr_read": reference.msr_read,
        "handler_ns": reference.handler_ns,
        "overhead_percent": reference.overhead_percent,
        "all_exits": reference.all_exits,
    }


def _sensitivity(measured: Measured, models: list[CostModel]) -> list[Json]:
    """Of each model that leaves the split of its costs open, with this run's figures."""
    works = {
        name: parts_of(totals.guest["handlers"], totals.exits_by, totals.tallies)
        for name, totals in measured.totals.items()
    }
    found = [sensitivity(model, works, POINTS) for model in models]
    return [entry for entry in found if entry["points"]]
