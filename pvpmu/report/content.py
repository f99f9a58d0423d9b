"""What the report says, from the evidence alone: every number of it is in the JSON beside it.

The drawings come from :mod:`pvpmu.report.plots`; everything else here is pure.
"""

from __future__ import annotations

from pvpmu.bench.realperf import perf_lines
from pvpmu.bench.table import sections
from pvpmu.report import plots
from pvpmu.report.choices import choices
from pvpmu.report.common import Json, design_of, ends, paired
from pvpmu.report.curves import curve, sensitivity, vcpus
from pvpmu.report.page import Block, Commands, Figure, Items, Page, Section, Table, Text
from pvpmu.report.realvm import real_vm
from pvpmu.report.timing import handlers

_OPERATIONS = (
    ("exits_per_pmi", "PMI"),
    ("exits_per_spurious", "spurious PMI"),
    ("exits_per_tick", "tick"),
    ("exits_per_sched_in", "sched-in"),
    ("exits_per_sched_out", "sched-out"),
    ("exits_per_rotation", "rotation"),
)
_OWN = ("in short", "exits per operation", "accuracy")
"""Tables of the terminal that have a section of their own."""
_TRUST = (
    "Exits, accesses, perf calls and samples are counted: exact, and the same on any machine.",
    (
        "Modelled ns follow from the counts by a cost model. Each carries its model's name and the "
        "interval that the model's uncertain costs leave."
    ),
    (
        "Wall-clock figures are this machine's. An exit here is a hand-over between two processes, "
        "and the host is Python. Only ratios of the same turn mean something."
    ),
)


def page_of(evidence: Json) -> Page:
    """The whole report."""
    bench = evidence["bench"]
    parts = (
        _short(bench),
        choices(evidence),
        _operations(bench),
        handlers(bench),
        curve(evidence, "events", "events", "Number of events", "events opened"),
        curve(
            evidence, "frequency", "frequency", "Sampling frequency", "Hz, each event", x_log=True
        ),
        vcpus(evidence),
        real_vm(evidence),
        sensitivity(bench),
        _accuracy(bench),
        _other_tables(bench),
        _checks(bench),
        _repeat(evidence),
    )
    lead: list[Block] = [
        Text(f"{bench['scenario']}: {bench['summary']}. {_setting(bench)}"),
        Items(_TRUST),
    ]
    if told := list(perf_lines(bench)):
        lead.append(Items(told))
    if bench["notes"]:
        lead.append(Items([f"Note: {note}" for note in bench["notes"]]))
    return Page(
        f"pvpmu: designs of a PMU interface on {bench['scenario']}",
        lead,
        [section for section in parts if section is not None],
    )


def _setting(bench: Json) -> str:
    runs, vcpus = bench["runs"], bench["vcpus"]
    pin = f" (--pin {bench['pin']})" if bench["pin"] else ""
    return (
        f"Transport {bench['transport']}{pin}, {runs} run{'s' * (runs > 1)} on {vcpus} "
        f"vCPU{'s' * (vcpus > 1)}, seed {bench['seed']}. Compared with {bench['baseline']}."
    )


def _short(bench: Json) -> Section:
    _, columns, rows = next(sections(bench))
    models = {
        model: [
            plots.Stack(
                design["name"],
                design["model"][model]["handler_ns"],
                design["model"][model]["outside_ns"],
                tuple(design["model"][model]["interval"]["total_ns"]),
            )
            for design in bench["designs"]
        ]
        for model in bench["models"]
    }
    reference = bench["reference"] or {"handler_ns": {}}
    drawing = plots.stacks(models, reference["handler_ns"])
    return Section(
        "In short",
        [
            Table(["", *columns], rows),
            Figure(
                "total",
                drawing,
                "Bars: modelled time per PMI of each design, inside the handler and bringing it",
                "Modelled time per PMI: what is spent in the NMI handler, and by the exits that "
                "bring the PMI. The line on each bar is the interval of the sum. A diamond is a "
                "published handler latency, to be compared with the end of the dark part.",
            ),
            _against(bench),
            Text(
                "A design that takes fewer samples has less to do: its exits and calls compare "
                "with the others' only beside its samples. What a design that is not equivalent "
                "changes for the guest is under Accuracy."
            ),
        ],
    )


def _against(bench: Json) -> Table:
    base = design_of(bench, bench["baseline"])
    models = list(bench["models"])

    def row(design: Json) -> list[str]:
        measured = paired(design, base)
        return [
            design["name"],
            "yes" if design["equivalent"] else "no",
            _times(design["samples"], base["samples"]),
            _times(design["pmu_exits"], base["pmu_exits"]),
            _times(_calls(design), _calls(base)),
            *(_times(design["model"][m]["total_ns"], base["model"][m]["total_ns"]) for m in models),
            "-" if measured is None else f"{measured.value:.2f} ({ends(measured, 2)})",
        ]

    columns = ["design", "equivalent", "samples", "PMU exits", "perf calls"]
    columns += [f"ns per PMI, {model}" for model in models]
    columns.append("handler p50, measured")
    return Table(
        columns,
        [row(design) for design in bench["designs"]],
        f"Each design by {bench['baseline']}; measured: median over turns, with its interval",
    )


def _calls(design: Json) -> int:
    return sum(design["perf_calls"].values())


def _times(value: float, base: float) -> str:
    return f"{value / base:.3f}" if base else "-"


def _operations(bench: Json) -> Section:
    designs = bench["designs"]
    present = {
        title: [design[key] for design in designs]
        for key, title in _OPERATIONS
        if any(design[key] is not None for design in designs)
    }
    names = [design["name"] for design in designs]
    (table,) = (part for part in sections(bench) if part[0] == "exits per operation")
    return Section(
        "Exits per operation",
        [
            Figure(
                "operations",
                plots.bars(names, present),
                "Bars: PMU exits of each design for each operation of the driver",
                "PMU exits (MSR_READ, MSR_WRITE, RDPMC) in one operation of the guest's driver, on "
                "the average. EXCEPTION_NMI exits, which bring the PMI, are not among them.",
            ),
            Table(["", *table[1]], table[2]),
        ],
    )


def _accuracy(bench: Json) -> Section:
    _, columns, rows = next(part for part in sections(bench) if part[0] == "accuracy")
    return Section(
        "Accuracy",
        [
            Text(
                "A count error is what a counter missed or counted twice while it was live. What "
                "the host held back is apart. Designs that are said to be equivalent take the same "
                "samples at zero race windows, which the checks compare."
            ),
            Table(["", *columns], rows),
            *_said(bench, "differences", "What a guest may see otherwise than on the trap path"),
            *_said(bench, "leaves_out", "What of a design's model is missing here"),
        ],
    )


def _said(bench: Json, field: str, title: str) -> list[Block]:
    """What designs say of themselves, if any does."""
    items = [
        f"{design['name']}: {'; '.join(design[field])}"
        for design in bench["designs"]
        if design[field]
    ]
    return [Text(f"{title}:"), Items(items)] if items else []


def _other_tables(bench: Json) -> Section:
    """The tables of the terminal that are in no section of their own."""
    return Section(
        "All other figures",
        [
            Table(["", *columns], rows, title)
            for title, columns, rows in sections(bench)
            if title not in _OWN
        ],
    )


def _checks(bench: Json) -> Section:
    rows = [[check["name"], "ok" if check["ok"] else "FAILED"] for check in bench["checks"]]
    return Section("Checks", [Table(["check", "outcome"], rows)])


def _repeat(evidence: Json) -> Section:
    bench = evidence["bench"]
    environment = bench["environment"]
    floors = bench["floors"]
    facts = [
        ["pvpmu", bench["version"]],
        *([name, str(value)] for name, value in environment.items()),
        *(
            [name.replace("_", " "), f"{ns:,.1f}"]
            for name, ns in floors.items()
            if name != "summaries" and ns is not None
        ),
    ]
    models = [
        [
            *(name, cost, f"{each['value']:,.1f}"),
            *(f"{each['low']:,.1f}..{each['high']:,.1f}", each["from"]),
        ]
        for name, model in bench["cost_models"].items()
        for cost, each in model["costs"].items()
    ]
    return Section(
        "Environment, and how to repeat this",
        [
            Commands([evidence["command"], *(s["command"] for s in evidence["sweeps"].values())]),
            Table(["", "value"], facts, "Environment"),
            Table(["model", "cost", "ns", "range", "from"], models, "Cost models"),
            Items([f"{name}: {model['source']}" for name, model in bench["cost_models"].items()]),
        ],
    )
