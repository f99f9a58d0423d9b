"""Draw an answer: exits that remain by operation, and modelled time, one bar per design.

Needs matplotlib (extra ``report``).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, TypeAlias

from pvpmu.shared.errors import UsageError

Json = dict[str, Any]
Axes: TypeAlias = Any
"""matplotlib's, which is imported only where something is drawn."""

FORMATS = (".pdf", ".png", ".svg")
# Okabe and Ito's colours, told apart by people who see few; hatches tell them apart in print.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++", "oo")
_INCHES_PER_DESIGN = 0.9
_LEAST_INCHES = 9.0
_HEIGHT = 4.8


def check(path: Path) -> None:
    """Find out before the work that nothing can be drawn there; raises :class:`UsageError`."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: cannot draw {path.suffix or 'a file without a suffix'}, "
                         f"expected one of {', '.join(FORMATS)}")  # fmt: skip
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'pvpmu[report]'")


def draw(answer: Json, path: Path) -> None:
    """Write the figure; :func:`check` has passed."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    designs = answer["designs"]
    width = max(_LEAST_INCHES, 2 * _INCHES_PER_DESIGN * len(designs) + 3)
    figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
    exits, times = figure.subplots(1, 2)
    _draw_exits(exits, answer)
    _draw_times(times, answer)
    given = answer["input"]
    figure.suptitle(f"{given['name']}: {given['format']}, {given['lines']:,} lines")
    figure.savefig(path, metadata=_metadata(path))


def _draw_exits(axes: Axes, answer: Json) -> None:
    """PMU exits that remain, stacked by operation; what is only bounded as an error bar."""
    designs = answer["designs"]
    names = [design["name"] for design in designs]
    bottom = [0.0] * len(designs)
    for number, operation in enumerate(answer["operations"]):
        heights = [design["operations"][operation["kind"]]["exits"] for design in designs]
        axes.bar(
            names,
            heights,
            bottom=bottom,
            label=operation["label"],
            color=_COLOURS[number % len(_COLOURS)],
            hatch=_HATCHES[number % len(_HATCHES)],
            edgecolor="white",
        )
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    if answer["pmu"]["left_over"]:
        low = [design["left_over"][0] for design in designs]
        spread = [design["left_over"][1] - design["left_over"][0] for design in designs]
        axes.bar(names, low, bottom=bottom, label="in no operation", color="#DDDDDD",
                 edgecolor="white")  # fmt: skip
        top = [b + n for b, n in zip(bottom, low, strict=True)]
        axes.errorbar(names, top, yerr=[[0] * len(top), spread], fmt="none", ecolor="black",
                      capsize=4, label="at most")  # fmt: skip
    axes.axhline(answer["pmu"]["accesses"], color="black", linewidth=0.8, linestyle=":")
    axes.set_ylabel("PMU exits that remain")
    axes.set_title("exits (dotted: in the trace)")
    axes.tick_params(axis="x", rotation=30)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _draw_times(axes: Axes, answer: Json) -> None:
    """Modelled time of all operations, one group of bars for each model, with its interval."""
    designs, models = answer["designs"], list(answer["models"])
    axes.set_title("modelled time of the operations")
    axes.set_ylabel("ms")
    if not answer["operations"]:
        axes.text(0.5, 0.5, "no operation attributed", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    width = 0.8 / len(models)
    for number, model in enumerate(models):
        times = [design["modelled"][model]["operations_ns"] for design in designs]
        values = [time["value"] / 1e6 for time in times]
        below = [max(0.0, v - time["low"] / 1e6) for v, time in zip(values, times, strict=True)]
        above = [max(0.0, time["high"] / 1e6 - v) for v, time in zip(values, times, strict=True)]
        at = [place + (number - (len(models) - 1) / 2) * width for place in range(len(designs))]
        axes.bar(
            at,
            values,
            width,
            yerr=[below, above],
            capsize=3,
            label=model,
            color=_COLOURS[number % len(_COLOURS)],
            hatch=_HATCHES[number % len(_HATCHES)],
            edgecolor="white",
        )
    axes.set_xticks(range(len(designs)), [design["name"] for design in designs], rotation=30)
    axes.legend(fontsize="small")


def _metadata(path: Path) -> dict[str, str | None]:
    """No date in the file: the same answer gives the same bytes."""
    key = {".svg": "Date", ".pdf": "CreationDate"}.get(path.suffix.lower())
    return {key: None} if key else {}
