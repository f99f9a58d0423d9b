"""Read a page from another CPU: a bounded seqlock reader (rule PG-11)."""

from __future__ import annotations

from collections.abc import Sequence

from pvpmu.shared import page
from pvpmu.shared.page import Words

ATTEMPTS = 64
"""A publication is short: who fails this often looks at a page that nobody publishes properly."""


def read_words(words: Words, indices: Sequence[int], attempts: int = ATTEMPTS) -> list[int] | None:
    """The words at ``indices`` as of one publication; None if every attempt met another one.

    In FROZEN the guest's own stores do not change ``seq``: each word is whole, but two of them may
    be of different times. Never stores.
    """
    for _ in range(attempts):
        before = words[page.SEQ]
        if before & 1:
            continue
        values = [words[index] for index in indices]
        if words[page.SEQ] == before:
            return values
    return None
