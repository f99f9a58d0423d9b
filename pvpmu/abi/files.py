"""The files of a checkout that are generated from the declarations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pvpmu.abi.c import c_header
from pvpmu.abi.tables import page_markdown, registers_markdown, slot_markdown

FILES: dict[str, Callable[[], str]] = {
    "include/pvpmu.h": c_header,
    "docs/generated/page.md": page_markdown,
    "docs/generated/slot.md": slot_markdown,
    "docs/generated/registers.md": registers_markdown,
}
"""Path within the checkout to what makes its text."""


def write_all(root: Path) -> None:
    """Write every generated file of the checkout at ``root``; raises :class:`OSError`."""
    for name, make in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), "utf-8")
