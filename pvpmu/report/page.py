"""What a page consists of, whatever it is written as. Pure data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list of plain texts."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under ``columns``; the first column is text, the others are figures."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Commands:
    """Command lines to be copied."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing. ``name``: of its file, without an end; ``alt``: what it shows, in words."""

    name: str
    svg: str
    alt: str
    caption: str


Block = Text | Items | Table | Commands | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A part with a heading of its own."""

    heading: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """The heading as the target of a link."""
        kept = "".join(c if c.isalnum() else " " for c in self.heading.lower())
        return "-".join(kept.split())


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page. ``lead``: what stands above all sections."""

    title: str
    lead: Sequence[Block]
    sections: Sequence[Section]

    @property
    def figures(self) -> list[Figure]:
        """Every figure, in order."""
        parts = [self.lead, *(section.blocks for section in self.sections)]
        return [block for blocks in parts for block in blocks if isinstance(block, Figure)]
