"""The section on what each choice of a design brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pvpmu.report.common import Json
from pvpmu.report.factorial import Axis, axes_here, effect, table_order
from pvpmu.report.page import Section, Table, Text
from pvpmu.sweep.grid import text_of

Rows = Sequence[Mapping[str, Any]]


def choices(evidence: Json) -> Section | None:
    """Effects of each choice, and the figures of every combination; None without the sweep."""
    found = evidence["sweeps"].get("factorial")
    if found is None:
        return None
    axes = axes_here()
    models = list(evidence["bench"]["models"])
    rows = [_derived(row) for row in found["rows"]]
    by_model = {model: [row for row in rows if row["cost"] == model] for model in models}
    first = by_model[models[0]]
    effects = [
        ("PMU exits per ms of guest clock", "exits_per_ms", first, 1),
        ("context locks per ms of guest clock", "locks_per_ms", first, 1),
        ("PMU exits per PMI", "exits_per_pmi", first, 2),
        ("perf calls per PMI", "calls_per_pmi", first, 2),
        *((f"ns per PMI, {model}", "total_ns", by_model[model], 0) for model in models),
    ]
    return Section(
        "What each choice brings",
        [
            Text(
                "Every combination of the choices below was counted. An effect is the figure "
                "without the choice and with it: alone, where everything else is as in KVM with "
                "is_paused; last, where everything else is switched on already; and the mean over "
                "all combinations of the others."
            ),
            *(
                _effects(f"What each choice brings: {title}", of_model, axes, key, digits)
                for title, key, of_model, digits in effects
                if first[0]["handlers"] or key in {"exits_per_ms", "locks_per_ms"}
            ),
            _combinations(by_model, axes),
        ],
    )


def _effects(title: str, rows: Rows, axes: Sequence[Axis], figure: str, digits: int) -> Table:
    found = [effect(rows, axes, axis, figure) for axis in axes]
    return Table(
        ["choice", "from", "to", "alone", "last", "mean"],
        [
            [
                *(each.axis.title, text_of(each.axis.off), text_of(each.axis.on)),
                *(
                    f"{off:,.{digits}f} → {on:,.{digits}f}"
                    for off, on in (each.alone, each.last, each.mean)
                ),
            ]
            for each in found
        ],
        title,
    )


def _combinations(by_model: Mapping[str, Rows], axes: Sequence[Axis]) -> Table:
    merged = [table_order(rows, axes) for rows in by_model.values()]
    counts = {
        "PMU exits per ms": "exits_per_ms",
        "context locks per ms": "locks_per_ms",
        "per PMI": "exits_per_pmi",
        "perf calls per PMI, in the handler": "calls_inside",
        "outside": "calls_outside",
        "in all": "calls_per_pmi",
    }
    times = {"ns per PMI in the handler": "handler_ns", "in all": "total_ns"}
    return Table(
        [
            *(axis.title for axis in axes),
            *counts,
            *(f"{what}, {model}" for model in by_model for what in times),
        ],
        [
            [
                *(text_of(lines[0][axis.name]) for axis in axes),
                *(_shown(lines[0][key], 2) for key in counts.values()),
                *(_shown(line[key], 0) for line in lines for key in times.values()),
            ]
            for lines in zip(*merged, strict=True)
        ],
        "All combinations; those without is_paused are below",
    )


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _derived(row: Mapping[str, Any]) -> Json:
    """The row with what follows from it; None per PMI where there was none."""
    handlers, us = row["handlers"], row["duration_us"]
    inside, outside = (
        row[f"perf_calls_{place}"] / handlers if handlers else None
        for place in ("handler", "delivery")
    )
    return {
        **row,
        "exits_per_ms": row["pmu_exits"] * 1000 / us,
        "locks_per_ms": row["context_locks"] * 1000 / us,
        "calls_inside": inside,
        "calls_outside": outside,
        "calls_per_pmi": None if inside is None or outside is None else inside + outside,
    }
