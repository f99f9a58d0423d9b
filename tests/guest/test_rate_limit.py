"""Samples per tick, and Linux's lowering of the sample rate."""

from __future__ import annotations

import pytest

from pvpmu.guest.rate_limit import RateLimit


def limit(percent: int, rate: int = 10_000, hz: int = 1000) -> RateLimit:
    return RateLimit(hz=hz, max_sample_rate=rate, cpu_time_max_percent=percent)


@pytest.mark.parametrize(("rate", "hz", "per_tick"), [(10_000, 1000, 10), (1000, 300, 4)])
def test_a_tick_may_bring_its_part_of_the_rate_rounded_up(
    rate: int, hz: int, per_tick: int
) -> None:
    assert limit(0, rate, hz).max_per_tick == per_tick


@pytest.mark.parametrize("percent", [0, 100])
def test_nothing_is_lowered_when_switched_off(percent: int) -> None:
    made = limit(percent)
    for _ in range(1000):
        made.took(1_000_000)
    assert (made.rate, made.max_per_tick, made.lowered) == (10_000, 10, 0)


def test_handlers_within_their_share_lower_nothing() -> None:
    # A quarter of 100 us.
    made = limit(25)
    for _ in range(10_000):
        made.took(25_000)
    assert made.lowered == 0


def test_long_handlers_lower_the_rate_to_what_fits_a_quarter_longer_ones() -> None:
    made = limit(25)
    handlers = 0
    while not made.lowered:
        made.took(40_000)
        handlers += 1
    # The mean of 128 reaches 25 us of 40 after about 128 * ln(40 / 15) handlers.
    assert handlers == pytest.approx(126, abs=2)
    # A little over 25 us and a quarter of it: seven in the 250 us that 25 % of a tick are.
    assert (made.max_per_tick, made.rate) == (7, 7000)


def test_the_rate_falls_step_by_step_while_the_mean_grows_and_never_rises() -> None:
    made = limit(25)
    rates = []
    for length in [40_000] * 2000 + [1000] * 2000:
        made.took(length)
        rates.append(made.rate)
    assert rates == sorted(rates, reverse=True)
    assert made.lowered == 3
    assert rates[-1] == 5000


def test_one_sample_per_tick_is_the_least() -> None:
    made = limit(25)
    for _ in range(2000):
        made.took(10_000_000)
    assert (made.max_per_tick, made.rate) == (1, 1000)
