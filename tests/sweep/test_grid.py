"""Axes from text, the order of points, and the digest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import pvpmu.cli
from pvpmu.shared.errors import UsageError
from pvpmu.sweep.grid import Grid, parse_axis
from pvpmu.sweep.request import axes_of, command_axes, command_of, load_request, make_grid

from .conftest import SETTINGS, axes, grid_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("events=3", (3,)),
        ("events=1..4", (1, 2, 3, 4)),
        ("events=1..2,8", (1, 2, 8)),
        ("frequency=250..1000..250", (250, 500, 750, 1000)),
        ("frequency=250..999..250", (250, 500, 750)),
        ("cost.exit_ns=1000..3000..1000", (1000.0, 2000.0, 3000.0)),
        ("cost.exit_ns=1.5,2", (1.5, 2.0)),
        ("design.is_paused=false,true", (False, True)),
        ("design=trap,page", ("trap", "page")),
    ],
)
def test_an_axis_is_values_and_ranges(text: str, values: tuple[object, ...]) -> None:
    assert parse_axis(text) == (text.partition("=")[0], values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("events", "expected NAME=VALUES"),
        ("events=", "expected an integer"),
        ("events=1..", "expected FROM..TO"),
        ("events=1..2..3..4", "expected FROM..TO"),
        ("events=4..1", "ascends"),
        ("events=1..4..0", "ascends"),
        ("seed=1..99999999999", "1,000,000"),
    ],
)
def test_a_malformed_axis_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*$") as refused:
        parse_axis(text)
    assert says in str(refused.value)


def test_points_that_differ_in_costs_alone_are_neighbours() -> None:
    grid = grid_of("cost.exit_ns=1,2", "events=1,2", settings=())
    assert list(grid.axes)[:2] == ["scenario", "design"]
    assert list(grid.axes)[-2:] == ["cost", "cost.exit_ns"]
    blocks = list(grid.blocks())
    assert [block.first for block in blocks] == [0, 2, 4, 6]
    assert grid.size == 8
    for block in blocks:
        assert [point["cost.exit_ns"] for point in block.points] == [1, 2]
        assert block.resolved[0].scenario == block.resolved[1].scenario
        assert block.resolved[0].cost != block.resolved[1].cost
    runs = [(block.points[0]["design"], block.points[0]["events"]) for block in blocks]
    assert runs == [("trap", 1), ("trap", 2), ("page", 1), ("page", 2)]


@pytest.mark.parametrize(
    "other",
    [
        grid_of("events=1,3", settings=SETTINGS),
        grid_of("events=1,2", settings=("scenario.duration_us=2001",)),
        grid_of("events=1,2", settings=SETTINGS, designs=("trap",)),
        grid_of("scenario.hz=1,2", settings=SETTINGS),
    ],
)
def test_another_grid_has_another_digest(other: Grid) -> None:
    assert grid_of("events=1,2").digest == grid_of("events=1,2").digest
    assert other.digest != grid_of("events=1,2").digest


def test_a_data_file_that_changed_makes_another_grid() -> None:
    grid = grid_of("events=1,2")
    scenario = replace(grid.bases.scenarios["br_instr"], switch_us=1)
    changed = replace(grid, bases=replace(grid.bases, scenarios={"br_instr": scenario}))
    assert changed.digest != grid.digest


def test_a_value_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="events: 2 is given twice"):
        grid_of("events=2,1..3")


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="events: is given twice"):
        grid_of("events=1", "events=2")


def test_a_grid_too_large_is_refused() -> None:
    with pytest.raises(UsageError, match=r"4,000,000 points, expected at most 1,000,000"):
        grid_of("seed=1..1000", "scenario.hz=1..2000")


def test_one_value_is_set_and_several_are_varied() -> None:
    with pytest.raises(UsageError, match="vary it instead"):
        grid_of(settings=("events=1,2",))


def test_a_point_that_cannot_be_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="is outside"):
        grid_of("scenario.hz=1000,0")


GRID = """
scenario = "br_instr"
design = ["trap", "page"]
[set]
"scenario.duration_us" = 2000
seed = 3
[vary]
events = "1..3"
frequency = [500, 1000]
[vary.cost]
exit_ns = [1300, 3110.5]
"""


def test_a_grid_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    assert axes_of(load_request(path)) == {
        "scenario": ("br_instr",),
        "design": ("trap", "page"),
        "scenario.duration_us": (2000,),
        "seed": (3,),
        "events": (1, 2, 3),
        "frequency": (500, 1000),
        "cost.exit_ns": (1300.0, 3110.5),
    }


def test_the_command_line_replaces_what_a_file_gives(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    given = {**axes_of(load_request(path)), **axes("seed=1,2", designs=("trap",), settings=())}
    grid = make_grid(given, ("page",))
    assert grid.axes["seed"] == (1, 2)
    assert grid.axes["design"] == ("trap",)
    assert grid.axes["events"] == (1, 2, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[vary]", "[varied]"), ["line 7", "varied"]),
        (('"1..3"', '"1..x"'), ["events", "1..x"]),
        (("exit_ns = [1300", "exit_ms = [1300"), ["cost.exit_ms", "cost.exit_ns"]),
        (("seed = 3", "seed = 3\nevents = 2"), ["events", "given twice"]),
        (("2000", "[2000, 3000]"), ["scenario.duration_us", "expected an integer"]),
    ],
)
def test_a_malformed_grid_file_is_one_line(
    tmp_path: Path, change: tuple[str, str], says: list[str]
) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(GRID.replace(*change))
    with pytest.raises(UsageError, match=r"^[^\n]*$") as refused:
        axes_of(load_request(path))
    for word in says:
        assert word in str(refused.value)


def test_a_grid_as_a_command_line_is_read_back() -> None:
    given = axes("events=1,2", "design.is_paused=false,true", "cost.exit_ns=1.5,2")
    command = command_of({**given, "seed": (7,)}, "out.csv")
    assert command[:4] == ["pvpmu", "sweep", "--output", "out.csv"]
    parsed = pvpmu.cli._parser(command[1:]).parse_args(command[1:])
    files = {name: getattr(parsed, name) for name in ("scenario", "design", "cost")}
    again = command_axes(files, parsed.set, parsed.vary)
    assert again == {**given, "seed": (7,)}
