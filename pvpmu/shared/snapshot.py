"""Read a page from another CPU: a bounded seqlock reader (rule PG-11)."""

from __future__ import annotations

from collections.abc import Sequence

from pvpmu.shared import page
from pvpmu.shared.page import Words

ATTEMPTS = 64
"""A publication is short: who fails this often looks at a page that nobody publishes properly."""


def read_words(
    words: Words, indices: Sequence[int], generation: int, attempts: int = ATTEMPTS
) -> list[int] | None:
    """The words at ``indices`` as of one publication of a registration.

    None if every attempt met another publication, or if the page is not that registration's any
    more. In FROZEN the guest's own stores do not change ``seq``: each word is whole, but two of
    them may be of different times. Never stores.
    """
    for _ in range(attempts):
        before = words[page.SEQ]
        if before & 1:
            continue
        values = [words[index] for index in indices]
        if words[page.SEQ] != before:
            continue
        # Last: memory that was used otherwise meanwhile can bring seq back, but not these two.
        same = words[page.GENERATION] == generation and words[page.VERSION] == page.PAGE_VERSION
        return values if same else None
    return None
