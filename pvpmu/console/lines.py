"""The model as plain text: a full report, or one line per VM and update. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pvpmu.console import units
from pvpmu.console.grid import Column, cut, fit
from pvpmu.console.keys import View
from pvpmu.console.model import LatencyRow, Model
from pvpmu.console.since import KINDS
from pvpmu.console.tables import Table, arranged, register_table, total_table, vcpu_table

REPEAT = 20
"""The title comes again after so many updates."""
_WIDTH = 132
_STATES = len("FROZEN/RUNNING/trap-only")
"""Of vCPUs that differ: wide enough that the columns of lines to come stay where they are."""
ENDLESS = 1000
"""No terminal: lines may be as long as they are."""
_NAME, _SHORT_NAME = 10, 8
_LONG = 152
"""The width of a line with everything."""


def report(model: Model, view: View) -> list[str]:
    """Everything that the screen has, but histograms as their quantiles."""
    several = len(model.vms) > 1
    lines = [f"{vm.name}: design {vm.design}, {vm.condition}" for vm in model.vms]
    for table in (
        vcpu_table(model.vcpu_rows(), _WIDTH, several=several),
        _latency_table(model.latency_rows(view.vcpu), several=several),
        register_table(arranged(model.register_rows(view.vcpu), view), _WIDTH, several=several),
        total_table(model.totals(), _WIDTH),
    ):
        if table.rows:
            lines += ["", *fit(table.columns, table.rows, ENDLESS)]
    return lines


def update(
    model: Model, view: View, clock: str, *, titled: bool, width: int = ENDLESS
) -> list[str]:
    """A line for each VM: rates, and p50 of each kind of latency. ``clock``: the time of day.

    The view's choice of a vCPU is that of the latencies, as everywhere. ``width``: of a terminal,
    where lines that are too long have fewer columns.
    """
    long = width >= _LONG
    state_width = _STATES if long else _NAME
    columns = [
        Column("time", 8, text=True),
        Column("vm", _NAME if long else _SHORT_NAME, text=True),
        Column("design", _NAME, text=True),
        Column("state", state_width, text=True),
        Column("PMIs/s", 7),
        Column("exits/s", 7),
        Column("avoid/s", 7),
        # The handler's is the one to keep.
        *(Column(f"{kind} p50", 10, keep=5 - at) for at, kind in enumerate(KINDS)),
        Column("exits", 11, keep=6),
        Column("avoided", 11, keep=7),
    ]
    latencies = {(row.vm, row.kind): row for row in model.latency_rows(view.vcpu)}
    vcpus = model.vcpu_rows()
    rows = []
    for vm, total in zip(model.vms, model.totals(), strict=True):
        states = {row.state for row in vcpus if row.vm == vm.name and row.vcpu is not None}
        rows.append(
            [
                clock,
                vm.name,
                vm.design,
                cut("/".join(sorted(states)), state_width),
                units.short_count(total.pmi_rate),
                units.short_count(total.exit_rate),
                units.short_count(total.avoided_rate),
                *(_p50(latencies.get((vm.name, kind))) for kind in KINDS),
                units.count(total.exit_total),
                units.NOTHING if total.avoided is None else units.count(total.avoided),
            ]
        )
    title, *lines = fit(columns, rows, width)
    return [title, *lines] if titled else lines


def _p50(row: LatencyRow | None) -> str:
    return units.time(row.latency.p50 if row is not None else None)


def _latency_table(rows: Sequence[LatencyRow], *, several: bool) -> Table:
    columns = [
        *([Column("design", 10, text=True)] if several else []),
        Column("latency", 15, text=True),
        Column("count", 11),
        *(Column(name, 6) for name in ("p50", "p90", "p99", "p99.9", "max")),
    ]
    cells = [
        [
            *([row.design] if several else []),
            row.kind,
            units.count(row.latency.count),
            *(
                units.time(each)
                for each in (
                    row.latency.p50,
                    row.latency.p90,
                    row.latency.p99,
                    row.latency.p999,
                    row.latency.largest,
                )
            ),
        ]
        for row in rows
    ]
    return Table(columns, cells)
