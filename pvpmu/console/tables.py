"""The model's rows as cells of tables, for the screen and for plain text. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from pvpmu.console import units
from pvpmu.console.grid import Column
from pvpmu.console.keys import View
from pvpmu.console.model import Latency, RegisterRow, VcpuRow

WIDE = 110
"""From this width on tables have full names and every reason."""
_REASONS = (
    ("EXCEPTION_NMI", "NMI/s"),
    ("MSR_WRITE", "WRMSR/s"),
    ("MSR_READ", "RDMSR/s"),
    ("RDPMC", "RDPMC/s"),
)
_TITLES = {
    **dict(_REASONS),
    "EXTERNAL_INTERRUPT": "EXTINT/s",
    "NMI_WINDOW": "NMIWIN/s",
    "INTERRUPT_WINDOW": "INTWIN/s",
}
_PREFIXES = re.compile(r"^MSR_(?:CORE_PERF_|ARCH_PERFMON_|IA32_)?")
_LONGEST_COUNT = 1_000_000


class Table(NamedTuple):
    """Columns and rows of cells."""

    columns: list[Column]
    rows: list[list[str]]


def vcpu_table(rows: Sequence[VcpuRow], width: int, *, several: bool) -> Table:
    """A line for each vCPU: what it does, per second. ``several``: there is more than one VM."""
    wide = width >= WIDE
    main = [reason for reason, _ in _REASONS]
    others = sorted({reason for row in rows for reason in row.exits} - set(main))
    reasons = main + others if wide else main
    columns = [
        *([Column("design", 10, text=True)] if several else []),
        Column("vCPU", 4),
        Column("state", 9, text=True),
        Column("gen", 3, keep=3),
        Column("PMIs/s", 6),
        Column("exits/s", 7),
        *(Column(_TITLES.get(reason, f"{reason}/s"), 7, keep=2) for reason in reasons),
        *([] if wide else [Column("other/s", 7, keep=4)]),
        Column("avoid/s", 7),
        *(
            [Column("PMIs", 9, keep=7), Column("exits", 11, keep=6), Column("avoided", 11, keep=5)]
            if wide
            else []
        ),
    ]
    cells = []
    for row in rows:
        rest = sum(rate for reason, (_, rate) in row.exits.items() if reason not in main)
        cells.append(
            [
                *([row.design] if several else []),
                "all" if row.vcpu is None else str(row.vcpu),
                row.state,
                "" if row.generation is None else str(row.generation or units.NOTHING),
                units.short_count(row.pmi_rate),
                units.short_count(row.exit_rate),
                *(units.short_count(row.exits.get(reason, (0, 0.0))[1]) for reason in reasons),
                *([] if wide else [units.short_count(rest)]),
                units.short_count(row.avoided_rate),
                *(
                    [
                        units.count(row.pmis["delivered"]),
                        units.count(row.exit_total),
                        units.NOTHING if row.avoided is None else units.count(row.avoided),
                    ]
                    if wide
                    else []
                ),
            ]
        )
    return Table(columns, cells)


def register_table(rows: Sequence[RegisterRow], width: int, *, several: bool) -> Table:
    """A line for each register, operation and path."""
    wide = width >= WIDE
    columns = [
        *([Column("design", 10, text=True)] if several else []),
        Column("register", 15, text=True),
        Column("addr", 8 if wide else 4, keep=5, text=True),
        Column("op", 2),
        Column("path", 6, text=True),
        Column("total", 11 if wide else 7),
        Column("%", 5, keep=4),
        Column("per s", 6),
        Column("p50", 6),
        *([Column("p90", 6)] if wide else []),
        Column("p99", 6),
        Column("p99.9", 6, keep=3),
        Column("max", 6, keep=2),
    ]
    cells = [
        [
            *([row.design] if several else []),
            row.name if wide else short_name(row.name),
            f"{row.address:x}",
            row.op,
            row.path,
            units.count(row.total)
            if wide or row.total < _LONGEST_COUNT
            else units.short_count(row.total),
            units.share(row.total, row.whole),
            units.short_count(row.rate),
            *_latency(row.latency, wide=wide),
        ]
        for row in rows
    ]
    return Table(columns, cells)


def total_table(rows: Sequence[VcpuRow], width: int) -> Table:
    """A line for each VM: everything since the reset, and the floor of this machine."""
    wide = width >= WIDE
    columns = [
        Column("total", 10, text=True),
        Column("exits", 9),
        Column("avoided", 9),
        Column("%", 5),
        Column("PMIs raised" if wide else "raised", 7),
        Column("delivered", 9),
        Column("spurious", 8),
        Column("coalesced", 9, keep=4),
        Column("bare round trip" if wide else "floor", 6),
        Column("recording adds" if wide else "record", 6, keep=3),
    ]
    cells = [
        [
            row.design,
            units.count(row.exit_total) if wide else units.short_count(row.exit_total),
            _or_nothing(row.avoided, wide=wide),
            units.NOTHING
            if row.avoided is None
            else units.share(row.avoided, row.avoided + row.exit_total),
            units.short_count(row.pmis["raised"]),
            units.short_count(row.pmis["delivered"]),
            units.short_count(row.spurious),
            units.short_count(row.pmis["coalesced"]),
            units.time(row.floor_ns),
            units.time(row.record_ns),
        ]
        for row in rows
    ]
    return Table(columns, cells)


def warnings(rows: Sequence[VcpuRow]) -> list[str]:
    """What no number of a VM's totals shows, and a user must not miss; a line each."""
    found = []
    dropped = sum(row.dropped for row in rows)
    if dropped:
        found.append(f"{units.count(dropped)} values not recorded: no room")
    refused = sum(row.refused for row in rows)
    if refused:
        found.append(
            f"{units.count(refused)} of the guest's series and words refused: beyond what can be"
        )
    return found


def arranged(rows: Sequence[RegisterRow], view: View) -> list[RegisterRow]:
    """The registers that the view's filter lets through, in its order."""
    pattern = re.compile(view.pattern, re.IGNORECASE) if view.pattern else None
    kept = [row for row in rows if pattern is None or pattern.search(_filtered_by(row))]
    by_name = sorted(kept, key=lambda row: (row.name, row.op, row.path, row.vm))
    match view.sort:
        case "name":
            return by_name
        case "address":
            return sorted(by_name, key=lambda row: (row.rdpmc, row.address))
        case "rate":
            return sorted(by_name, key=lambda row: -row.rate)
        case "total":
            return sorted(by_name, key=lambda row: -row.total)
        case quantile:
            return sorted(by_name, key=lambda row: -_sorted_by(row.latency, quantile))


def short_name(name: str) -> str:
    """A register's name without what most of them begin with."""
    return _PREFIXES.sub("", name)


def _filtered_by(row: RegisterRow) -> str:
    return f"{row.name} {row.address:#x} {row.op} {row.path} {row.design}"


def _sorted_by(latency: Latency | None, quantile: str) -> int:
    if latency is None:
        return -1
    return {"p50": latency.p50, "p99": latency.p99, "max": latency.largest}[quantile]


def _latency(latency: Latency | None, *, wide: bool) -> list[str]:
    if latency is None:
        return [units.NOTHING] * (5 if wide else 4)
    p90 = [latency.p90] if wide else []
    times = [latency.p50, *p90, latency.p99, latency.p999, latency.largest]
    return [units.time(each) for each in times]


def _or_nothing(value: int | None, *, wide: bool) -> str:
    if value is None:
        return units.NOTHING
    return units.count(value) if wide else units.short_count(value)
