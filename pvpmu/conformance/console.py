"""A run on a terminal: areas by path, then everything that is not well."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pvpmu.conformance.reports import story
from pvpmu.conformance.verdict import CaseResult, RunResult, Verdict

_COLOURS = {
    Verdict.PASS: "green",
    Verdict.NON_STRICT: "yellow",
    Verdict.FAIL: "red",
    Verdict.SKIP: "dim",
    Verdict.ERROR: "red",
}


def show(result: RunResult, *, skips: bool = False) -> None:
    """Print it on standard output."""
    print_run(result, Console(), skips=skips)


def print_run(result: RunResult, console: Console, *, skips: bool = False) -> None:
    """Print the table, the failures, the reasons of skips, the sum."""
    console.print(_table(result))
    for case in result.results:
        if case.verdict not in (Verdict.PASS, Verdict.SKIP):
            _print_case(case, console)
    _print_skips(result, console, each=skips)
    counts = ", ".join(f"{count} {name}" for name, count in result.tally.items() if count)
    console.print(f"target {result.target.name}: {counts or 'no cases'}", highlight=False)


def _table(result: RunResult) -> Table:
    paths = result.paths
    table = Table(title="verdicts by area and path", title_justify="left")
    table.add_column("area")
    for path in paths:
        table.add_column(path)
    areas = list(dict.fromkeys(case.id.split("-", 1)[0] for case in result.results))
    for area in areas:
        cells = []
        for path in paths:
            counts = Counter(
                case.verdict
                for case in result.results
                if case.path == path and case.id.startswith(area + "-")
            )
            cells.append(
                "  ".join(
                    f"[{_COLOURS[verdict]}]{counts[verdict]} {verdict.value}[/]"
                    for verdict in Verdict
                    if counts[verdict]
                )
            )
        table.add_row(area, *cells)
    return table


def _print_case(case: CaseResult, console: Console) -> None:
    colour = _COLOURS[case.verdict]
    head = f"[{colour}]{case.verdict.value}[/] {escape(f'{case.id} on {case.path}: {case.title}')}"
    console.print(head, highlight=False, soft_wrap=True)
    for label, text in story(case):
        line = f"    {label:<9}{text}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_skips(result: RunResult, console: Console, *, each: bool) -> None:
    """Reasons with their number of cases, or every skipped case."""
    skipped = [case for case in result.results if case.verdict is Verdict.SKIP]
    if each:
        for case in skipped:
            line = f"skip {case.id} on {case.path}: {case.reason}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        return
    for reason, count in Counter(case.reason for case in skipped).most_common():
        line = f"skip {count:>3}: {reason}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
