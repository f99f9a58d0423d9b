"""One self-contained HTML page: a row per vector, a column per path, details on demand."""

from __future__ import annotations

from html import escape

from pvpmu.conformance.reports import story
from pvpmu.conformance.verdict import CaseResult, RunResult, Verdict

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #1c1c1c; background: #fff }
table { border-collapse: collapse } th, td { padding: .2em .6em; border: 1px solid #ccc }
th { text-align: left; background: #f2f2f2; position: sticky; top: 0 }
td.pass { background: #d9f2d9 } td.fail, td.error { background: #f6c6c6 }
td.skip { background: #eee; color: #555 } td.non-strict { background: #fbe9b7 }
pre { white-space: pre-wrap; margin: .3em 0; max-width: 60em } summary { cursor: pointer }
"""
_LEGEND = {
    Verdict.PASS: "does what the clause says",
    Verdict.NON_STRICT: "a SHOULD or MAY does not hold",
    Verdict.FAIL: "does otherwise",
    Verdict.SKIP: "the target does not offer what the case needs",
    Verdict.ERROR: "the target raised or did not answer",
}


def as_html(result: RunResult) -> str:
    """The page as text."""
    paths = result.paths
    rows: dict[str, dict[str, CaseResult]] = {}
    for case in result.results:
        rows.setdefault(case.id, {})[case.path] = case
    head = "".join(f"<th>{escape(path)}</th>" for path in paths)
    body = "\n".join(_row(cells, paths) for cells in rows.values())
    counts = ", ".join(f"{count} {name}" for name, count in result.tally.items())
    legend = "".join(
        f'<tr><td class="{verdict.value}">{verdict.value}</td><td>{escape(text)}</td></tr>'
        for verdict, text in _LEGEND.items()
    )
    title = f"pvpmu conform: {result.target.name} {result.target.version}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(counts)}. Features: {escape(", ".join(result.target.features))}.
Profiles: {escape(", ".join(result.target.profiles))}.</p>
<table>{legend}</table><p></p>
<table><tr><th>case</th><th>requirement</th><th>level</th>{head}</tr>
{body}
</table></body></html>
"""


def _row(cells: dict[str, CaseResult], paths: tuple[str, ...]) -> str:
    first = next(iter(cells.values()))
    tds = "".join(_cell(cells.get(path)) for path in paths)
    return (
        f'<tr id="{escape(first.id)}"><td>{escape(first.id)}</td>'
        f"<td>{escape(first.title)}<br><small>{escape(first.clause)}</small></td>"
        f"<td>{first.level}</td>{tds}</tr>"
    )


def _cell(case: CaseResult | None) -> str:
    if case is None:
        return "<td></td>"
    name = case.verdict.value
    if case.verdict is Verdict.PASS:
        return f'<td class="{name}">{name}</td>'
    text = "\n".join(f"{label}: {what}" for label, what in story(case))
    return (
        f'<td class="{name}"><details><summary>{name}</summary>'
        f"<pre>{escape(text)}</pre></details></td>"
    )
