"""What was measured by the wall clock: handlers of each design, alone and on several vCPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pvpmu.report import plots
from pvpmu.report.common import Json, design_of, ends, paired, panels_of
from pvpmu.report.page import Figure, Section, Table, Text
from pvpmu.report.statistics import Median, median_of


def handlers(bench: Json) -> Section | None:
    """Distributions, and medians with their intervals; None if no handler ran."""
    designs = bench["designs"]
    base = design_of(bench, bench["baseline"])
    found = [
        plots.Distribution(design["name"], list(_steps(design["handler_buckets"])))
        for design in designs
        if design["wall_valid"]
    ]
    rows = []
    for design in designs:
        own, ratio = median_of(design["handler_p50s"]), paired(design, base)
        if own is None or ratio is None:
            continue
        summary = design["handler_ns"]
        rows.append(
            [
                design["name"],
                f"{own.value / 1000:.1f}",
                f"{own.low / 1000:.1f}..{own.high / 1000:.1f}",
                f"{ratio.value:.3f}",
                ends(ratio, 3),
                *(f"{summary[key] / 1000:.1f}" for key in ("p50", "p90", "p99", "p999", "max")),
                f"{summary['count']:,}",
            ]
        )
    one = median_of(base["handler_p50s"])
    if one is None or not base["handlers"]:
        return None
    return Section(
        "Handler latency",
        [
            Figure(
                "handlers",
                plots.distributions(_timed(bench), found, "µs in the NMI handler (wall clock)"),
                "Curves: share of NMI handlers that took at most so long, for each design",
                f"Every handler of all timed passes. {bench['baseline']} is in every panel.",
            ),
            Table(
                [
                    "µs",
                    "median p50",
                    "interval",
                    f"by {bench['baseline']}",
                    "interval",
                    *("p50", "p90", "p99", "p99.9", "max", "handlers"),
                ],
                rows,
                "Measured NMI handlers",
            ),
            Text(_method(one)),
            *_untimed(bench),
        ],
    )


def _timed(bench: Json) -> plots.Panels:
    """The panels without the designs whose wall-clock figures mean nothing."""
    panels = panels_of(bench)
    void = {design["name"] for design in bench["designs"] if not design["wall_valid"]}
    groups = [[name for name in group if name not in void] for group in panels.groups]
    return replace(panels, groups=groups)


def _untimed(bench: Json) -> list[Text]:
    void = [design["name"] for design in bench["designs"] if not design["wall_valid"]]
    if not void:
        return []
    return [
        Text(
            f"Not timed: {', '.join(void)}. Accesses that need no exit there are hand-overs here, "
            f"so that wall-clock figures would mean nothing; counts and modelled times do."
        )
    ]


def _method(one: Median) -> str:
    return (
        f"Passes of different designs alternate, in an order that rotates from turn to turn. "
        f"Medians are over {one.count} turns, of each turn's p50; ratios are of the same turn. An "
        f"interval lies between two of the values (order statistics): it holds the true median "
        f"with a probability of {one.coverage:.1%} and assumes nothing of the distribution. "
        f"Turns of one machine in a few minutes are no random sample of machines."
    )


def _steps(buckets: Sequence[Sequence[int]]) -> Iterator[tuple[float, float]]:
    whole = sum(count for _, count in buckets)
    seen = 0
    for ns, count in buckets:
        seen += count
        yield ns / 1000, seen / whole


def measured_table(bench: Json, measured: Json) -> Table:
    """Medians by design and number of vCPUs."""
    numbers = list(measured)
    columns = ["design"]
    for number in numbers:
        columns += [f"p50, {number} vCPUs, µs" if number != "1" else "p50, 1 vCPU, µs", "interval"]
    rows = []
    for design in bench["designs"]:
        if not design["wall_valid"]:
            continue
        cells = [design["name"]]
        for number in numbers:
            own = median_of(measured[number][design["name"]])
            assert own is not None
            cells += [f"{own.value / 1000:.1f}", f"{own.low / 1000:.1f}..{own.high / 1000:.1f}"]
        rows.append(cells)
    return Table(columns, rows, "Measured NMI handlers, each vCPU on a CPU of its own")
