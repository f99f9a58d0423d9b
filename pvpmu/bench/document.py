"""The result document: what ``--json`` writes and what the table is printed from.

Documented in ``docs/bench-json.md``; ``SCHEMA`` changes when a field's meaning does.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from pvpmu import __version__
from pvpmu.bench.charged import charged_as_counted
from pvpmu.bench.competition import accounts_for_errors
from pvpmu.bench.counted import Json, counted, is_pmu
from pvpmu.bench.counterpart import predictions
from pvpmu.bench.environment import environment
from pvpmu.bench.measure import BenchConfig, Measured, Scaling
from pvpmu.bench.reference import Reference
from pvpmu.bench.totals import Totals
from pvpmu.cost.model import CostModel, parts_of
from pvpmu.cost.sensitivity import POINTS, sensitivity
from pvpmu.guest.latency import ROUND_TRIP, WORD_READ, WORD_WRITE, LatencyReport
from pvpmu.guest.script import ScriptCounts
from pvpmu.shared import registers as msr
from pvpmu.shared.design import KVM_AXES, Design
from pvpmu.shared.histogram import summarize
from pvpmu.shared.registers import BY_ADDRESS

SCHEMA = "pvpmu-bench/1"


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
        "notes": list(config.scenario.notes),
        "transport": config.transport,
        "pin": config.pin if config.transport == "process" else None,
        "seed": config.seed,
        "runs": config.runs,
        "vcpus": config.vcpus,
        "charge": config.charge.name if config.charge is not None else None,
        "environment": environment(),
        "floors": _floors(measured.latency.values()),
        "scaling": _scaling(measured.scaling),
        "baseline": _baseline(config),
        "models": {model.name: model.file.summary for model in models},
        "cost_models": {model.name: model.described() for model in models},
        "sensitivity": _sensitivity(measured, models),
        "prediction": predictions(reference, models, measured.totals, measured.counterpart),
        "reference": _reference(reference),
        "designs": designs,
    }
    result["checks"] = _checks(config, measured, designs)
    return result


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
        **counted(config.scenario, totals, models),
        "handler_ns": totals.handler.summary(),
        "handler_buckets": totals.handler.buckets(),
        "handler_p50s": totals.handler_p50s,
        "handler_to_baseline": _against(totals, measured.totals[_baseline(config)]),
        "timer_ns": totals.timer_ns,
        "accesses_per_s": round(statistics.median(totals.access_rates)),
        "ratios": _ratios(latency),
        "access_ns": {
            "page_read": _accesses(latency.page_read, latency.plain),
            "page_write": _accesses(latency.page_write, latency.plain),
            "exit": _exits(latency),
        },
    }


def _axes(design: Design) -> Json:
    """What tells a design from others, for tables by axis."""
    return {
        "page": design.page,
        "freeze": design.freeze,
        "is_paused": design.is_paused,
        **design.host_axes._asdict(),
        "context_lock": design.context_lock,
        "host": design.host,
    }


def _baseline(config: BenchConfig) -> str:
    """The design that others are compared with: KVM's of today, else the last without a page.

    Without either the first.
    """
    trapping = [design for design in config.designs if not design.page]
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
    }


def _sensitivity(measured: Measured, models: list[CostModel]) -> list[Json]:
    """Of each model that leaves the split of its costs open, with this run's figures."""
    works = {
        name: parts_of(totals.guest["handlers"], totals.exits_by, totals.tallies)
        for name, totals in measured.totals.items()
    }
    found = [sensitivity(model, works, POINTS) for model in models]
    return [entry for entry in found if entry["points"]]


def _checks(config: BenchConfig, measured: Measured, designs: list[Json]) -> list[Json]:
    """What must hold for the numbers to be believed; each with its outcome."""
    races = config.scenario.races
    charge = config.charge
    # Designs that are charged different times do not stay in step.
    in_step = charge is None and not (
        races.pmi_skid or races.injection_latency or races.handler_tail
    )
    equivalent = {design.name for design in config.designs if design.equivalent}
    alike = [entry for entry in designs if entry["name"] in equivalent]
    every = list(measured.totals.values())
    competes = bool(config.scenario.host_load.events)

    def same(key: str) -> bool:
        return len({entry[key] for entry in alike}) <= 1

    def same_by_driver(key: str) -> bool:
        drivers = {name: config.guest(name).driver for name in equivalent}
        seen = {(drivers[entry["name"]], entry[key]) for entry in alike}
        return len(seen) == len(set(drivers.values()))

    checks: list[tuple[str, Callable[[], bool], bool]] = [
        ("no PMI lost", lambda: not any(totals.lost for totals in every), True),
        ("count error 0", lambda: not any(sum(t.error.values()) for t in every), not competes),
        (
            "count errors are what guest counters without an event missed, and a page says so",
            lambda: all(accounts_for_errors(config.scenario, totals) for totals in every),
            competes,
        ),
        (
            "host and guest count the same PMU exits",
            lambda: all(_host_view(totals) == +totals.exits_guest for totals in every),
            True,
        ),
        (
            "timed and counted passes take the same samples",
            lambda: not any(totals.unequal for totals in every),
            True,
        ),
        (
            "equivalent designs take the same samples",
            lambda: same("samples_digest"),
            in_step and len(alike) > 1,
        ),
        (
            "equivalent designs make the same accesses",
            lambda: same_by_driver("access_digest"),
            in_step and len(alike) > 1,
        ),
        (
            "the guest clock was charged what the counted work costs",
            lambda: charge is not None and all(charged_as_counted(charge, t) for t in every),
            charge is not None,
        ),
        (
            "the script was played as it is written",
            lambda: all(_as_written(config.scenario.script, totals) for totals in every),
            config.scenario.script is not None,
        ),
    ]
    return [{"name": name, "ok": test()} for name, test, applies in checks if applies]


def _as_written(script: ScriptCounts | None, totals: Totals) -> bool:
    """Whether the guest did as often what the script says; a throttled event, say, does not."""
    if script is None:
        return True
    guest, runs = totals.guest, totals.runs
    done = {name: guest[name] for name in ("handlers", "ticks", "sched_in", "sched_out")}
    written = {name: runs * getattr(script, name) for name in done}
    bits = guest["acks"] + guest["second_bits"]
    return done == written and bits == runs * sum(script.overflows)


def _host_view(totals: Totals) -> dict[tuple[str, int], int]:
    return {key: count for key, count in totals.exits_host.items() if count and is_pmu(*key)}
