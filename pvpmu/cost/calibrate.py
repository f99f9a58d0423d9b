"""A cost model of this machine, as the text of a file. Pure.

Measured is what exists here. An exit is a hand-over to the host on the same CPU and its answer; on
a real VM it is an MSR access that a table answers, and perf calls are the kernel's. The rest is
carried over.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pvpmu.cost.file import Range
from pvpmu.cost.model import CostModel
from pvpmu.cost.shelf import HERE
from pvpmu.guest.latency import ROUND_TRIP, LatencyReport
from pvpmu.shared.registers import BY_ADDRESS, GLOBAL_STATUS

MEASURED = "exit_ns"
CARRIED = ("call_ns", "redundant_call_ns", "guest_ns", "pmu_switch_ns")
_HANDOVER = (
    "# Measured on this machine: {names}. It is a hand-over between two processes on one",
    "# CPU and the answer of a host in Python, not an exit of a real VM.",
)
_REAL = (
    "# Measured on this machine: {names}. The exit is an RDMSR of a real VM's guest,",
    "# answered from a table in Python; calls are system calls on events of the kernel's.",
)
LEAST_ROUNDS = 10
"""Fewer batches have no deciles."""


@dataclass(frozen=True, slots=True)
class RealCosts:
    """What was measured on a real VM, ns each. ``facts``: more of it, for the environment.

    ``exits``: exits by an MSR access; ``calls``: perf calls on an event that runs, and
    ``redundant_calls`` on one that is paused, both empty where perf has no events.
    """

    exits: Sequence[float]
    calls: Sequence[float]
    redundant_calls: Sequence[float]
    facts: Mapping[str, str | int | float]

    @property
    def costs(self) -> dict[str, Range]:
        """By name of the cost."""
        found = {MEASURED: _spread(self.exits, _how("exits of a real VM", self.exits))}
        for name, values in zip(CARRIED, (self.calls, self.redundant_calls), strict=False):
            if values:
                found[name] = _spread(values, _how("calls on the kernel's events", values))
        return found


def _how(what: str, values: Sequence[float]) -> str:
    return f"measured here: p50, p10 and p90 of {len(values)} {what}"


def here_file(
    report: LatencyReport,
    carried: Sequence[CostModel],
    environment: Mapping[str, str | int],
    *,
    date: str,
    batch: int,
    real: RealCosts | None = None,
) -> str:
    """The file's text.

    ``carried``: the models that the other costs come from: values are the last one's, ranges those
    of all. ``batch``: exits in a batch of ``report``. ``date``: when it was measured. ``real``: a
    real VM's costs in the place of the hand-over's, which is among the facts then.
    """
    status = BY_ADDRESS[GLOBAL_STATUS].name
    exits = report.exit[status]
    family = carried[-1].file.family
    source = f"carried over from {carried[-1].name}, range of {family}"
    method = f"p50, p10 and p90 of {len(exits)} batches of {batch} exits that read {status}"
    handover = _spread(exits, f"measured here: {method}")
    measured = {MEASURED: handover} if real is None else real.costs
    rest = [name for name in CARRIED if name not in measured]
    costs = measured | {name: _carried(name, carried, source) for name in rest}
    trips = _spread(report.floors[ROUND_TRIP], "")
    facts: dict[str, str | int | float] = {
        "date": date,
        **environment,
        "bare_round_trip_p50_ns": trips.value,
        "bare_round_trip_p10_ns": trips.low,
        "bare_round_trip_p90_ns": trips.high,
    }
    if real is not None:
        facts |= {"handover_exit_p50_ns": handover.value, **real.facts}
    comments = _HANDOVER if real is None else _REAL
    lines = [
        "# Written by `pvpmu calibrate`.",
        *(comment.format(names=", ".join(measured)) for comment in comments),
        f"# Carried over from {family}, not measured: {', '.join(rest)}.",
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
