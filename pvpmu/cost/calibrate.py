"""A cost model of this machine, as the text of a file. Pure.

Measured is what exists here: an exit, which is a hand-over to the host on the same CPU and its
answer. There is no kernel behind it, so that perf calls and the guest's work are carried over.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence

from pvpmu.cost.file import Range
from pvpmu.cost.model import CostModel
from pvpmu.cost.shelf import HERE
from pvpmu.guest.latency import ROUND_TRIP, LatencyReport
from pvpmu.shared.registers import BY_ADDRESS, GLOBAL_STATUS

MEASURED = "exit_ns"
CARRIED = ("call_ns", "redundant_call_ns", "guest_ns", "pmu_switch_ns")
LEAST_ROUNDS = 10
"""Fewer batches have no deciles."""


def here_file(
    report: LatencyReport,
    carried: Sequence[CostModel],
    environment: Mapping[str, str | int],
    *,
    date: str,
    batch: int,
) -> str:
    """The file's text.

    ``carried``: the models that the other costs come from: values are the last one's, ranges those
    of all. ``batch``: exits in a batch of ``report``. ``date``: when it was measured.
    """
    status = BY_ADDRESS[GLOBAL_STATUS].name
    exits = report.exit[status]
    family = carried[-1].file.family
    source = f"carried over from {carried[-1].name}, range of {family}"
    method = f"p50, p10 and p90 of {len(exits)} batches of {batch} exits that read {status}"
    costs = {MEASURED: _spread(exits, f"measured here: {method}")}
    costs |= {name: _carried(name, carried, source) for name in CARRIED}
    trips = _spread(report.floors[ROUND_TRIP], "")
    facts: dict[str, str | int | float] = {
        "date": date,
        **environment,
        "bare_round_trip_p50_ns": trips.value,
        "bare_round_trip_p10_ns": trips.low,
        "bare_round_trip_p90_ns": trips.high,
    }
    lines = [
        "# Written by `pvpmu calibrate`.",
        f"# Measured on this machine: {MEASURED}. It is a hand-over between two processes on one",
        "# CPU and the answer of a host in Python, not an exit of a real VM.",
        f"# Carried over from {family}, not measured: {', '.join(CARRIED)}.",
        "# Locks and placements are in what a call costs; reads without perf are free.",
        f"name = {_text(HERE)}",
        f"summary = {_text(f'this machine: a measured exit, the rest carried over from {family}')}",
        f"source = {_text(f'pvpmu calibrate, {date}')}",
        "",
        "[costs]",
        *(f"{name} = {_range(cost)}" for name, cost in costs.items()),
        "",
        "[environment]",
        *(f"{name} = {_value(value)}" for name, value in facts.items()),
    ]
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float], source: str) -> Range:
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    low, value, high = (round(max(ns, 0.0), 1) for ns in (deciles[0], deciles[4], deciles[8]))
    return Range(value=value, low=low, high=high, source=source)


def _carried(name: str, carried: Sequence[CostModel], source: str) -> Range:
    corners = [costs for model in carried for costs in model.corners]
    # Those in which a call includes its lock and its placements, as it does in this file.
    ends = [
        getattr(at, name) for at in corners if not at.lock_ns + at.placement_ns + at.local_read_ns
    ]
    value = getattr(carried[-1].costs, name)
    return Range(
        value=round(value, 1), low=round(min(ends), 1), high=round(max(ends), 1), source=source
    )


def _range(cost: Range) -> str:
    return (
        f"{{ value = {cost.value}, low = {cost.low}, high = {cost.high}, "
        f"source = {_text(cost.source)} }}"
    )


def _value(value: str | int | float) -> str:
    return _text(value) if isinstance(value, str) else repr(value)


def _text(text: str) -> str:
    """A TOML basic string; JSON's escapes are among its own."""
    return json.dumps(text, ensure_ascii=False)
