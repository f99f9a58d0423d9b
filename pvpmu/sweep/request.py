"""What a sweep is asked for: a TOML file, the command line on top of it, and the data files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvpmu.cost.shelf import DEFAULT, model_named, models_named
from pvpmu.guest.scenario import Scenario, load_scenario
from pvpmu.shared.datafile import load_toml
from pvpmu.shared.design import designs_named
from pvpmu.shared.errors import UsageError
from pvpmu.sweep.grid import Axes, Grid, checked, parse_axis, parse_values, text_of
from pvpmu.sweep.parameters import Bases, Value

_FILES = ("scenario", "design", "cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A sweep as a file has it, too: names of data files, one value or several per parameter.

    ``set`` and ``vary`` map parameters to a value or a list of them, texts as on the command line
    included; they may be nested tables (``[vary.scenario]``).
    """

    scenario: str | tuple[str, ...] = ()
    design: str | tuple[str, ...] = ()
    cost: str | tuple[str, ...] = ()
    set: dict[str, Any] = field(default_factory=dict)
    vary: dict[str, Any] = field(default_factory=dict)


def load_request(path: Path) -> Request:
    """Read a grid's TOML file; raises :class:`UsageError` with file, line and field."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    return load_toml(text, source=str(path), kind=Request)


def axes_of(request: Request) -> Axes:
    """The values that a file gives; raises :class:`UsageError` for a parameter given twice."""
    axes: dict[str, tuple[Value, ...]] = {}
    for name in _FILES:
        given = getattr(request, name)
        _add(axes, name, parse_values(name, [given] if isinstance(given, str) else given))
    for name, given in _flat(request.set):
        _add(axes, name, _single(name, parse_values(name, [given])))
    for name, given in _flat(request.vary):
        _add(axes, name, parse_values(name, _items(given)))
    return axes


def command_axes(
    files: dict[str, Sequence[str]], settings: Sequence[str], varied: Sequence[str]
) -> Axes:
    """The values that a command line gives: names of data files, ``NAME=VALUE``, ``NAME=VALUES``.

    Raises :class:`UsageError` for a parameter given twice.
    """
    axes: dict[str, tuple[Value, ...]] = {}
    for name, given in files.items():
        _add(axes, name, tuple(dict.fromkeys(given)))
    for text in settings:
        name, values = parse_axis(text)
        _add(axes, name, _single(name, values))
    for text in varied:
        _add(axes, *parse_axis(text))
    return axes


def command_of(axes: Axes, output: str) -> list[str]:
    """The command line of a sweep with these axes; :func:`command_axes` reads it back."""
    command = ["pvpmu", "sweep", "--output", output]
    for name in _FILES:
        for value in axes.get(name, ()):
            command += [f"--{name}", text_of(value)]
    for name, values in axes.items():
        if name not in _FILES:
            option = "--set" if len(values) == 1 else "--vary"
            command += [option, f"{name}={','.join(map(text_of, values))}"]
    return command


def make_grid(axes: Axes, designs: Sequence[str]) -> Grid:
    """The grid of ``axes`` and defaults for what they lack (``designs``), with its data files.

    Raises :class:`UsageError`, also for a point that cannot be.
    """
    defaults: Axes = {
        "scenario": ("br_instr",),
        "design": tuple(designs),
        "seed": (1,),
        "cost": (models_named([DEFAULT])[0].name,),
    }
    axes = {**defaults, **axes}
    scenarios = _scenarios(map(str, axes["scenario"]))
    charged = {scenario.charge for scenario in scenarios.values() if scenario.charge}
    bases = Bases(
        scenarios,
        {design.name: design for design in designs_named(map(str, axes["design"]))},
        {model.name: model for model in models_named(map(str, axes["cost"]))},
        {name: model_named(name) for name in sorted(charged)},
    )
    # Rows have the names that data files give themselves.
    names = {
        "scenario": tuple(bases.scenarios),
        "design": tuple(bases.designs),
        "cost": tuple(bases.costs),
    }
    grid = Grid(checked({**axes, **names}), bases)
    for _ in grid.blocks():
        pass  # Each point is made once here, so that none is refused in the middle.
    return grid


def _scenarios(given: Iterable[str]) -> dict[str, Scenario]:
    found: dict[str, Scenario] = {}
    for name in given:
        scenario = load_scenario(name)
        if found.setdefault(scenario.name, scenario) != scenario:
            raise UsageError(f"two scenarios are called {scenario.name!r}")
    return found


def _add(axes: dict[str, tuple[Value, ...]], name: str, values: tuple[Value, ...]) -> None:
    if not values:
        return
    if name in axes:
        raise UsageError(f"{name}: is given twice")
    axes[name] = values


def _single(name: str, values: tuple[Value, ...]) -> tuple[Value, ...]:
    if len(values) != 1:
        raise UsageError(f"{name}: {len(values)} values are set, expected one; vary it instead")
    return values


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _items(given: object) -> Sequence[object]:
    if isinstance(given, str):
        return given.split(",")
    return given if isinstance(given, list | tuple) else [given]
