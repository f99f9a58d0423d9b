"""Numbers in few columns: counts, rates, shares and times. Pure."""

from __future__ import annotations

from pvpmu.shared.units import Ns

NOTHING = "-"
_EXACT = 100_000
_PREFIXES = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_TIMES = ((10**9, "s"), (10**6, "ms"), (10**3, "us"))


def count(value: int) -> str:
    """A count, exact, with separators."""
    return f"{value:,}"


def short_count(value: float | None) -> str:
    """A count or a rate in at most 6 columns: exact below 100,000, else three digits."""
    if value is None:
        return NOTHING
    if round(value) < _EXACT:
        return f"{value:.1f}" if 0 < value < 9.95 and value % 1 else f"{value:,.0f}"
    for scale, prefix in _PREFIXES:
        # As soon as it would be rounded up to the next prefix, that one is used.
        if value >= 0.9995 * scale:
            return f"{_three_digits(value / scale)}{prefix}"
    return f"{value:,.0f}"


def share(part: int, whole: int) -> str:
    """A percentage in at most 5 columns."""
    return f"{100 * part / whole:.1f}" if whole else NOTHING


def time(value: Ns | None) -> str:
    """A time in at most 6 columns: three digits and a unit."""
    if value is None:
        return NOTHING
    for scale, unit in _TIMES:
        if value >= 0.9995 * scale:
            return f"{_three_digits(value / scale)}{unit}"
    return f"{value}ns"


def _three_digits(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"
