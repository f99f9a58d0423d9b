"""Effects of choices, on figures whose effects are known."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pvpmu.report.factorial import AXES, Axis, axes_here, combinations, effect, table_order
from pvpmu.shared.design import Design
from pvpmu.sweep.request import make_grid

PAGE = AXES[0]
DIRECT = Axis("design.pmi_path", "pmi_path", "callback", "direct")
PAUSED = AXES[-1]
CHOSEN = (PAGE, DIRECT, PAUSED)


def rows() -> list[dict[str, Any]]:
    """Exits 100; page -60, direct -10, both together 5 more than that; is_paused -1."""
    found = []
    for page, direct, paused in itertools.product((False, True), repeat=3):
        figure = 100 - 60 * page - 10 * direct - 5 * (page and direct) - paused
        values = (
            PAGE.on if page else PAGE.off,
            DIRECT.on if direct else DIRECT.off,
            paused,
        )
        names = [axis.name for axis in CHOSEN]
        found.append({**dict(zip(names, values, strict=True)), "figure": figure})
    return found[::-1]


def test_alone_is_beside_what_kvm_does_and_last_beside_everything_else() -> None:
    page = effect(rows(), CHOSEN, PAGE, "figure")
    assert page.alone == (99, 39)
    assert page.last == (89, 24)
    assert page.mean == (94.5, 32)


def test_is_paused_is_looked_at_with_everything_else_off() -> None:
    paused = effect(rows(), CHOSEN, PAUSED, "figure")
    assert paused.alone == (100, 99)
    assert paused.last == (25, 24)


def test_rows_are_ordered_with_is_paused_off_below() -> None:
    ordered = table_order(rows(), CHOSEN)
    assert [row["design.is_paused"] for row in ordered] == [True] * 4 + [False] * 4
    assert [(row["design"], row["design.pmi_path"]) for row in ordered[:4]] == [
        ("trap", "callback"), ("trap", "direct"), ("page", "callback"), ("page", "direct"),
    ]  # fmt: skip


def test_every_axis_of_a_design_is_known_by_its_field() -> None:
    here = {axis.name.removeprefix("design.") for axis in axes_here()}
    assert {"design", "is_paused"} <= here
    assert here - {"design"} <= set(Design.__dataclass_fields__)


def test_every_combination_is_a_point_of_a_sweep() -> None:
    axes = axes_here()
    grid = make_grid({**combinations(axes), "scenario.duration_us": (1000,)}, ())
    assert grid.size == 2 ** len(axes)


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: str(axis.title))
def test_off_and_on_differ(axis: Axis) -> None:
    assert axis.off != axis.on
