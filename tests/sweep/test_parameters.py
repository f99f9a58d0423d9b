"""Which parameters exist, and what they change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pvpmu.shared.errors import UsageError
from pvpmu.sweep.grid import parse_values
from pvpmu.sweep.parameters import Resolved, type_of

from .conftest import grid_of


def only(*settings: str) -> Resolved:
    grid = grid_of(settings=settings, designs=("page",))
    (block,) = grid.blocks()
    (resolved,) = block.resolved
    return resolved


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("scenario.duration_us=5000", "scenario.duration_us", 5000),
        ("scenario.hz=0xfa", "scenario.hz", 250),
        ("scenario.events.1.frequency=200", "scenario.events.1.frequency", 200),
        ("scenario.workload.phases=3", "scenario.workload.phases", 3),
        ("scenario.races.pmi_skid=7", "scenario.races.pmi_skid", 7),
        ("design.freeze=false", "design.freeze", False),
        ("design.is_paused=true", "design.is_paused", True),
        ("cost.exit_ns=1e3", "cost.costs.exit_ns", 1000.0),
        ("seed=-4", "seed", -4),
        ("scenario.vcpus=3", "scenario.vcpus", 3),
    ],
)
def test_a_field_of_scenario_design_or_cost_is_set_by_its_path(
    setting: str, field: str, value: object
) -> None:
    found: object = only(setting)
    for step in field.split("."):
        found = found[int(step)] if isinstance(found, tuple) else getattr(found, step)
    assert found == value
    assert type(found) is type(value)


def test_a_cost_is_given_and_the_others_stay() -> None:
    plain, changed = only().cost, only("cost.exit_ns=1000").cost
    assert changed.costs == replace(plain.costs, exit_ns=1000.0)
    assert {costs.exit_ns for costs in changed.corners} == {1000.0}
    assert {costs.guest_ns for costs in changed.corners} == {0.0, 4000.0}
    assert changed.name == plain.name


def test_a_rate_that_the_scenario_lacks_can_be_set() -> None:
    workload = only("scenario.workload.per_second.branch-misses=9").scenario.workload
    assert workload is not None
    assert workload.per_second["branch-misses"] == 9


def test_nothing_else_changes() -> None:
    plain, changed = only(), only("scenario.hz=250")
    assert changed.design == plain.design
    assert changed.cost == plain.cost
    assert changed.scenario.events == plain.scenario.events


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hz", ["'hz'", "events", "frequency", "scenario.*"]),
        ("scenario.hzz", ["'scenario.hzz'", "scenario.hz", "scenario.workload.*"]),
        ("scenario.workload", ["scenario.workload.phases"]),
        ("scenario.workload.phase", ["scenario.workload.phases"]),
        ("scenario.workload.per_second", ["scenario.workload.per_second.NAME"]),
        ("scenario.events", ["scenario.events.0.*"]),
        ("scenario.events.first.period", ["scenario.events.0.*"]),
        ("scenario.events.0.colour", ["scenario.events.0.frequency"]),
        ("scenario.hz.more", ["known: scenario.hz"]),
        ("scenario.summary", ["scenario.hz"]),
        ("design.pages", ["design.page", "design.is_paused"]),
        ("cost.name", ["cost.exit_ns"]),
        ("cost.", ["cost.exit_ns"]),
        ("", ["events"]),
    ],
)
def test_an_unknown_parameter_is_answered_with_those_that_exist(name: str, says: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        type_of(name)
    assert "unknown parameter" in str(refused.value)
    assert "\n" not in str(refused.value)
    for word in says:
        assert word in str(refused.value)
    for field in ("name", "summary", "notes", "reference"):
        assert f"scenario.{field}" not in str(refused.value).partition("known:")[2]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("scenario.hz=fast", "scenario.hz: 'fast', expected an integer"),
        ("scenario.hz=1.5", "expected an integer"),
        ("cost.exit_ns=nan", "expected a finite number"),
        ("cost.exit_ns=dear", "expected a finite number"),
        ("design.is_paused=1", "expected true or false"),
        ("scenario.hz=0", "scenario br_instr with scenario.hz = 0: field hz: hz 0 is outside"),
        ("scenario.events.9.period=1", "there are only 4"),
        ("scenario.script.ticks=1", "no such table in this scenario"),
        ("scenario.workload.per_second.colours=1", "unknown event 'colours'"),
        ("scenario.gp=9", "9"),
        ("cost.exit_ns=-1", "cost.exit_ns = -1 ns is outside 0..1000000000 ns"),
        ("scenario.vcpus=0", "vcpus 0 is outside 1..1024"),
        ("events=0", "events = 0 is outside 1..64"),
        ("frequency=10001", "frequency = 10001 Hz is outside 1..10000"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_parameter(setting: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*$") as refused:
        only(setting)
    assert says in str(refused.value)


def test_a_feature_without_its_page_is_refused() -> None:
    with pytest.raises(UsageError, match=r"design page with design.page = False: .*needs page"):
        only("design.page=false")


@pytest.mark.parametrize("given", [True, "x", 1.5, [1], None])
def test_a_file_cannot_give_a_value_of_another_type(given: object) -> None:
    with pytest.raises(UsageError, match=r"scenario\.hz: .*expected an integer"):
        parse_values("scenario.hz", [given])
