"""Columns that fit."""

from __future__ import annotations

import pytest

from pvpmu.console.grid import Column, cut, fit

COLUMNS = [
    Column("register", 8, text=True),
    Column("total", 5),
    Column("p50", 5, keep=1),
    Column("max", 5, keep=2),
]
ROWS = [["GLOBAL_STATUS", "12", "180ns", "9us"], ["PMC0", "3", "200ns", "10us"]]


def test_text_is_left_aligned_and_numbers_right() -> None:
    assert fit(COLUMNS, ROWS, 80) == [
        "register      total   p50   max",
        "GLOBAL_STATUS    12 180ns   9us",
        "PMC0              3 200ns  10us",
    ]


def test_text_is_cut_to_its_width_before_a_column_goes() -> None:
    assert fit(COLUMNS, ROWS, 28) == [
        "register   total   p50   max",
        "GLOBAL_ST~    12 180ns   9us",
        "PMC0           3 200ns  10us",
    ]


def test_then_the_least_important_column_goes() -> None:
    assert fit(COLUMNS, ROWS, 25)[0] == "register total   p50"
    assert fit(COLUMNS, ROWS, 16)[0] == "register total"


@pytest.mark.parametrize("width", range(1, 40))
def test_no_line_is_ever_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, fit(COLUMNS, ROWS, width))) <= width


def test_no_rows_are_a_title() -> None:
    assert fit(COLUMNS, [], 80) == ["register total   p50   max"]


def test_what_is_cut_says_so() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab~"
    assert cut("abcd", 0) == "~"
