"""The drawings, as SVG. Imported only where a report is made: matplotlib is an extra.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers, dashes and hatches tell
the same apart in grey.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    # Text stays text, and the same numbers give the same bytes.
    "svg.fonttype": "none",
    "svg.hashsalt": "pvpmu",
    # A name with a dollar sign is a name.
    "text.parse_math": False,
}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1)), (0, (8, 2)))
_BASE = {"color": "black", "marker": "x", "linestyle": "-", "linewidth": 1.0, "zorder": 3}
_SHOWN = 0.995
"""Share of a distribution that a drawing shows."""
GROUP = len(_COLOURS)
"""Most lines of one panel, beside the baseline."""

Line = Sequence[tuple[float, ...]]
"""(x, y), or (x, low, high)."""


@dataclass(frozen=True, slots=True)
class Panels:
    """Designs shared out to panels: in each some designs, in all of them the baseline."""

    titles: Sequence[str]
    groups: Sequence[Sequence[str]]
    baseline: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is drawn: lines by design."""

    label: str
    lines: Mapping[str, Line]


def curves(
    panels: Panels, quantities: Sequence[Quantity], x_label: str, *, x_log: bool = False
) -> str:
    """Lines over one variable: a panel for each quantity and each group of designs."""
    with _figure(*_size(panels, quantities)) as drawing:
        for ax, quantity, group in drawing.panels(panels, quantities, x_label):
            for name, style in _styled(panels.baseline, group):
                ax.plot(*_xy(quantity.lines.get(name, ())), label=name, markersize=4, **style)
            if x_log:
                ticks = sorted({x for line in quantity.lines.values() for x, _ in line})
                ax.set_xscale("log", base=2)
                ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                ax.minorticks_off()
            else:
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_ylim(0, _top(quantity))
        return drawing.svg()


def bands(panels: Panels, quantities: Sequence[Quantity], x_label: str) -> str:
    """As :func:`curves`, of (x, low, high): the middle as a line, the interval as a band."""
    with _figure(*_size(panels, quantities)) as drawing:
        for ax, quantity, group in drawing.panels(panels, quantities, x_label):
            for name, style in _styled(panels.baseline, group):
                x, low, high = zip(*quantity.lines.get(name, [(0, 0, 0)]), strict=True)
                middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
                ax.plot(x, middle, label=name, markersize=4, markevery=len(x) // 6 or 1, **style)
                ax.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
            ax.set_ylim(0, _top(quantity))
        return drawing.svg()


@dataclass(frozen=True, slots=True)
class Stack:
    """A design's bar: two parts, and the interval of their sum."""

    name: str
    inside: float
    outside: float
    interval: tuple[float, float]


def stacks(models: Mapping[str, Sequence[Stack]], published: Mapping[str, float]) -> str:
    """Bars of two parts, a panel for each model; ``published``: known first parts, by design."""
    many = max(map(len, models.values()))
    with _figure(4.4 * len(models) + 1.2, 0.34 * many + 1.3) as drawing:
        axes = drawing.grid(1, len(models), sharey=True)[0]
        for ax, (model, found) in zip(axes, models.items(), strict=True):
            at = range(len(found))
            inside = [stack.inside / 1000 for stack in found]
            outside = [stack.outside / 1000 for stack in found]
            ax.barh(at, inside, color="#555555", height=0.62, label="in the handler")
            ax.barh(
                at, outside, left=inside, color="white", edgecolor="#555555", hatch="////",
                height=0.62, label="bringing the PMI",
            )  # fmt: skip
            for y, stack in zip(at, found, strict=True):
                low, high = (ns / 1000 for ns in stack.interval)
                ax.plot([low, high], [y, y], color="#D55E00", marker="|", markersize=7, lw=1.4)
            marked = [
                (y, published[s.name])
                for y, s in zip(at, found, strict=True)
                if s.name in published
            ]
            ax.plot(
                [ns / 1000 for _, ns in marked], [y for y, _ in marked], "D", color="white",
                markeredgecolor="black", markersize=6, label="published, in the handler",
            )  # fmt: skip
            ax.set_yticks(at, [stack.name for stack in found])
            ax.set_title(model)
            ax.set_xlabel("modelled µs per PMI (handler entry)")
            ax.grid(visible=False, axis="y")
            ax.set_xlim(left=0)
        axes[0].invert_yaxis()
        handles, labels = axes[0].get_legend_handles_labels()
        drawing.figure.legend(handles, labels, loc="outside lower center", ncols=3)
        return drawing.svg()


def bars(names: Sequence[str], panels: Mapping[str, Sequence[float | None]]) -> str:
    """Bars of one value for each name, a panel for each quantity; None: no bar."""
    with _figure(2.15 * len(panels) + 1.4, 0.27 * len(names) + 0.9) as drawing:
        axes = drawing.grid(1, len(panels), sharey=True)[0]
        for ax, (title, values) in zip(axes, panels.items(), strict=True):
            at = range(len(names))
            shown = [value or 0 for value in values]
            ax.barh(at, shown, color="#8a8a8a", height=0.66)
            for y, value in zip(at, values, strict=True):
                text = " n/a" if value is None else f" {value:.3g}"
                ax.text(value or 0, y, text, va="center", fontsize=7.5)
            ax.set_yticks(at, names)
            ax.set_title(title)
            ax.grid(visible=False, axis="y")
            ax.set_xlim(0, 1.3 * max(*shown, 1))
        axes[0].invert_yaxis()
        return drawing.svg()


@dataclass(frozen=True, slots=True)
class Distribution:
    """A design's values: (value, share at or below it), ascending."""

    name: str
    steps: Sequence[tuple[float, float]]


def distributions(panels: Panels, found: Sequence[Distribution], x_label: str) -> str:
    """Cumulative shares over a logarithmic scale, a panel for each group of designs."""
    by_name = {each.name: each.steps for each in found}
    columns = len(panels.groups)
    with _figure(3.8 * columns + 0.4, 3.9) as drawing:
        axes = drawing.grid(1, columns, sharex=True, sharey=True)[0]
        for ax, title, group in zip(axes, panels.titles, panels.groups, strict=True):
            for position, (name, style) in enumerate(_styled(panels.baseline, group)):
                steps = by_name.get(name, ())
                # Markers at shares of their own, so that lines on top of each other show.
                marks = [
                    next((n for n, (_, share) in enumerate(steps) if share >= at), 0)
                    for at in (0.1 + 0.04 * position, 0.5 + 0.04 * position, 0.9)
                ]
                ax.plot(
                    *_xy(steps), drawstyle="steps-post", label=name, markersize=5,
                    markevery=marks, **style,
                )  # fmt: skip
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_title(title)
            ax.set_xlabel(x_label)
            _explain(ax)
        axes[0].set_ylabel("share of handlers at or below")
        # The slowest of thousands are the machine's doing and would squeeze all others.
        ends = [each.steps for each in found if each.steps]
        low = min(steps[0][0] for steps in ends)
        high = max(next(x for x, share in steps if share >= _SHOWN) for steps in ends)
        axes[0].set_xlim(low / 1.1, high * 1.1)
        return drawing.svg()


class _figure:  # noqa: N801 (a context, as a function would be)
    """A drawing under this module's style."""

    def __init__(self, width: float, height: float) -> None:
        self._context = mpl.rc_context(_STYLE)
        self._context.__enter__()
        self.figure = Figure(figsize=(width, height), layout="constrained")

    def __enter__(self) -> _figure:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.__exit__(None, None, None)

    def grid(self, rows: int, columns: int, **share: Any) -> list[list[Axes]]:
        """Panels by row and column."""
        axes = self.figure.subplots(rows, columns, squeeze=False, **share)
        return [list(row) for row in axes]

    def panels(
        self, panels: Panels, quantities: Sequence[Quantity], x_label: str
    ) -> Iterator[tuple[Axes, Quantity, Sequence[str]]]:
        """A panel for each quantity and group, labelled: a row for each quantity, or one in all."""
        many = len(panels.groups)
        if many > 1:
            axes = self.grid(len(quantities), many, sharey="row")
        else:
            axes = self.grid(1, len(quantities))
        flat = [ax for row in axes for ax in row]
        cells = itertools.product(enumerate(quantities), enumerate(panels.groups))
        for ax, ((row, quantity), (column, group)) in zip(flat, cells, strict=True):
            yield ax, quantity, group
            if row == 0:
                ax.set_title(panels.titles[column])
            if row == len(quantities) - 1 or many == 1:
                ax.set_xlabel(x_label)
            if row == len(quantities) - 1:
                _explain(ax)
            if column == 0:
                ax.set_ylabel(quantity.label)

    def svg(self) -> str:
        """The drawing as text, without dates and creators."""
        text = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        self.figure.savefig(text, format="svg", metadata=metadata)
        return text.getvalue()


def _explain(ax: Axes) -> None:
    """The legend of a panel, below it, where no line is."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2)


def _styled(baseline: str, group: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a panel, the baseline first: it looks the same in every panel."""
    yield baseline, _BASE
    others = (name for name in group if name != baseline)
    for position, name in enumerate(others):
        yield (
            name,
            {
                "color": _COLOURS[position % GROUP],
                "marker": _MARKERS[position % GROUP],
                "linestyle": _DASHES[position % GROUP],
                "linewidth": 1.3,
            },
        )


def _xy(points: Line) -> tuple[list[float], list[float]]:
    return [point[0] for point in points], [point[1] for point in points]


def _top(quantity: Quantity) -> float:
    """The end of the scale: above every line, also those of panels that share it."""
    values = [point[-1] for line in quantity.lines.values() for point in line]
    return 1.06 * max(values, default=0) or 1.0


def _size(panels: Panels, quantities: Sequence[Quantity]) -> tuple[float, float]:
    """Width and height, in inches: few designs have their quantities side by side."""
    many = len(panels.groups)
    rows, columns = (len(quantities), many) if many > 1 else (1, len(quantities))
    lines = max(map(len, panels.groups)) + 1
    return 3.5 * columns + 0.4, 2.4 * rows + 0.5 + 0.1 * lines
