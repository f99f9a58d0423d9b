"""Print an answer for people: one column per design, the trace's own numbers first.

Everything printed comes from the document, so that table and JSON cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pvpmu.trace.document import as_text

if TYPE_CHECKING:
    from rich.console import Console

Json = dict[str, Any]
Row = tuple[str, str, list[str]]
"""Label, the cell of the trace, the cells of the designs."""

_MISSING = "-"
_THREADS = 16
_OTHER_EXITS = 12


def print_answer(answer: Json, console: Console) -> None:
    """Print every section, then notes and checks."""
    designs = [design["name"] for design in answer["designs"]]
    _say(console, _title(answer))
    sections: list[tuple[str, list[Row]]] = [
        ("in short", list(_headline(answer))),
        ("exits per operation", list(_operations(answer))),
        ("PMU accesses in operations, and exits that remain of them", list(_registers(answer))),
        ("modelled", list(_modelled(answer))),
    ]
    for title, rows in sections:
        if rows:
            console.print()
            console.print(_section(title, rows, designs))
    for table in (_fit(answer["fit"]), _threads(answer["threads"]), _exits(answer)):
        if table is not None:
            console.print()
            console.print(table)
    console.print()
    for line in (*_understood(answer), *_notes(answer)):
        _say(console, line)


def print_replay(result: Json, console: Console) -> None:
    """Print a replay: exits by design, what was played, checks and notes."""
    given, threads = result["input"], result["threads"]
    where = result["transport"] + (f" (--pin {result['pin']})" if result["pin"] else "")
    accesses = sum(thread["accesses"] for thread in threads)
    _say(
        console,
        f"{given['name']}: {given['format']}, {given['lines']:,} lines\n"
        f"{accesses:,} PMU accesses of {len(threads)} vCPU{'s' * (len(threads) != 1)} replayed, "
        f"transport {where}",
    )
    designs = result["designs"]
    for title, rows in (
        ("VM-exits", _replayed_exits(designs)),
        ("exits of PMU accesses", _replayed_registers(designs)),
        ("what was played", _played(designs)),
    ):
        table = _table(title)
        table.add_column("", no_wrap=True, min_width=38)
        for design in designs:
            table.add_column(design["name"], justify="right", no_wrap=True, min_width=10)
        for label, cells in rows:
            table.add_row(label, *cells)
        console.print()
        console.print(table)
    console.print()
    odd = given["not_understood"]
    if odd["lines"]:
        _say(console, f"lines not understood: {odd['lines']:,} of {given['lines']:,}")
    for line in (*(f"note: {note}" for note in result["notes"]), *_verdicts(result)):
        _say(console, line)


def _replayed_exits(designs: list[Json]) -> Iterator[tuple[str, list[str]]]:
    for reason in dict.fromkeys(reason for design in designs for reason in design["exits"]):
        yield reason, [f"{design['exits'].get(reason, 0):,}" for design in designs]
    yield "PMU exits (MSR and RDPMC)", [f"{design['pmu_exits']:,}" for design in designs]


def _replayed_registers(designs: list[Json]) -> Iterator[tuple[str, list[str]]]:
    found = [{(r["op"], r["name"]): r["exits"] for r in d["registers"]} for d in designs]
    for op, name in dict.fromkeys(key for rows in found for key in rows):
        label = name if op == "rdpmc" else f"{op} {name}"
        yield label, [f"{rows.get((op, name), 0):,}" for rows in found]


def _played(designs: list[Json]) -> Iterator[tuple[str, list[str]]]:
    for key, label in (
        ("accesses", "accesses"),
        ("pmis", "handlers begun by an NMI"),
        ("without_nmi", "handlers without an NMI"),
        ("unscripted", "NMIs that the trace does not have"),
        ("status_reads", "status reads"),
        ("status_equal", "  equal to the trace's"),
    ):
        yield label, [f"{design[key]:,}" for design in designs]
    for place, where in (("handler", "in handlers"), ("delivery", "bringing PMIs"),
                         ("other", "elsewhere")):  # fmt: skip
        yield f"perf calls, {where}", [f"{d['perf_calls_by'][place]:,}" for d in designs]
    yield (
        "accesses per second of a vCPU, wall",
        [f"{design['accesses_per_s'] or 0:,}" for design in designs],
    )


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 0, 0, 1))


def _section(title: str, rows: list[Row], designs: list[str]) -> Table:
    table = _table(title)
    table.add_column("", no_wrap=True, min_width=38)
    table.add_column("in the trace", justify="right", no_wrap=True)
    for name in designs:
        table.add_column(name, justify="right", no_wrap=True, min_width=10)
    for label, own, cells in rows:
        table.add_row(label, own, *cells)
    return table


def _title(answer: Json) -> str:
    given = answer["input"]
    packed = f", {given['compression']}" if given["compression"] else ""
    lines = [f"{given['name']}: {given['format']}{packed}, {given['lines']:,} lines"]
    if given["duration_ns"]:
        seconds = given["duration_ns"] / 1e9
        handlers = answer["pmu"]["handlers"]
        vcpus = sum(bool(thread["operations"]) for thread in answer["threads"])
        lines.append(
            f"{seconds:,.3f} s, {vcpus} vCPU{'s' * (vcpus != 1)} with PMU operations"
            + (f", {handlers / seconds:,.0f} PMI handlers per second" if handlers else "")
        )
    return "\n".join(lines)


def _headline(answer: Json) -> Iterator[Row]:
    pmu, designs = answer["pmu"], answer["designs"]
    total = answer["exits_total"]
    yield "PMU exits", f"{pmu['accesses']:,}", [as_text(d["pmu_exits"]) for d in designs]
    yield "  in operations", f"{pmu['attributed']:,}", [f"{d['attributed']:,}" for d in designs]
    if pmu["left_over"]:
        left = [as_text(d["left_over"]) for d in designs]
        yield "  in none (bounds)", f"{pmu['left_over']:,}", left
    yield "exits avoided", "", [as_text(d["avoided"]) for d in designs]
    yield "all exits", f"{total:,}", [as_text(d["all_exits"]) for d in designs]
    yield "  share that remains", "", [_percent(d["all_exits_share"]) for d in designs]
    if answer["operations"]:
        for model in answer["models"]:
            label = f"modelled ms saved, {model}"
            yield from _timed(label, designs, model, "saved_ns")


def _operations(answer: Json) -> Iterator[Row]:
    for operation in answer["operations"]:
        count = operation["count"]
        yield (
            f"{operation['label']} ({count:,})",
            _rate(operation["accesses"] / count),
            [
                _rate(design["operations"][operation["kind"]]["per_operation"])
                for design in answer["designs"]
            ],
        )


def _registers(answer: Json) -> Iterator[Row]:
    """Rows in the manner of a kvm_msr listing."""
    by_design = [
        {(row["op"], row["name"]): row for row in design["registers"]}
        for design in answer["designs"]
    ]
    if not by_design:
        return
    for key in dict.fromkeys(key for rows in by_design for key in rows):
        made = next(rows[key]["accesses"] for rows in by_design if key in rows)
        op, name = key
        yield (
            name if op == "rdpmc" else f"{op} {name}",
            f"{made:,}",
            [f"{rows[key]['exits']:,}" if key in rows else _MISSING for rows in by_design],
        )


def _modelled(answer: Json) -> Iterator[Row]:
    designs = answer["designs"]
    if not answer["operations"]:
        return
    for model in answer["models"]:
        if answer["pmu"]["handlers"]:
            for key, where in (("handler_ns", "in it"), ("total_ns", "in all")):
                label = f"{model}, ns per handler, {where}"
                yield label, "", [f"{_per_handler(d, model)[key]:,.0f}" for d in designs]
                ends = [_per_handler(d, model)["interval"][key] for d in designs]
                yield "  from .. to", "", [_ends(low, high) for low, high in ends]
        yield from _timed(f"{model}, ms of all operations", designs, model, "operations_ns")


def _per_handler(design: Json, model: str) -> Json:
    found: Json = design["modelled"][model]["per_handler"]
    return found


def _timed(label: str, designs: list[Json], model: str, key: str) -> Iterator[Row]:
    times = [design["modelled"][model][key] for design in designs]
    yield label, "", [f"{time['value'] / 1e6:,.1f}" for time in times]
    yield (
        "  from .. to",
        "",
        [_ends(time["low"] / 1e6, time["high"] / 1e6, digits=1) for time in times],
    )


def _ends(low: float, high: float, digits: int = 0) -> str:
    one, other = f"{low:,.{digits}f}", f"{high:,.{digits}f}"
    return one if one == other else f"{one}..{other}"


def _fit(fit: Json | None) -> Table | None:
    if fit is None or not fit["rows"]:
        return None
    table = _table("the fit: what the driver's operations come to")
    table.add_column("", no_wrap=True, min_width=38)
    for heading in ("in the trace", "model", "residual"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in fit["rows"]:
        label = row["name"] if row["op"] == "rdpmc" else f"{row['op']} {row['name']}"
        residual = f"{row['residual']:+,}" if row["residual"] else "0"
        table.add_row(label, f"{row['counted']:,}", f"{row['model']:,}", residual)
    return table


def _threads(threads: list[Json]) -> Table | None:
    if not threads:
        return None
    table = _table("vCPUs")
    table.add_column("", no_wrap=True, min_width=38)
    kinds = ("pmi", "pmi_spurious", "tick", "sched_in", "sched_out", "rotation")
    for heading in ("exits", "PMIs", "spurious", "ticks", "sched-in", "sched-out", "rotations"):
        table.add_column(heading, justify="right", no_wrap=True)
    for thread in threads[:_THREADS]:
        done = thread["operations"]
        name = f"vCPU {thread['vcpu']}" if thread["vcpu"] is not None else "no vCPU number"
        tid = "further threads" if thread["tid"] is None else f"thread {thread['tid']}"
        pmis = done.get("pmi", 0) + done.get("pmi_disabled", 0)
        others = [f"{done.get(kind, 0):,}" for kind in kinds[1:]]
        table.add_row(f"{name}, {tid}", f"{thread['exits']:,}", f"{pmis:,}", *others)
    if len(threads) > _THREADS:
        table.add_row(f"and {len(threads) - _THREADS} more", *[""] * 7)
    return table


def _exits(answer: Json) -> Table | None:
    """What stays under any design."""
    other = [row for row in answer["msr"] if row["class"] != "PMU" and row["accesses"]]
    exits = [
        (reason, count)
        for reason, count in answer["exits"].items()
        if reason != "RDPMC" and not reason.startswith("MSR")
    ]
    rows = [*exits, *((f"{row['op']} {row['name']}", row["accesses"]) for row in other)]
    rows += [
        (f"{row['op']} {row['name']} (#GP)", row["faults"])
        for row in answer["msr"]
        if row["faults"]
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: -row[1])
    table = _table("exits that stay under any design")
    table.add_column("", no_wrap=True, min_width=38)
    table.add_column("in the trace", justify="right", no_wrap=True)
    for label, count in rows[:_OTHER_EXITS]:
        table.add_row(label, f"{count:,}")
    if len(rows) > _OTHER_EXITS:
        rest = rows[_OTHER_EXITS:]
        table.add_row(f"{len(rest)} more", f"{sum(count for _, count in rest):,}")
    return table


def _understood(answer: Json) -> Iterator[str]:
    odd = answer["input"]["not_understood"]
    if odd["lines"]:
        yield f"lines not understood: {odd['lines']:,} of {answer['input']['lines']:,}; the first:"
        for example in odd["examples"]:
            yield f"  {example['line']}: {example['text']}"
    for reason, count in answer["pmu"]["left_over_by"].items():
        yield f"not attributed: {count:,} PMU accesses {reason}"
    fit = answer["fit"]
    if fit is not None and fit["unknowns"]:
        found = (f"{number:,} {name}" for name, number in fit["unknowns"].items())
        yield f"fit, driver {fit['driver']}: {', '.join(found)}"
    if fit is not None and fit["reason"]:
        yield f"no fit: {fit['reason']}; what remains is bounded register by register"


def _notes(answer: Json) -> Iterator[str]:
    yield from (f"note: {note}" for note in answer["notes"])
    if answer["operations"]:
        yield "modelled times: a model's value, and the interval that its uncertain costs leave"
        for name, summary in answer["models"].items():
            yield f"model {name}: {summary}"
    yield from _verdicts(answer)


def _verdicts(result: Json) -> Iterator[str]:
    for check in result["checks"]:
        yield f"check: {check['name']}: {'ok' if check['ok'] else 'FAILED'}"


def _percent(bounds: list[float]) -> str:
    low, high = f"{bounds[0]:.1%}", f"{bounds[1]:.1%}"
    return low if low == high else f"{low}..{high}"


def _rate(value: float) -> str:
    return f"{value:,.3f}".rstrip("0").rstrip(".")
