"""``pvpmu bench --report DIR``: measure, sweep, and write the pages."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from pvpmu.report.page import Page
from pvpmu.shared.errors import UsageError

Json = dict[str, Any]
_NAME = "results"
_NOTE = "written by pvpmu bench --report; do not edit"


def needs_extra() -> None:
    """Raise :class:`UsageError` when the libraries of a report are not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415
    except ImportError:
        raise UsageError("--report needs the extra report: pip install 'pvpmu[report]'") from None
    # A font is looked for on a machine without one: no reason for a line on standard error.
    mpl.set_loglevel("ERROR")


def folder_for(path: Path) -> Path:
    """Make the folders of a report in ``path``; returns that of CSV files and drawings.

    Raises :class:`UsageError` when they cannot be made.
    """
    inside = path / _NAME
    try:
        inside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--report {path}: {error.strerror}") from None
    return inside


def write_report(path: Path, evidence: Json) -> list[Path]:
    """Write pages, drawings, JSON and CSV below ``path``; returns what a reader opens first."""
    from pvpmu.report.content import page_of  # noqa: PLC0415
    from pvpmu.report.html import as_html  # noqa: PLC0415
    from pvpmu.report.markdown import as_markdown  # noqa: PLC0415

    page = page_of(evidence)
    inside = folder_for(path)
    _drawings(page, inside)
    (inside / "designs.csv").write_text(designs_csv(evidence["bench"]), "utf-8")
    written = {
        "html": as_html(page),
        "md": as_markdown(page, _NAME, _NOTE),
        "json": json.dumps(evidence, indent=1) + "\n",
    }
    for end, text in written.items():
        (path / f"{_NAME}.{end}").write_text(text, "utf-8")
    return [path / f"{_NAME}.{end}" for end in written]


def designs_csv(bench: Json) -> str:
    """A row per design: every figure of it that is a number or a name, by its path."""
    rows = [dict(_flat(design)) for design in bench["designs"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _drawings(page: Page, folder: Path) -> None:
    for old in folder.glob("*.svg"):
        old.unlink()
    for figure in page.figures:
        (folder / f"{figure.name}.svg").write_text(figure.svg, "utf-8")


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict):
            found += _flat(inner, f"{name}.")
        elif isinstance(inner, list) and key == "msr":
            for row in inner:
                access = f"{name}.{row['op']}.{row['name']}"
                found += [(f"{access}.{kind}", row[kind]) for kind in ("accesses", "exits")]
        elif not isinstance(inner, list):
            found.append((name, inner))
    return found
