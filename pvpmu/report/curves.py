"""Modelled time over one variable: events, frequency, vCPUs, and the cost of an exit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pvpmu.report import plots
from pvpmu.report.common import Json, panels_of
from pvpmu.report.page import Block, Figure, Section, Text
from pvpmu.report.timing import measured_table

Rows = Sequence[Mapping[str, Any]]


def curve(
    evidence: Json, name: str, parameter: str, heading: str, x_label: str, *, x_log: bool = False
) -> Section | None:
    """Modelled time over one parameter of a sweep, a figure per model; None without the sweep."""
    found = evidence["sweeps"].get(name)
    if found is None:
        return None
    bench, rows = evidence["bench"], found["rows"]
    panels = panels_of(bench)
    blocks: list[Block] = [Text(_counted_on(bench, rows))]
    for model in bench["models"]:
        of_model = [row for row in rows if row["cost"] == model]
        quantities = [
            plots.Quantity(label, _lines(of_model, parameter, value))
            for label, value in (
                ("µs per PMI, in the handler", lambda row: row["handler_ns"] / 1000),
                ("µs per PMI, in all", lambda row: row["total_ns"] / 1000),
                ("% of a vCPU's time", lambda row: row["work_ns_per_s"] / 1e7),
            )
        ]
        blocks.append(
            Figure(
                f"{name}-{model}",
                plots.curves(panels, quantities, x_label, x_log=x_log),
                f"Lines: modelled time over {x_label}, for each design, model {model}",
                f"Model {model}. Per PMI: an average over handler entries. Share of time: all PMU "
                f"work, ticks and context switches included, per second of guest clock; above "
                f"100 % a real guest would throttle. Intervals are in {name}.csv.",
            )
        )
    return Section(heading, blocks)


def _counted_on(bench: Json, rows: Rows) -> str:
    scenario, us = rows[0]["scenario"], rows[0]["duration_us"]
    instead = "" if scenario == bench["scenario"] else f" ({bench['scenario']} is a script)"
    return (
        f"Counted on {scenario}{instead}, {us / 1000:g} ms of guest clock for each point, "
        f"with handlers that take no guest time."
    )


def _lines(
    rows: Rows, parameter: str, value: Callable[[Mapping[str, Any]], float]
) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault(row["design"], []).append((row[parameter], value(row)))
    return lines


def vcpus(evidence: Json) -> Section | None:
    """Exits and time of whole VMs, and handlers measured on several vCPUs."""
    found = evidence["sweeps"].get("vcpus")
    if found is None:
        return None
    bench, rows = evidence["bench"], found["rows"]
    model = next(iter(bench["models"]))
    of_model = [row for row in rows if row["cost"] == model]
    quantities = [
        plots.Quantity(
            "PMU exits per ms, whole VM",
            _lines(of_model, "vcpus", lambda row: row["pmu_exits"] * 1000 / row["duration_us"]),
        ),
        plots.Quantity(
            "CPUs busy, whole VM",
            _lines(of_model, "vcpus", lambda row: row["work_ns_per_s"] * row["vcpus"] / 1e9),
        ),
    ]
    blocks: list[Block] = [
        Text(_counted_on(bench, rows)),
        Figure(
            "vcpus",
            plots.curves(panels_of(bench), quantities, "vCPUs"),
            "Lines: PMU exits and modelled time over the number of vCPUs, for each design",
            f"Counts are sums over vCPUs; time is that of model {model}. Each vCPU has an exit "
            f"slot, a page of 4096 bytes and a perf context of its own, and nothing is shared "
            f"among them, so that costs are in proportion.",
        ),
    ]
    measured = evidence["vcpus"]
    if measured is not None:
        blocks.append(measured_table(bench, measured))
    if bench["scaling"] is not None:
        scaling = bench["scaling"]
        blocks.append(
            Text(
                f"Exits as fast as they go: {scaling['exits_per_s_1']:,} per second on one vCPU, "
                f"{scaling['exits_per_s_2']:,} on two ({scaling['ratio']:.2f} times)."
            )
        )
    return Section("Number of vCPUs", blocks)


def sensitivity(bench: Json) -> Section | None:
    """Modelled time over the assumed cost of an exit; None where no model leaves it open."""
    if not bench["sensitivity"]:
        return None
    blocks: list[Block] = [
        Text(
            "Two published latencies do not tell the cost of an exit from that of a call on a "
            "running counter, nor from the guest's own work. Every split below gives both "
            "latencies back. To the right exits are dear and calls cheap; the band is what the "
            "guest's work leaves open."
        )
    ]
    for entry in bench["sensitivity"]:
        points = entry["points"]
        if not points:
            continue
        quantities = [
            plots.Quantity(
                label,
                {
                    name: [
                        (p["exit_ns"], *(ns / 1000 for ns in p["figures"][name][figure]))
                        for p in points
                    ]
                    for name in points[0]["figures"]
                },
            )
            for label, figure in (
                ("µs per PMI, in the handler", "handler_ns"),
                ("µs per PMI, in all", "total_ns"),
            )
        ]
        blocks.append(
            Figure(
                f"sensitivity-{entry['model']}",
                plots.bands(panels_of(bench), quantities, "ns per exit"),
                "Bands: modelled time per PMI over the assumed cost of an exit, for each design",
                f"Model {entry['model']} and its neighbours, from {points[0]['exit_ns']:,.0f} to "
                f"{points[-1]['exit_ns']:,.0f} ns per exit.",
            )
        )
    return Section("Sensitivity to costs", blocks)
