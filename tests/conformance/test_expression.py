"""Expressions: what they compute and what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvpmu.conformance.expression import ExpressionError, evaluate, names_in

NAMES = {"NG": 4, "MG": (1 << 48) - 1, "v": 0x1_8000_0000}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x10", 16),
        ("NG - 1", 3),
        ("1 << NG | 1", 17),
        ("~0 & MG", (1 << 48) - 1),
        ("sext32(v) & MG", 0xFFFF_8000_0000),
        ("sext32(5)", 5),
        ("min(NG, 2) + max(NG, 9)", 11),
        ("-5 // 2", -3),
        ("7 % 4 ^ 1", 2),
        ("NG == 4", 1),
        ("1 < NG <= 4", 1),
        ("1 < NG < 4", 0),
        ("not NG", 0),
        ("NG and v > 5", 1),
        ("0 or NG == 3", 0),
    ],
)
def test_an_expression_computes(text: str, value: int) -> None:
    assert evaluate(text, NAMES) == value


def test_an_integer_is_itself() -> None:
    assert evaluate(7, {}) == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NG +",
        "__import__('os')",
        "NG.real",
        "open(1)",
        "2 ** 9",
        "1.5",
        "True",
        "'a'",
        "[1]",
        "NG if v else 1",
        "min(1)",
        "lambda: 1",
        "NG / 2",
        "(" * 400,
        "1 in NG",
    ],
)
def test_everything_else_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(ExpressionError):
        names_in(text)


@pytest.mark.parametrize(
    "text", ["gone", "1 << 256", "1 << -1", "1 // 0", "1 % 0", "v << 250 << 250"]
)
def test_what_cannot_be_evaluated_says_so(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"unknown name|shift by|division by 0|bits"):
        evaluate(text, NAMES)


def test_the_names_of_an_expression_are_known_without_values() -> None:
    assert names_in("sext32(v) & MG << i") == {"v", "MG", "i"}


@given(st.integers(0, 1 << 64), st.integers(0, 1 << 64))
def test_arithmetic_is_pythons(a: int, b: int) -> None:
    names = {"a": a, "b": b}
    assert evaluate("(a + b) * 3 - (a ^ b)", names) == (a + b) * 3 - (a ^ b)
    assert evaluate("(a & b) | a >> 3", names) == (a & b) | a >> 3
