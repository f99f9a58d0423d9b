"""Print a result document for people: one column per design, the published numbers beside them.

Everything printed comes from the document, so that table and JSON cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from pvpmu.bench.accuracy import accuracy_rows
from pvpmu.bench.background import mix_rows
from pvpmu.bench.competition import competition_rows, refused_rows
from pvpmu.bench.predicted import prediction_lines, prediction_rows
from pvpmu.bench.realperf import perf_lines, perf_time_rows
from pvpmu.bench.switches import switch_rows
from pvpmu.shared.histogram import QUANTILES
from pvpmu.shared.units import NS_PER_S

Json = dict[str, Any]
Value = Callable[[Json], str]

_MISSING = "-"
ENDLESS = 10_000
"""Width of a console on which nothing is cut: a long line is better than a cut number."""
_MEASURE = Console(width=ENDLESS)
_ALIGNED, _CLOSE = (38, 13), (0, 0)
"""Least widths of the labels' column and of a design's."""
_PLACES = (("handler", "in the handler"), ("delivery", "bringing PMIs"), ("other", "elsewhere"))


def print_result(result: Json, console: Console, fit: int | None = None) -> None:
    """Print every section, then notes and checks.

    ``fit``: how wide it may be. A section that needs more is printed closer, or in parts of fewer
    columns, but no number is cut.
    """
    console.print(_title(result), highlight=False, soft_wrap=True, markup=False)
    for section in sections(result):
        console.print()
        for part in fitted(*section, fit):
            console.print(part)
    console.print()
    for line in (*_floors(result), *_notes(result), *_checks(result)):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


Row = tuple[str, Value, str]
"""Label, the cell of a design, the cell of the reference ("" where it has none)."""


Section = tuple[str, list[str], list[list[str]]]
"""Title, columns (designs, and the reference if it has any cell), rows of label and cells."""


def sections(result: Json) -> Iterator[Section]:
    """The tables of a result as text; rows that no design has are left out."""
    for title, rows in (
        ("in short", _headline(result)),
        ("VM-exits", _exits(result)),
        ("exits of all causes", mix_rows(result)),
        ("MSR accesses/exits", _registers(result)),
        ("exits per operation", _rates()),
        ("host perf work", _perf()),
        (
            "real perf calls, per PMI",
            [(label, cell, "") for label, cell in perf_time_rows(result["designs"])],
        ),
        ("PMU switches", switch_rows(result)),
        ("PMIs and samples", _pmis(result)),
        ("accuracy", [*accuracy_rows(result), *refused_rows(result)]),
        ("the host's own events", competition_rows(result)),
        ("modelled ns per PMI (handler entry)", _models(result)),
        ("wall clock", _wall()),
    ):
        made = list(rows)
        if made:
            yield _section(title, made, result["designs"], result["reference"])


def _section(title: str, rows: list[Row], designs: list[Json], reference: Json | None) -> Section:
    columns = [design["name"] for design in designs]
    published = [text for _, _, text in rows]
    has_reference = reference is not None and any(published)
    if reference is not None and has_reference:
        columns.append(f"{reference['name']}, 1 run")
    cells = [[label, *(value(design) for design in designs)] for label, value, _ in rows]
    if has_reference:
        cells = [[*row, text] for row, text in zip(cells, published, strict=True)]
    kept = [row for row in cells if any(c != _MISSING for c in row[1 : 1 + len(designs)])]
    return title, columns, kept


def fitted(title: str, columns: list[str], rows: list[list[str]], fit: int | None) -> list[Table]:
    """A section as tables of as many columns as ``fit``: aligned with other sections, if it can."""
    parts = []
    for size in range(len(columns), 0, -1):
        for least in (_ALIGNED, _CLOSE):
            parts = [
                _table(
                    title,
                    columns[first : first + size],
                    [[row[0], *row[1 + first : 1 + first + size]] for row in rows],
                    least,
                )
                for first in range(0, len(columns), size)
            ]
            if fit is None or all(_width(part) <= fit for part in parts):
                return parts
    return parts


def _width(table: Table) -> int:
    return Measurement.get(_MEASURE, _MEASURE.options, table).maximum


def _table(title: str, columns: list[str], rows: list[list[str]], least: tuple[int, int]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True, min_width=least[0])
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, min_width=least[1])
    for row in rows:
        table.add_row(*row)
    return table


def _headline(result: Json) -> Iterator[Row]:
    yield "PMU exits per PMI", _decimal("exits_per_pmi"), ""
    handler, delivery = (
        (lambda d, p=place: _work(d, "calls", p)) for place in ("handler", "delivery")
    )
    yield "host perf calls per PMI", _per_handler(handler, delivery), ""
    for model in result["models"]:
        yield f"modelled ns per PMI, {model}", _modelled(model, "total_ns"), ""
        yield "  from .. to", _interval(model, "total_ns"), ""
        inside = _modelled(model, "handler_ns")
        yield "  of these in the handler", inside, _published_handlers(result)
    yield from prediction_rows(result)
    yield from _charged(result)
    yield "NMI handler, wall p50, us", _wall_clock(_us("handler_ns", "p50")), ""

    def against(design: Json) -> str:
        ratio = design["handler_to_baseline"]
        return _MISSING if ratio is None else f"{ratio:.2f}"

    yield f"  against {result['baseline']}, same turn", against, ""


def _charged(result: Json) -> Iterator[Row]:
    """What a faster design leaves of the guest clock: to the program, and to more samples."""
    if result["charge"] is None:
        return

    def overhead(design: Json) -> str:
        percent = design["overhead_percent"]
        return _MISSING if percent is None else f"{percent:.2f}"

    def rate(design: Json) -> str:
        return f"{design['samples'] * NS_PER_S / design['elapsed_ns']:,.0f}"

    yield f"overhead of the profile, {result['charge']}, %", overhead, ""
    yield "samples per second of guest clock", rate, ""


def _exits(result: Json) -> Iterator[Row]:
    reference = result["reference"] or {"exits": {}}
    reasons = sorted({reason for design in result["designs"] for reason in design["exits"]})
    for reason in reasons:
        published = reference["exits"].get(reason)
        yield reason, _at("exits", reason), _number(published)
    yield "PMU exits (MSR and RDPMC)", _at("pmu_exits"), ""
    yield "  with those of PMIs", _at("pmu_exits_with_nmi"), ""


def _registers(result: Json) -> Iterator[Row]:
    reference = result["reference"]
    rows = {(row["op"], row["name"]): row for design in result["designs"] for row in design["msr"]}
    for op, name in rows:

        def value(design: Json, key: tuple[str, str] = (op, name)) -> str:
            for row in design["msr"]:
                if (row["op"], row["name"]) == key:
                    return f"{row['accesses']:,}/{row['exits']:,}"
            return _MISSING

        published = None
        if reference is not None:
            published = reference["exits" if op == "rdpmc" else op].get(name)
        yield (f"{op} {name}" if op != "rdpmc" else name), value, _number(published)


def _rates() -> Iterator[Row]:
    for key, label in (
        ("exits_per_pmi", "PMI with an overflow"),
        ("exits_per_pmi_with_nmi", "  with that of the PMI"),
        ("exits_per_spurious", "spurious PMI"),
        ("exits_per_tick", "timer tick"),
        ("exits_per_sched_in", "sched-in"),
        ("exits_per_sched_out", "sched-out"),
        ("exits_per_rotation", "rotation"),
        ("exits_per_read", "read of the counts"),
    ):
        yield label, _decimal(key), ""


def _perf() -> Iterator[Row]:
    for key, what in (
        ("calls", "perf calls"),
        ("context_locks", "context locks"),
        ("placements", "hardware placements"),
        ("local_reads", "counter reads without a call"),
    ):
        places = {place: (lambda d, k=key, p=place: _work(d, k, p)) for place, _ in _PLACES}
        for place, where in _PLACES:
            yield f"{what}, {where}", _whole(places[place]), ""
        yield f"{what}, in all", _whole(*places.values()), ""
        inside, outside = places["handler"], places["delivery"]
        yield "  per PMI, inside the handler", _per_handler(inside), ""
        yield "  per PMI, outside", _per_handler(outside), ""
        yield "  per PMI, in all", _per_handler(inside, outside), ""
    yield "calls that is_paused saves", _sum("perf_calls_redundant"), ""


Count = Callable[[Json], int]


def _work(design: Json, kind: str, place: str) -> int:
    if kind == "calls":
        return sum(design[f"perf_calls_{place}"].values())
    return int(design[f"{kind}_by"][place])


def _whole(*counts: Count) -> Value:
    return lambda design: f"{sum(count(design) for count in counts):,}"


def _per_handler(*counts: Count) -> Value:
    def value(design: Json) -> str:
        if not design["handlers"]:
            return _MISSING
        return f"{sum(count(design) for count in counts) / design['handlers']:.2f}"

    return value


def _pmis(result: Json) -> Iterator[Row]:
    yield "handler entries", _at("handlers"), ""
    yield "  acknowledged overflows (OVF_CTRL)", _at("acks"), ""
    yield "  second status bits", _at("second_bits"), ""
    kinds = ("raised", "delivered", "coalesced", "spurious", "late", "lost", "stray")
    for kind in kinds:
        yield f"PMIs {kind}", _at("pmi", kind), ""
    yield "PMIs under way at the end", _at("pmi", "undelivered"), ""
    yield "timer ticks", _at("ticks"), ""
    yield "samples", _at("samples"), ""
    yield "throttled events", _at("throttles"), ""
    if any(design["rate_lowered"] for design in result["designs"]):
        yield "maximal sample rate lowered", _at("rate_lowered"), ""
        yield "maximal sample rate at the end, Hz", _at("max_sample_rate"), ""
    yield "rotations", _at("rotations"), ""
    yield "reads of the counts", _at("reads"), ""
    yield "samples digest", lambda d: str(d["samples_digest"])[:12], ""
    yield "accesses digest", lambda d: str(d["access_digest"])[:12], ""


def _models(result: Json) -> Iterator[Row]:
    for model in result["models"]:
        for key, where in (
            ("handler_ns", "in the handler"),
            ("outside_ns", "outside (bringing the PMI)"),
            ("total_ns", "in all"),
        ):
            published = _published_handlers(result) if key == "handler_ns" else ""
            yield f"{model}, {where}", _modelled(model, key), published
            yield "  from .. to", _interval(model, key), ""


def _modelled(model: str, key: str) -> Value:
    return lambda design: f"{design['model'][model][key]:,.0f}"


def _interval(model: str, key: str) -> Value:
    def value(design: Json) -> str:
        low, high = (f"{ns:,.0f}" for ns in design["model"][model]["interval"][key])
        return low if low == high else f"{low}..{high}"

    return value


def _published_handlers(result: Json) -> str:
    reference = result["reference"]
    published = reference["handler_ns"] if reference is not None else {}
    return "/".join(f"{ns:,.0f}" for ns in published.values())


def _wall() -> Iterator[Row]:
    keys = (*(name for name, _ in QUANTILES), "max")
    for key in keys:
        yield f"NMI handler, {key}, us", _wall_clock(_us("handler_ns", key)), ""
    yield "driver accesses per second of a vCPU", _wall_clock(_at("accesses_per_s")), ""
    for path, what in (
        ("exit", "exit (rdmsr GLOBAL_STATUS)"),
        ("page_read", "page rdmsr, plain words"),
        ("page_write", "page wrmsr, plain words"),
    ):
        for key in keys:
            yield f"{what}, {key}, ns", _wall_clock(_ns("access_ns", path, key)), ""
    for key, what in (
        ("exit_to_round_trip", "exit / bare round trip"),
        ("plain_page_read_to_word", "page rdmsr / word read, plain"),
        ("any_page_read_to_word", "page rdmsr / word read, slowest"),
        ("plain_page_write_to_word", "page wrmsr / word write, plain"),
        ("any_page_write_to_word", "page wrmsr / word write, slowest"),
    ):
        yield f"{what} (p50)", _wall_clock(_ratio(key)), ""


def _wall_clock(value: Value) -> Value:
    """In parentheses where a wall-clock figure means nothing."""

    def marked(design: Json) -> str:
        text = value(design)
        return text if design["wall_valid"] or text == _MISSING else f"({text})"

    return marked


def _us(*keys: str) -> Value:
    shown = _time(keys, lambda ns: f"{ns / 1000:.2f}")
    return lambda design: shown(design) if design[keys[0]]["count"] else _MISSING


def _ns(*keys: str) -> Value:
    return _time(keys, lambda ns: f"{ns:,.0f}")


def _time(keys: tuple[str, ...], shown: Callable[[float], str]) -> Value:
    def value(design: Json) -> str:
        found: Any = design
        for key in keys:
            found = found[key] if found is not None else None
        return _MISSING if found is None else shown(found)

    return value


def _ratio(key: str) -> Value:
    return lambda d: _MISSING if d["ratios"][key] is None else f"{d['ratios'][key]:.2f}"


def _title(result: Json) -> str:
    vcpus, runs = result["vcpus"], result["runs"]
    return (
        f"{result['scenario']}: {result['summary']}\n"
        f"transport {result['transport']}"
        + (f" (--pin {result['pin']})" if result["pin"] else "")
        + f", {runs} run{'s' * (runs > 1)} on {vcpus} vCPU{'s' * (vcpus > 1)}"
        + (" (numbers are sums over them)" if runs * vcpus > 1 else "")
        + f", seed {result['seed']}"
        + "".join(f"\n{line}" for line in perf_lines(result))
    )


def _floors(result: Json) -> Iterator[str]:
    floors = result["floors"]
    trip = floors["round_trip_ns"]
    bare = f"bare round trip {trip:,.0f} ns, " if trip is not None else ""
    timers = ", ".join(f"{design['timer_ns']}" for design in result["designs"])
    yield (
        f"floors (p50): {bare}bare word read {floors['word_read_ns']:.1f} ns, "
        f"bare word write {floors['word_write_ns']:.1f} ns"
    )
    yield (
        "accesses: quantiles of batch means, loop cost subtracted; handlers: one by one, timer "
        f"cost ({timers} ns) subtracted"
    )
    live = result["live_view"]
    if live is not None:
        yield (
            f"live view (p50): publishing an exit {live['publish_ns']['p50']:.0f} ns, recording "
            f"an access {live['record_ns']['p50']:.0f} ns; here with --live only"
        )
    environment = result["environment"]
    yield (
        f"on {environment['cpu']}, {environment['cpus']} CPUs, Linux {environment['kernel']}, "
        f"{environment['implementation']} {environment['python']}"
    )
    if result["scaling"] is not None:
        scaling = result["scaling"]
        yield (
            f"exits per second: {scaling['exits_per_s_1']:,} on 1 vCPU, "
            f"{scaling['exits_per_s_2']:,} on 2 ({scaling['ratio']:.2f} x)"
        )


def _notes(result: Json) -> Iterator[str]:
    yield from (f"note: {note}" for note in result["notes"])
    reference = result["reference"]
    if reference is not None and reference["overhead_percent"]:
        figures = ", ".join(f"{kind} {x} %" for kind, x in reference["overhead_percent"].items())
        yield f"{reference['name']}: {reference['summary']}: {figures}"
    void = [design["name"] for design in result["designs"] if not design["wall_valid"]]
    if void:
        yield (
            f"in parentheses: wall-clock figures of {', '.join(void)}, which mean nothing: "
            "accesses that need no exit cross to the host's process here as exits do"
        )
    if result["charge"] is not None:
        yield (
            f"charged: {result['charge']}, to the guest clock and never to counters; designs are "
            "charged different times, so that no two need take the same samples"
        )
    yield from prediction_lines(result)
    yield "modelled ns: a model's value, and the interval that its uncertain costs leave"
    for name, summary in result["models"].items():
        yield f"model {name}: {summary}"


def _checks(result: Json) -> Iterator[str]:
    for check in result["checks"]:
        verdict = "ok" if check["ok"] else "FAILED"
        yield f"check: {check['name']}: {verdict}"
    for check in result["checks_left_out"]:
        yield f"check: {check['name']}: left out: {check['why']}"


def _at(*keys: str) -> Value:
    def value(design: Json) -> str:
        found: Any = design
        for key in keys:
            found = found.get(key, 0)
        return _number(found)

    return value


def _sum(key: str) -> Value:
    return lambda design: f"{sum(design[key].values()):,}"


def _decimal(key: str) -> Value:
    return lambda design: _MISSING if design[key] is None else f"{design[key]:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"
