"""What the report says of a real VM, with the model's perf and with the kernel's."""

from __future__ import annotations

from pvpmu.bench.realperf import counted_by_line
from pvpmu.bench.realvm_table import floor_lines, ratio_lines, real_sections, scaling_lines
from pvpmu.report.common import Json
from pvpmu.report.page import Block, Items, Section, Table, Text

_TITLES = {
    "model": "With the model's perf",
    "linux": "With the kernel's perf (perf_event_open)",
}


def real_vm(evidence: Json) -> Section | None:
    """The section; None where no real VM was asked for."""
    told = evidence.get("real_vm")
    if told is None:
        return None
    if isinstance(told, str):
        return Section("A real VM", [Text(f"None could be had where this was measured: {told}.")])
    blocks: list[Block] = []
    for perf, result in told.items():
        blocks.append(Text(f"{_TITLES[perf]}. {_where(result)}"))
        names = [design["name"] for design in result["designs"]]
        blocks += [
            Table(
                ["", *names],
                [[label, *map(cell, result["designs"])] for label, cell in rows],
                title,
            )
            for title, rows in real_sections(result)
        ]
        lines = [*floor_lines(result), *ratio_lines(result), *scaling_lines(result)]
        blocks.append(Items(lines))
    first = next(iter(told.values()))
    blocks.append(Items(first["notes"]))
    failed = [
        f"FAILED: {check['name']}"
        for result in told.values()
        for check in result["checks"]
        if not check["ok"]
    ]
    blocks.append(Items(failed) if failed else Text("All checks of the real VM's runs hold."))
    return Section("A real VM", blocks)


def _where(result: Json) -> str:
    where, config = result["environment"], result["config"]
    kind = "a VM" if where["nested"] else "bare metal"
    return (
        f"{where['cpu']}, {kind}, Linux {where['kernel']}, {where['execution']}; guest at CPL "
        f"{where['guest_cpl']}, TSC of {where['tsc_khz'] / 1e6:.2f} GHz; {config['pmis']:,} PMIs "
        f"of each design in {config['turns']} turns; {config['events']}. Perf: {where['perf']}; "
        f"{counted_by_line(where['perf_events'])}."
    )
