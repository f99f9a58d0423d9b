"""Read a sweep's file back, each cell as what it is."""

from __future__ import annotations

import csv
from pathlib import Path

from pvpmu.sweep.grid import parse_values
from pvpmu.sweep.parameters import WHOLE
from pvpmu.sweep.row import DIGEST, Cell


def read_rows(path: Path) -> list[dict[str, Cell]]:
    """The rows by column: parameters as their type, counts as numbers, None for an empty cell."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        return [
            {name: _cell(name, text) for name, text in row.items()} for row in csv.DictReader(lines)
        ]


def _cell(name: str, text: str) -> Cell:
    if name in WHOLE or "." in name:
        return parse_values(name, [text])[0]
    if not text or name == DIGEST:
        return text or None
    return float(text) if "." in text or "e" in text else int(text)
