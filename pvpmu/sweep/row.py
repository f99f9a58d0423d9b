"""The columns of a sweep's CSV after its parameters: counts, accuracy, modelled time. Pure."""

from __future__ import annotations

from functools import reduce
from typing import Any

from pvpmu.bench.accuracy import Scaled
from pvpmu.bench.counted import counted
from pvpmu.bench.totals import Totals
from pvpmu.shared.costs import work_of
from pvpmu.shared.tally import PLACES, add
from pvpmu.sweep.parameters import Resolved

Json = dict[str, Any]
Cell = bool | int | float | str | None

DIGEST = "samples_digest"
_DIGEST_CHARS = 16

_SAME = (
    "elapsed_ns", "charged_ns", "overhead_percent",
    "handlers", "acks", "second_bits", "ticks", "sched_in", "sched_out", "rotations", "reads",
    "samples", "throttles", "pmu_exits", "pmu_exits_with_nmi", "exits_per_pmi",
    "exits_per_pmi_with_nmi", "exits_per_spurious", "exits_per_tick", "exits_per_sched_in",
    "exits_per_sched_out", "exits_per_rotation", "exits_per_read", "context_locks",
    "pmu_switches", "placements",
)  # fmt: skip
"""Columns that are fields of a design in ``docs/bench-json.md``."""
_PMI = ("raised", "delivered", "coalesced", "spurious", "late", "lost")
_EXITS = ("MSR_READ", "MSR_WRITE", "RDPMC", "EXCEPTION_NMI", "EXTERNAL_INTERRUPT", "NMI_WINDOW")


def _counts(result: Json) -> dict[str, Cell]:
    """The cells that follow from counts, by column."""
    return {
        **{name: result[name] for name in _SAME},
        **{name: result["exits"].get(name, 0) for name in _EXITS},
        **{f"perf_calls_{place}": sum(result[f"perf_calls_{place}"].values()) for place in PLACES},
        "perf_calls_redundant": sum(result["perf_calls_redundant"].values()),
        **{f"pmi_{kind}": result["pmi"][kind] for kind in _PMI},
        DIGEST: result[DIGEST][:_DIGEST_CHARS],
    }


def _accuracy(accuracy: Json) -> dict[str, Cell]:
    """The worst event of counts as perf stat scales them, and of periods; where samples are."""
    scaled = [one["error"] for one in accuracy["scaled"].values() if one["error"] is not None]
    periods = [one["p50"] for one in accuracy["period_error"].values() if one is not None]
    skid = accuracy["skid"]
    return {
        "scaled_error": max(map(abs, scaled), default=None),
        "period_error_p50": max(periods, default=None),
        "exact_share": None if skid is None else skid["exact_share"],
        "skid_p50": None if skid is None else skid["instructions"]["p50"],
    }


def columns(resolved: Resolved) -> tuple[str, ...]:
    """The columns of :func:`cells`, before anything is counted."""
    nothing = Totals()
    nothing.accuracy.scaled = [Scaled() for _ in resolved.scenario.events]
    return tuple(cells(resolved, nothing))


def cells(resolved: Resolved, totals: Totals) -> dict[str, Cell]:
    """What the file says of one point after its parameters, by column; None: nothing to say."""
    cost = resolved.cost
    result = counted(resolved.scenario, totals, [cost])
    model = result["model"][cost.name]
    work = work_of(sum(totals.exits_by), reduce(add, totals.tallies), totals.guest["handlers"])
    seconds = resolved.scenario.duration_us * resolved.scenario.vcpus / 1_000_000
    figures = {name: [model[name], *ends] for name, ends in model["interval"].items()}
    every = (cost.costs.of(work), *cost.interval(work))
    figures["work_ns_per_s"] = [round(ns / seconds, 1) for ns in every]
    return {
        "vcpus": resolved.scenario.vcpus,
        "duration_us": resolved.scenario.duration_us,
        **_counts(result),
        # Not by name: an event may be opened more than once.
        "count_error": sum(totals.error.values()),
        "held": sum(totals.held.values()),
        **_accuracy(result["accuracy"]),
        **{
            f"{name}{end}": ns
            for name, values in figures.items()
            for end, ns in zip(("", "_low", "_high"), values, strict=True)
        },
    }
