"""Words of the page are loaded and stored whole: two processes on one word, without a lock."""

from __future__ import annotations

import mmap
import os

import pytest

from pvpmu.shared import page

ROUNDS = 100_000
PATTERNS = (0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210)


def _store(words: memoryview) -> None:
    first, second = PATTERNS
    for _ in range(ROUNDS):
        words[page.PMC] = first
        words[page.PMC] = second


@pytest.mark.rule("PG-2")
def test_a_word_that_another_process_stores_is_never_read_half_old_half_new() -> None:
    with mmap.mmap(-1, page.PAGE_SIZE) as shared:
        words = memoryview(shared).cast("Q")
        words[page.PMC] = PATTERNS[0]
        writer = os.fork()
        if not writer:
            try:
                _store(words)
            finally:
                os._exit(0)
        torn = [
            value for value in (words[page.PMC] for _ in range(2 * ROUNDS)) if value not in PATTERNS
        ]
        assert os.waitpid(writer, 0) == (writer, 0)
        assert words[page.PMC] == PATTERNS[1]
        words.release()
    assert torn == []
