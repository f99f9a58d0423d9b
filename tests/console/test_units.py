"""Numbers in few columns."""

from __future__ import annotations

import pytest

from pvpmu.console import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.25, "0.2"), (3.96, "4.0"), (9.96, "10"), (12.4, "12"), (99_999, "99,999"),
        (100_000, "100k"), (123_456, "123k"), (999_499, "999k"), (999_600, "1.00M"),
        (1_234_567, "1.23M"), (12_345_678, "12.3M"), (10**12, "1.00T"), (None, "-"),
    ],
)  # fmt: skip
def test_a_short_count_has_three_digits_from_100000_on(value: float | None, text: str) -> None:
    assert units.short_count(value) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0ns"), (999, "999ns"), (1000, "1.00us"), (9_994, "9.99us"), (9_996, "10.0us"),
        (87_300, "87.3us"), (999_400, "999us"), (999_600, "1.00ms"), (2_500_000_000, "2.50s"),
        (None, "-"),
    ],
)  # fmt: skip
def test_a_time_has_three_digits_and_a_unit(ns: int | None, text: str) -> None:
    assert units.time(ns) == text


def test_nothing_is_wider_than_its_column() -> None:
    values = [10**power + more for power in range(13) for more in (-1, 0, 1, 10**power // 2)]
    assert max(len(units.short_count(value)) for value in values) <= 6
    assert max(len(units.time(value)) for value in values if value < 10**12) <= 6


def test_a_share_of_nothing_is_none() -> None:
    assert units.share(1, 0) == "-"
    assert units.share(1, 3) == "33.3"
    assert units.count(1234567) == "1,234,567"
