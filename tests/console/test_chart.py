"""Histograms and sparklines as rows of letters."""

from __future__ import annotations

import pytest

from pvpmu.console.chart import ASCII, BLOCKS, Axis, axis_of, bars, histogram, sparkline


@pytest.mark.parametrize(
    ("times", "low", "high"),
    [([180, 9_500], 2, 4), ([100, 1000], 2, 4), ([0], 0, 1), ([], 0, 1), ([5, 5], 0, 1)],
)
def test_an_axis_is_whole_decades_that_hold_all(times: list[int], low: int, high: int) -> None:
    axis = axis_of(times, 20)
    assert (axis.low, axis.high) == (low, high)


def test_a_decade_begins_where_its_tick_is() -> None:
    axis = Axis(2, 6, 40)
    assert axis.ticks() == "100ns     1us       10us      100us     "
    assert [axis.column(10**n) for n in (2, 3, 4, 5)] == [0, 10, 20, 30]
    assert axis.column(1) == 0
    assert axis.column(10**9) == 39


def test_ticks_that_do_not_fit_are_left_out() -> None:
    assert Axis(0, 9, 12).ticks().split() == ["1ns", "1us", "1ms"]


@pytest.mark.parametrize("letters", [BLOCKS, ASCII])
def test_the_fullest_column_is_full_and_any_value_shows(letters: str) -> None:
    (line,) = histogram([[100, 1000], [1000, 1], [10_000, 500]], Axis(2, 5, 3), 1, letters)
    assert line == letters[8] + letters[1] + letters[4]


def test_several_lines_share_a_bar() -> None:
    assert bars([16, 8, 0, None, 12], 2, BLOCKS) == ["█    ▄"[:1] + "   ▄", "██  █"]


def test_a_sparkline_has_the_newest_at_the_right_and_means_in_cells() -> None:
    trend = [(59.0, 1.0), (30.5, 2.0), (29.0, 8.0), (0.0, 4.0), (1.0, 4.0)]
    line = sparkline(trend, 60.0, 4, BLOCKS)
    assert line == "▁▂█▄"


def test_a_sparkline_goes_on_where_no_value_came() -> None:
    assert sparkline([(50.0, 8.0), (0.0, 4.0)], 60.0, 6, BLOCKS) == "█████▄"
    assert sparkline([(0.0, 4.0)], 60.0, 6, BLOCKS) == "     █"
    assert sparkline([], 60.0, 6, BLOCKS) == "      "
