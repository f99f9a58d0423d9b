"""One picture of the model for a terminal of some size. Pure but for rich's types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from pvpmu.console import chart, units
from pvpmu.console.grid import cut, fit
from pvpmu.console.keys import HELP, View
from pvpmu.console.model import HISTORY_S, LatencyRow, Model, RateRow
from pvpmu.console.since import HANDLER
from pvpmu.console.tables import (
    WIDE,
    Table,
    arranged,
    register_table,
    total_table,
    vcpu_table,
    warnings,
)

_TALL = 36
"""From this height on histograms have three lines, and rates a sparkline each."""
_LONGEST_NAME = 13
_NUMBERS = 6
_HEADER = "reverse"
_STYLES = {
    "page": "green",
    "passed": "blue",
    "exit": "red",
    "commit": "yellow",
    "PMI handler": "cyan",
    "RUNNING": "green",
    "FROZEN": "cyan",
    "trap-only": "yellow",
    "peer lost": "bold red",
    "host lost": "bold red",
}
_HINT = "latencies and exits avoided: start pvpmu-guest or pvpmu-host with --live"
_KEYS = "q quit  h help  r reset  s interval  f filter  o order  p vCPU  space pause"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen and its style."""

    text: str
    style: str = ""


def picture(model: Model, view: View, width: int, height: int, letters: str) -> Text:
    """What the terminal shows: at most ``height`` lines of ``width``; ``letters``: of the bars."""
    lines = _help(view) if view.help else _body(model, view, width, height - 1, letters)
    lines = lines[: height - 1]
    lines += [Line("")] * (height - 1 - len(lines))
    lines.append(_status(view))
    text = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        shown = cut(line.text, width)
        if line.style.startswith(_HEADER):
            shown = shown.ljust(width)
        text.append(shown + ("\n" if number < len(lines) - 1 else ""), line.style)
    return text


def _body(model: Model, view: View, width: int, height: int, letters: str) -> list[Line]:
    several = len(model.vms) > 1
    rows = model.vcpu_rows()
    totals = total_table(model.totals(), width)
    tall = height >= _TALL
    latencies = _latencies(model, view, width, letters, tall=tall)
    footer = _table(totals, width, [])
    notes = _notes(model)
    fixed = 1 + len(latencies) + len(footer) + len(notes) + 2
    room = max(height - fixed, 4)
    most = max(room // 2, 3)
    styles = [_STYLES.get(row.state, "bold" if row.vcpu is None else "") for row in rows]
    vcpus = _table(vcpu_table(rows, width, several=several), width, styles)
    if len(vcpus) > most + 1:
        hidden = len(vcpus) - most
        vcpus = [*vcpus[:most], Line(f"... {hidden} more", "dim")]
    registers = arranged(model.register_rows(view.vcpu), view)
    colours = [_STYLES.get(row.path, "") for row in registers]
    table = _table(register_table(registers, width, several=several), width, colours)
    left = max(height - 1 - len(vcpus) - len(latencies) - len(footer) - len(notes), 2)
    if len(table) > left:
        hidden = len(table) - left + 1
        table = [*table[: left - 1], Line(f"... {hidden} more: f filters, o orders", "dim")]
    table += [Line("")] * (left - len(table))
    return [_title(model, view, width), *vcpus, *latencies, *table, *notes, *footer]


def _title(model: Model, view: View, width: int) -> Line:
    vms = model.vms
    if len(vms) == 1:
        left = f"pvpmu top - {vms[0].name}, design {vms[0].design}, {vms[0].condition}"
    else:
        left = f"pvpmu top - {len(vms)} VMs: " + ", ".join(vm.design for vm in vms)
    which = "" if view.vcpu is None else f"vCPU {view.vcpu}, "
    right = f"{which}{'PAUSED' if view.paused else f'every {view.interval_s:g} s'}"
    left = cut(left, max(width - len(right) - 1, 0))
    return Line(left + right.rjust(width - len(left)), "bold")


def _table(table: Table, width: int, styles: Sequence[str]) -> list[Line]:
    head, *rows = fit(table.columns, table.rows, width)
    known = [*styles, *([""] * (len(rows) - len(styles)))]
    return [
        Line(head, _HEADER),
        *(Line(row, style) for row, style in zip(rows, known, strict=True)),
    ]


def _notes(model: Model) -> list[Line]:
    """What a user must not miss, in one line each."""
    notes = []
    for vm in model.vms:
        if vm.ended:
            name = f"{vm.name} ({vm.design}): " if len(model.vms) > 1 else ""
            notes.append(Line(f"{name}{vm.condition}; the last numbers stay", "bold red"))
    return [*notes, *(Line(text, "bold red") for text in warnings(model.totals()))]


def _latencies(model: Model, view: View, width: int, letters: str, *, tall: bool) -> list[Line]:
    """Histograms on one axis, one below the other, each with its numbers and its last minute."""
    rows = model.latency_rows(view.vcpu)
    names = {vm.name: f"{vm.design} " if len(model.vms) > 1 else "" for vm in model.vms}
    label = min(max(map(len, names.values())), _LONGEST_NAME) + len(HANDLER)
    lines = []
    if rows:
        shape = _Shape.of(rows, label, width, letters, 3 if tall else 1)
        head = "".join(f" {name:>{_NUMBERS}}" for name in shape.titles)
        lines.append(
            Line(f"{'latency':<{label}} {shape.axis.ticks()}{head} {shape.trend_title}", _HEADER)
        )
        for row in rows:
            lines += _latency(row, cut(f"{names[row.vm]}{row.kind}", label), shape)
    if tall or not rows:
        lines += _rates(model.rate_rows(view.vcpu), names, label, width, letters)
    if not any(vm.records or vm.wants for vm in model.vms):
        lines.append(Line(_HINT, "dim"))
    return lines


@dataclass(frozen=True, slots=True)
class _Shape:
    """How wide the parts of a latency's lines are, and what its bars are drawn with."""

    label: int
    axis: chart.Axis
    spark: int
    titles: Sequence[str]
    letters: str
    height: int

    @property
    def trend_title(self) -> str:
        """What the sparklines are of, as far as there is room."""
        long = f"p50, last {HISTORY_S:g} s"
        return long if len(long) <= self.spark else f"p50, {HISTORY_S:g} s"

    @classmethod
    def of(
        cls, rows: Sequence[LatencyRow], label: int, width: int, letters: str, height: int
    ) -> _Shape:
        titles = ("p50", "p99", "p99.9", "max") if width >= WIDE else ("p50", "p99", "max")
        room = max(width - label - 1 - len(titles) * (_NUMBERS + 1) - 1, 8)
        spark = max(room // 3, 4)
        # Rare values do not spread the axis: they are in its first and last column.
        bulk = [time for row in rows for time in (row.lowest, row.latency.p999)]
        return cls(label, chart.axis_of(bulk, room - spark), spark, titles, letters, height)


def _latency(row: LatencyRow, name: str, shape: _Shape) -> list[Line]:
    bars = chart.histogram(row.buckets, shape.axis, shape.height, shape.letters)
    found = row.latency
    times = {"p50": found.p50, "p99": found.p99, "p99.9": found.p999, "max": found.largest}
    numbers = "".join(f" {units.time(times[title]):>{_NUMBERS}}" for title in shape.titles)
    trend = chart.sparkline(row.trend, HISTORY_S, shape.spark, shape.letters)
    style = _STYLES[row.kind]
    above = [Line(f"{'':<{shape.label}} {bar}", style) for bar in bars[:-1]]
    return [*above, Line(f"{name:<{shape.label}} {bars[-1]}{numbers} {trend}", style)]


def _rates(
    rows: Sequence[RateRow], names: dict[str, str], label: int, width: int, letters: str
) -> list[Line]:
    columns = max(width - label - _NUMBERS - 2, 4)
    lines = [Line(f"{'rate':<{label}} {'now':>{_NUMBERS}} last 60 s", _HEADER)]
    for row in rows:
        name = cut(f"{names[row.vm]}{row.kind}", label)
        trend = chart.sparkline(row.trend, HISTORY_S, columns, letters)
        lines.append(Line(f"{name:<{label}} {units.short_count(row.rate):>{_NUMBERS}} {trend}"))
    return lines


def _help(view: View) -> list[Line]:
    lines = [Line("pvpmu top: keys", _HEADER)]
    lines += [Line(f"  {key:<6} {what}") for key, what in HELP]
    lines += [
        Line(""),
        Line("paths", _HEADER),
        Line("  page   a load or store of the page: no exit", _STYLES["page"]),
        Line("  exit   a VM-exit: RDMSR, WRMSR or RDPMC that traps", _STYLES["exit"]),
        Line("  commit the exit of a write that leaves FROZEN", _STYLES["commit"]),
        Line("  passed reaches the silicon without an exit", _STYLES["passed"]),
        Line(""),
        Line("numbers", _HEADER),
        Line("  avoid/s  accesses that made no exit"),
        Line("  floor    the bare round trip between guest and host"),
        Line("  record   what recording adds to an access"),
        Line(f"order {view.sort}; filter {view.pattern or 'none'}; docs/live.md has the columns"),
    ]
    return lines


def _status(view: View) -> Line:
    """The last line: a question, what there is to say, or the keys."""
    if view.prompt is not None:
        return Line(view.prompt.line + "_", "bold")
    if view.note:
        return Line(view.note, "bold")
    chosen = f"/{view.pattern}/  " if view.pattern else ""
    return Line(f"{chosen}{_KEYS}", "dim")
