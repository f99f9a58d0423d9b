"""The parameters of a sweep: their names and types, and how one changes what is run. Pure.

A parameter is a field of the scenario, the design or the cost model by its path
(``scenario.workload.phases``, ``design.is_paused``, ``cost.exit_ns``), or one of :data:`WHOLE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from pvpmu.cost.file import MAX_NS
from pvpmu.cost.model import CostModel
from pvpmu.guest.scenario import Scenario
from pvpmu.shared.costs import Costs
from pvpmu.shared.datafile import from_table
from pvpmu.shared.design import Design
from pvpmu.shared.errors import UsageError
from pvpmu.sweep.shape import with_events, with_frequency

Value = bool | int | float | str

_T = TypeVar("_T")

GROUPS: dict[str, type] = {"scenario": Scenario, "design": Design, "cost": Costs}
WHOLE: dict[str, inspect.Type] = {
    "scenario": inspect.StrType(),
    "design": inspect.StrType(),
    "cost": inspect.StrType(),
    "events": inspect.IntType(),
    "frequency": inspect.IntType(),
    "seed": inspect.IntType(),
    "charge": inspect.BoolType(),
}
"""Parameters that are no field: data files by name or path, ``events`` (how many are opened),
``frequency`` (of each sampled event, in Hz), the seed, and whether the costs are charged to the
guest clock."""

_SCALARS = (inspect.BoolType, inspect.IntType, inspect.FloatType, inspect.StrType,
            inspect.LiteralType)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bases:
    """What data files hold, by the name in them, before parameters change it.

    ``charges``: the cost models that scenarios charge unless asked otherwise, by what they call it.
    """

    scenarios: Mapping[str, Scenario]
    designs: Mapping[str, Design]
    costs: Mapping[str, CostModel]
    charges: Mapping[str, CostModel]


@dataclass(frozen=True, slots=True)
class Resolved:
    """One point with its parameters applied. ``charge``: what is charged to the guest clock."""

    scenario: Scenario
    design: Design
    cost: CostModel
    seed: int
    charge: Costs | None


def type_of(name: str) -> inspect.Type:
    """The type of a parameter's values; raises :class:`UsageError`, naming what exists."""
    if name in WHOLE:
        return WHOLE[name]
    group, *path = name.split(".")
    if group not in GROUPS or not path:
        fields = [f"{group}.*" for group in GROUPS]
        raise _unknown(name, [*WHOLE, *fields])
    info: inspect.Type = inspect.type_info(GROUPS[group])
    at = group
    for step in path:
        inner = _fields(info, at)
        if step in inner:
            info = inner[step]
        elif isinstance(info, inspect.VarTupleType) and step.isdigit():
            info = _present(info.item_type)
        elif isinstance(info, inspect.DictType):
            info = _present(info.value_type)
        else:
            raise _unknown(name, _listed(info, at))
        at = f"{at}.{step}"
    if not isinstance(info, _SCALARS):
        raise _unknown(name, _listed(info, at))
    return info


def resolve(point: Mapping[str, Value], bases: Bases) -> Resolved:
    """Apply a point's parameters; raises :class:`UsageError`, naming parameter and field."""
    scenario = bases.scenarios[str(point["scenario"])]
    scenario = _changed(scenario, Scenario, "scenario", point)
    if "events" in point:
        scenario = with_events(scenario, int(point["events"]))
    if "frequency" in point:
        scenario = with_frequency(scenario, int(point["frequency"]))
    cost = _costing(bases.costs[str(point["cost"])], point)
    charged = bases.charges.get(scenario.charge)
    if "charge" in point:
        charged = cost if point["charge"] else None
    return Resolved(
        scenario=scenario,
        design=_changed(bases.designs[str(point["design"])], Design, "design", point),
        cost=cost,
        seed=int(point["seed"]),
        charge=None if charged is None else charged.costs.rounded(),
    )


def _changed(base: _T, kind: type[_T], group: str, point: Mapping[str, Value]) -> _T:
    changes = {name: value for name, value in point.items() if name.startswith(f"{group}.")}
    if not changes:
        return base
    table: object = msgspec.to_builtins(base)
    for name, value in changes.items():
        table = _put(table, name.split(".")[1:], value, name)
    said = ", ".join(f"{name} = {value}" for name, value in changes.items())
    return from_table(table, source=f"{group} {point[group]} with {said}", kind=kind)


def _costing(model: CostModel, point: Mapping[str, Value]) -> CostModel:
    """The model with some costs given: the others stay as they are, nothing is fitted anew."""
    given: dict[str, float] = {}
    for name, value in point.items():
        if name.startswith("cost."):
            ns = float(value)
            if not 0 <= ns <= MAX_NS:
                raise UsageError(f"{name} = {ns:g} ns is outside 0..{MAX_NS} ns")
            given[name.removeprefix("cost.")] = ns
    if not given:
        return model
    corners = dict.fromkeys(replace(corner, **given) for corner in model.corners)
    return replace(model, costs=replace(model.costs, **given), corners=tuple(corners))


def _put(table: object, path: list[str], value: Value, name: str) -> object:
    """``table`` with the field at ``path`` set."""
    if not path:
        return value
    step, *rest = path
    if isinstance(table, dict):
        return {**table, step: _put(table.get(step), rest, value, name)}
    if isinstance(table, list | tuple):
        if int(step) >= len(table):
            raise UsageError(f"parameter {name!r}: there are only {len(table)}, counted from 0")
        items: list[Any] = list(table)
        items[int(step)] = _put(items[int(step)], rest, value, name)
        return items
    raise UsageError(
        f"parameter {name!r}: there is no such table in this {name.split('.', maxsplit=1)[0]}"
    )


def _fields(info: inspect.Type, at: str) -> dict[str, inspect.Type]:
    """Fields of a table that can be a parameter or lead to one: at the top no text."""
    if not isinstance(info, inspect.DataclassType):
        return {}
    fields = {field.name: _present(field.type) for field in info.fields}
    return {name: kind for name, kind in fields.items() if "." in at or not _is_text(kind)}


def _is_text(info: inspect.Type) -> bool:
    match info:
        case inspect.StrType():
            return True
        case inspect.VarTupleType(item_type=inside) | inspect.DictType(value_type=inside):
            return _is_text(inside)
        case _:
            return False


def _present(info: inspect.Type) -> inspect.Type:
    """The type without None."""
    if isinstance(info, inspect.UnionType):
        return next(kind for kind in info.types if not isinstance(kind, inspect.NoneType))
    return info


def _listed(info: inspect.Type, at: str) -> list[str]:
    """What exists below ``at``."""
    match info:
        case inspect.DataclassType():
            fields = _fields(info, at)
            return [
                f"{at}.{name}" + ("" if isinstance(kind, _SCALARS) else ".*")
                for name, kind in fields.items()
            ]
        case inspect.VarTupleType(item_type=inside):
            return [f"{at}.0" + ("" if isinstance(inside, _SCALARS) else ".*"), f"{at}.1 ..."]
        case inspect.DictType():
            return [f"{at}.NAME"]
        case _:
            return [at]


def _unknown(name: str, known: list[str]) -> UsageError:
    return UsageError(f"unknown parameter {name!r}; known: {', '.join(known)}")
