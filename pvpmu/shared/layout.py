"""Declare a block of shared 64-bit words once; offsets, owners and tables follow.

**Invariants**: every word is 8-byte aligned; words of two owners never share a 64-byte line;
the block's size is fixed and what is not declared is a reserved tail.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

WORD_BYTES = 8
LINE_BYTES = 64
_LINE_WORDS = LINE_BYTES // WORD_BYTES


class Owner(enum.Enum):
    """Who may store to a word."""

    HOST = "host"
    GUEST = "guest"
    TURN = "turn"
    """The host at VM-entry when the state was RUNNING or it imported; the guest in FROZEN."""


@dataclass(frozen=True, slots=True)
class Field:
    """``count`` consecutive words at word ``index``, stored to by ``owner`` only."""

    name: str
    index: int
    count: int
    owner: Owner
    doc: str

    @property
    def offset(self) -> int:
        """Byte offset in the block."""
        return self.index * WORD_BYTES

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * WORD_BYTES


class Layout:
    """Builder and record of one block: call :meth:`line` and :meth:`word` in address order."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._fields: list[Field] = []
        self._next = 0
        self._owner = Owner.HOST

    def line(self, owner: Owner) -> None:
        """Start a new cache line, stored to by ``owner``."""
        self._next = -(-self._next // _LINE_WORDS) * _LINE_WORDS
        self._owner = owner

    def word(self, name: str, doc: str, *, count: int = 1) -> int:
        """Declare ``count`` words and return the first one's index.

        Raises :class:`ValueError` when the name is taken or the block is full.
        """
        index = self._next
        if any(field.name == name for field in self._fields):
            raise ValueError(f"{self.name}: word {name!r} is declared twice")
        if (index + count) * WORD_BYTES > self.size:
            raise ValueError(
                f"{self.name}: word {name!r} ends at byte {(index + count) * WORD_BYTES:#x}, "
                f"past the size {self.size:#x}"
            )
        self._fields.append(Field(name, index, count, self._owner, doc))
        self._next = index + count
        return index

    @property
    def fields(self) -> tuple[Field, ...]:
        """All declared words in address order."""
        return tuple(self._fields)

    @property
    def used(self) -> int:
        """Bytes up to the reserved tail."""
        return self._next * WORD_BYTES
