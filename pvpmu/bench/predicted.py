"""What the table says of predicted overheads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pvpmu.cost.prediction import WITHIN

Json = dict[str, Any]
Row = tuple[str, Callable[[Json], str], str]

_MISSING = "-"


def prediction_rows(result: Json) -> Iterator[Row]:
    """Two rows for each kind of virtual PMU and model; a miss is called so."""
    for entry in result["prediction"]:

        def percent(design: Json, entry: Json = entry) -> str:
            return _only(entry, design, "no end", lambda: f"{entry['overhead_percent']:.1f}")

        def ratio(design: Json, entry: Json = entry) -> str:
            miss = "" if entry["within"] else " MISS"
            return _only(entry, design, "MISS", lambda: f"{entry['ratio']:.2f}{miss}")

        label = f"overhead if {entry['kind']}, {entry['model']}, %"
        yield label, percent, f"{entry['published_percent']:g}"
        yield "  by the published one", ratio, ""


def prediction_lines(result: Json) -> Iterator[str]:
    """The same in full: what was fitted on what, and how far off it is."""
    for entry in result["prediction"]:
        low, high = ("?" if end is None else f"{end:g}" for end in entry["interval"])
        verdict = "within" if entry["within"] else "MISSES by more than"
        yield (
            f"prediction: {entry['model']} fitted on {entry['fitted_on']} "
            f"({entry['fitted_percent']:g} % {entry['kind']}, scale {entry['scale']:g}) gives "
            f"{entry['design']} {_percent(entry)} here ({low}..{high}), published "
            f"{entry['published_percent']:g} %: {verdict} {WITHIN:g} x"
        )


def _only(entry: Json, design: Json, endless: str, shown: Callable[[], str]) -> str:
    if design["name"] != entry["design"]:
        return _MISSING
    return endless if entry["ratio"] is None else shown()


def _percent(entry: Json) -> str:
    if entry["ratio"] is None:
        return "more than all of the time"
    return f"{entry['overhead_percent']:g} % ({entry['ratio']:.2f} x)"
