"""The grid of a sweep: axes from text, its points in order, and the digest that tells grids apart.

Pure. **Invariant**: points that differ in costs alone are neighbours, so that one simulation
serves them all where nothing is charged.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import inspect

from pvpmu import __version__
from pvpmu.guest.runner import refuse_script
from pvpmu.shared.errors import UsageError
from pvpmu.sweep.parameters import Bases, Resolved, Value, resolve, type_of

SCHEMA = "pvpmu-sweep/1"
MAX_POINTS = 1_000_000
_DIGEST_CHARS = 16
_LEADING = ("scenario", "design")

Axes = Mapping[str, tuple[Value, ...]]
"""Values by parameter, in the order in which the last one changes fastest."""


@dataclass(frozen=True, slots=True)
class Block:
    """Points that share a simulation: the first one's number, and each one with its parameters."""

    first: int
    points: Sequence[Mapping[str, Value]]
    resolved: Sequence[Resolved]


@dataclass(frozen=True, slots=True)
class Grid:
    """``axes`` hold every parameter, those with one value too; see :func:`ordered`."""

    axes: Axes
    bases: Bases

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(len(values) for values in self.axes.values())

    @property
    def digest(self) -> str:
        """Tells this grid from any other: parameters, data files, version; hex."""
        everything = {
            "schema": SCHEMA,
            "version": __version__,
            "axes": [[name, list(values)] for name, values in self.axes.items()],
            "bases": msgspec.to_builtins(self.bases),
        }
        text = json.dumps(everything, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]

    def blocks(self) -> Iterator[Block]:
        """All points in order; raises :class:`UsageError` for a point that cannot be."""
        names = list(self.axes)
        inner = [name for name in names if is_cost(name)]
        outer = [name for name in names if not is_cost(name)]
        costs = [
            dict(zip(inner, values, strict=True))
            for values in itertools.product(*(self.axes[name] for name in inner))
        ]
        runs = itertools.product(*(self.axes[name] for name in outer))
        first = 0
        for values in runs:
            run = dict(zip(outer, values, strict=True))
            points = [{**run, **cost} for cost in costs]
            # What is charged changes what happens: each cost has a simulation of its own.
            apart = run.get("charge", False)
            for together in [[point] for point in points] if apart else [points]:
                resolved = [resolve(point, self.bases) for point in together]
                _check(resolved[0])
                yield Block(first, together, resolved)
                first += len(together)


def is_cost(name: str) -> bool:
    """Whether a parameter only changes what is computed from counts."""
    return name == "cost" or name.startswith("cost.")


def ordered(axes: Axes) -> dict[str, tuple[Value, ...]]:
    """Axes in the order of a grid: data files, the others as given, costs last."""
    first = [name for name in _LEADING if name in axes]
    last = [name for name in axes if is_cost(name)]
    middle = [name for name in axes if name not in {*first, *last}]
    return {name: axes[name] for name in (*first, *middle, *last)}


def checked(axes: Axes) -> dict[str, tuple[Value, ...]]:
    """``axes`` in order; raises :class:`UsageError` for a repeated value or too many points."""
    for name, values in axes.items():
        if not values:
            raise UsageError(f"{name}: no value is given")
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise UsageError(f"{name}: {text_of(twice)} is given twice")
    size = math.prod(len(values) for values in axes.values())
    if size > MAX_POINTS:
        raise UsageError(f"a grid of {size:,} points, expected at most {MAX_POINTS:,}")
    return ordered(axes)


def parse_axis(text: str) -> tuple[str, tuple[Value, ...]]:
    """``NAME=VALUE,VALUE,FROM..TO,FROM..TO..STEP``; raises :class:`UsageError`."""
    name, equals, values = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r}: expected NAME=VALUES")
    return name, parse_values(name, values.split(","))


def parse_values(name: str, given: Sequence[object]) -> tuple[Value, ...]:
    """Values of one parameter, texts or values of its type; raises :class:`UsageError`."""
    kind = type_of(name)
    values: list[Value] = []
    for item in given:
        if isinstance(item, str) and ".." in item and _is_number(kind):
            values += _range(name, item, kind)
        else:
            values.append(_value(name, item, kind))
    return tuple(values)


def text_of(value: Value) -> str:
    """A value as it is written in a TOML file or on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check(resolved: Resolved) -> None:
    """Refuse now what a run would refuse later."""
    if resolved.charge is not None:
        refuse_script(resolved.scenario)
    resolved.scenario.configs(resolved.scenario.cpuid)


def _is_number(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.IntType | inspect.FloatType)


def _range(name: str, text: str, kind: inspect.Type) -> list[Value]:
    first, last, step = ([_integer(part) for part in text.split("..")] + [1, None])[:3]
    if first is None or last is None or step is None or text.count("..") > 2:
        raise UsageError(f"{name}: {text!r}, expected FROM..TO or FROM..TO..STEP, integers")
    if step < 1 or first > last or (last - first) // step >= MAX_POINTS:
        raise UsageError(f"{name}: {text!r}: a range ascends, in fewer than {MAX_POINTS:,} steps")
    return [_value(name, value, kind) for value in range(first, last + 1, step)]


def _value(name: str, given: object, kind: inspect.Type) -> Value:
    """``given`` as a value of the parameter: of its type, or a text that stands for one."""
    value: Value | None
    match kind:
        case inspect.IntType():
            value, expected = _integer(given), "an integer"
        case inspect.FloatType():
            value, expected = _number(given), "a finite number"
        case inspect.BoolType():
            value, expected = _flag(given), "true or false"
        case inspect.LiteralType(values=known):
            value = next((each for each in known if each == given), None)
            expected = " or ".join(map(str, known))
        case _:
            good = isinstance(given, str) and given and given.isprintable()
            value, expected = (str(given) if good else None), "printable text"
    if value is None:
        raise UsageError(f"{name}: {given!r}, expected {expected}")
    return value


def _integer(given: object) -> int | None:
    if isinstance(given, str):
        try:
            return int(given, 0)
        except ValueError:
            return None
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def _number(given: object) -> float | None:
    try:
        value = float(given) if isinstance(given, str | int | float) else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and not isinstance(given, bool) else None


def _flag(given: object) -> bool | None:
    if isinstance(given, str):
        return {"true": True, "false": False}.get(given)
    return given if isinstance(given, bool) else None
