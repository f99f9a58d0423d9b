"""Columns that fit: the least important ones go first, then text is cut. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_GAP = 1


@dataclass(frozen=True, slots=True)
class Column:
    """A column. ``keep``: those of a higher number go first where there is little room, 0 never.

    ``width``: what is kept free for it, so that columns do not move with every number. ``text``:
    left-aligned, and cut down to that width before another column goes, further only at last.
    """

    title: str
    width: int = 0
    keep: int = 0
    text: bool = False


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Title line and rows as lines of at most ``width`` letters."""
    widths = [
        max(column.width, len(column.title), *(len(row[number]) for row in rows), 0)
        for number, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    for number, column in enumerate(columns):
        excess = _needed(widths, shown) - width
        if column.text and excess > 0:
            widths[number] = max(widths[number] - excess, min(column.width, widths[number]))
    while _needed(widths, shown) > width:
        goes = max(shown, key=lambda number: (columns[number].keep, number))
        if not columns[goes].keep:
            break
        shown.remove(goes)
    excess = _needed(widths, shown) - width
    if excess > 0:
        wide = max((n for n in shown if columns[n].text), key=widths.__getitem__, default=None)
        if wide is not None:
            widths[wide] = max(widths[wide] - excess, 1)
    titles = [column.title for column in columns]
    return [_line(columns, widths, shown, cells)[:width] for cells in (titles, *rows)]


def cut(text: str, width: int) -> str:
    """The text, or as much of it as fits, and a sign that there is more."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "~"


def _needed(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[number] for number in shown) + _GAP * (len(shown) - 1)


def _line(
    columns: Sequence[Column], widths: Sequence[int], shown: Sequence[int], cells: Sequence[str]
) -> str:
    parts = []
    for number in shown:
        cell = cut(cells[number], widths[number])
        width = widths[number]
        parts.append(cell.ljust(width) if columns[number].text else cell.rjust(width))
    return (" " * _GAP).join(parts).rstrip()
