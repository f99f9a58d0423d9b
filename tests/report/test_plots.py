"""Drawings: well-formed, repeatable, and every design of a panel told apart without colour."""

from __future__ import annotations

from functools import cache
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("matplotlib", reason="the extra report is not installed")

from pvpmu.report import plots

HOSTILE = "a$b$<c>&_d"
NAMES = [f"design-{n}" for n in range(plots.GROUP)]
PANELS = plots.Panels(["first", "second"], [NAMES, [HOSTILE]], "base")
LINES = {name: [(1, n + 1.0), (2, n + 2.0)] for n, name in enumerate([*NAMES, HOSTILE, "base"])}
BANDS = {name: [(x, y, y + 1) for x, y in line] for name, line in LINES.items()}


def texts(svg: str) -> list[str]:
    """Texts of a drawing; fails if it is not well-formed."""
    root = ET.fromstring(svg)  # noqa: S314 (our own)
    found = root.iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()) for element in found]


@cache
def drawn(kind: str) -> str:
    return draw(kind)


def draw(kind: str) -> str:
    quantities = [plots.Quantity("how much", LINES), plots.Quantity("how long", LINES)]
    match kind:
        case "curves":
            return plots.curves(PANELS, quantities, "x", x_log=True)
        case "bands":
            return plots.bands(PANELS, [plots.Quantity("how much", BANDS)], "x")
        case "stacks":
            found = [plots.Stack(name, 1000.0, 500.0, (1200, 1900)) for name in LINES]
            return plots.stacks({"model $1$": found}, {"base": 1100.0, "unknown": 1.0})
        case "bars":
            return plots.bars(list(LINES), {"tick": [1.0] * 7 + [None]})
        case _:
            steps = [(10.0, 0.2), (20.0, 0.9), (30.0, 1.0)]
            return plots.distributions(PANELS, [plots.Distribution(n, steps) for n in LINES], "µs")


KINDS = ["curves", "bands", "stacks", "bars", "distributions"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_names_every_design_as_it_is_called(kind: str) -> None:
    assert set(LINES) <= set(texts(drawn(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_give_the_same_bytes(kind: str) -> None:
    assert draw(kind) == drawn(kind)
    assert "<dc:date>" not in drawn(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_axis_shows_the_source_of_a_formula(kind: str) -> None:
    assert not [text for text in texts(drawn(kind)) if "mathdefault" in text]


def test_lines_of_a_panel_differ_in_colour_marker_and_dashes() -> None:
    styles = [style for _, style in plots._styled("base", NAMES)]
    assert len(styles) == 1 + plots.GROUP
    for key in ("color", "marker"):
        assert len({style[key] for style in styles}) == len(styles)
    assert len({str(style["linestyle"]) for style in styles[1:]}) == plots.GROUP


def test_a_design_looks_the_same_with_and_without_the_baseline_in_its_group() -> None:
    with_base = dict(plots._styled("base", ["base", *NAMES[:3]]))
    assert with_base == dict(plots._styled("base", NAMES[:3]))


def test_few_designs_have_their_quantities_side_by_side() -> None:
    one = plots.Panels([""], [NAMES], "base")
    quantities = [plots.Quantity("how much", LINES)] * 3
    wide, high = plots._size(one, quantities)
    assert wide > 2 * high


@pytest.mark.parametrize("highest", ["base", NAMES[0], HOSTILE])
def test_no_line_is_cut_off_by_the_scale_of_another_panel(highest: str) -> None:
    lines = {name: [(1, 1.0), (2, 2.0)] for name in LINES} | {highest: [(1, 1.0), (2, 500.0)]}
    assert plots._top(plots.Quantity("how much", lines)) > 500
    svg = plots.curves(PANELS, [plots.Quantity("how much", lines)], "x")
    assert "400" in texts(svg)


def test_nothing_to_draw_still_has_a_scale() -> None:
    assert plots._top(plots.Quantity("how much", {"base": [(1, 0.0)]})) == 1
