"""A page as Markdown (CommonMark with tables), its drawings beside it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pvpmu.report.page import Block, Commands, Figure, Items, Page, Table, Text

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def as_markdown(page: Page, images: str, note: str) -> str:
    """The page as text. ``images``: the drawings' folder, relative; ``note``: a comment on top."""
    parts = [f"<!-- {note} -->", f"# {_plain(page.title)}", *_blocks(page.lead, images)]
    for section in page.sections:
        parts += [f"## {_plain(section.heading)}", *_blocks(section.blocks, images)]
    return "\n\n".join(parts) + "\n"


def _blocks(blocks: Iterable[Block], images: str) -> Iterable[str]:
    return (_block(block, images) for block in blocks)


def _block(block: Block, images: str) -> str:
    match block:
        case Text(text):
            return _plain(text)
        case Items(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Table():
            return _table(block)
        case Commands(lines):
            return "\n".join(f"    {line}" for line in lines)
        case Figure(name=name, alt=alt, caption=caption):
            return f"![{_plain(alt)}]({images}/{name}.svg)\n\n{_plain(caption)}"


def _table(table: Table) -> str:
    rule = ["---", *("---:" for _ in table.columns[1:])]
    lines = [_row([_plain(cell) for cell in table.columns]), _row(rule)]
    lines += [_row([_plain(cell) for cell in row]) for row in table.rows]
    text = "\n".join(lines)
    return f"{_plain(table.caption)}:\n\n{text}" if table.caption else text


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line; leading spaces stay, as no-break spaces."""
    flat = " ".join(text.splitlines())
    indent = len(flat) - len(flat.lstrip(" "))
    return "\N{NO-BREAK SPACE}" * indent + _SPECIAL.sub(r"\\\1", flat[indent:])
