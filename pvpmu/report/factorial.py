"""What each choice of a design brings: every combination of them counted, and compared. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pvpmu.shared.design import Design

Row = Mapping[str, Any]
INTERFACE = "design"


@dataclass(frozen=True, slots=True)
class Axis:
    """A choice with two values. ``name``: of the sweep's parameter; ``off``: what KVM does."""

    name: str
    title: str
    off: str | bool
    on: str | bool


AXES = (
    Axis(INTERFACE, "page", "trap", "page"),
    Axis("design.pmi_path", "pmi_path", "callback", "direct"),
    Axis("design.host_freeze", "host_freeze", "pause", "entry-mask"),
    Axis("design.rearm", "rearm", "all", "changed"),
    Axis("design.context_lock", "context_lock", "per-call", "per-exit"),
    Axis("design.is_paused", "is_paused", off=False, on=True),
)
BASE = {"design.is_paused": True}
"""Where the others stand when an axis is looked at alone, if not off: KVM has is_paused."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A figure with an axis off and on: others as they are in KVM, all on, and on the average."""

    axis: Axis
    alone: tuple[float, float]
    last: tuple[float, float]
    mean: tuple[float, float]


def axes_here() -> list[Axis]:
    """The axes that designs have."""
    known = {f"design.{field.name}" for field in fields(Design)} | {INTERFACE}
    return [axis for axis in AXES if axis.name in known]


def combinations(axes: Sequence[Axis]) -> dict[str, tuple[str | bool, ...]]:
    """The sweep's axes: every combination."""
    return {axis.name: (axis.off, axis.on) for axis in axes}


def effect(rows: Sequence[Row], axes: Sequence[Axis], axis: Axis, figure: str) -> Effect:
    """What one axis does to a figure; ``rows``: one for each combination."""
    others = [other for other in axes if other is not axis]
    base = {other.name: BASE.get(other.name, other.off) for other in others}
    all_on = {other.name: other.on for other in others}
    off, on = (
        [row[figure] for row in rows if row[axis.name] == value] for value in (axis.off, axis.on)
    )
    return Effect(
        axis,
        _pair(rows, axis, base, figure),
        _pair(rows, axis, all_on, figure),
        (sum(off) / len(off), sum(on) / len(on)),
    )


def table_order(rows: Sequence[Row], axes: Sequence[Axis]) -> list[Row]:
    """Rows with the axes' off before on, the first axis changing slowest, is_paused on first."""
    at = {_key(row, axes): row for row in rows}
    below = [axis for axis in axes if axis.name in BASE]
    above = [axis for axis in axes if axis.name not in BASE]
    order = [
        *itertools.product(*((axis.on, axis.off) for axis in below)),
    ]
    ordered = []
    for low in order:
        for high in itertools.product(*((axis.off, axis.on) for axis in above)):
            values = dict(zip([a.name for a in (*below, *above)], (*low, *high), strict=True))
            ordered.append(at[tuple(values[axis.name] for axis in axes)])
    return ordered


def _pair(
    rows: Sequence[Row], axis: Axis, others: Mapping[str, object], figure: str
) -> tuple[float, float]:
    """The figure with the axis off and on, the others as given."""
    fitting = [row for row in rows if all(row[name] == value for name, value in others.items())]
    by_value = {row[axis.name]: float(row[figure]) for row in fitting}
    return by_value[axis.off], by_value[axis.on]


def _key(row: Row, axes: Sequence[Axis]) -> tuple[Any, ...]:
    return tuple(row[axis.name] for axis in axes)
