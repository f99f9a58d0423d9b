"""The reader on another CPU: never a mix of two publications, never without end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvpmu.shared import page
from pvpmu.shared.snapshot import read_words

WORDS = (page.LIVE, page.RAISED, page.PMC)


class Published:
    """A page on which the publisher's next store happens before some of the reader's loads."""

    def __init__(self, stores_before: list[int]) -> None:
        self.words = [0] * 512
        self.words[page.GENERATION], self.words[page.VERSION] = 7, page.PAGE_VERSION
        self.loads = 0
        self._steps = self._publications()
        self._stores_before = stores_before

    def _publications(self) -> Iterator[None]:
        number = 0
        while True:
            number += 1
            self.words[page.SEQ] += 1
            yield
            for index in WORDS:
                self.words[index] = number
                yield
            self.words[page.SEQ] += 1
            yield

    def __getitem__(self, index: int) -> int:
        if self.loads < len(self._stores_before):
            for _ in range(self._stores_before[self.loads]):
                next(self._steps)
        self.loads += 1
        return self.words[index]

    def __setitem__(self, index: int, value: int) -> None:
        pytest.fail(f"the reader stored {value:#x} to word {index}")


@pytest.mark.rule("PG-11")
@given(st.lists(st.integers(0, 6), max_size=60))
def test_what_is_read_is_of_one_publication(stores_before: list[int]) -> None:
    published = Published(stores_before)
    values = read_words(published, WORDS, 7)
    if values is None:
        assert published.words[page.SEQ] & 1, "a publisher that stopped between two publications"
    else:
        assert len(set(values)) == 1


@pytest.mark.rule("PG-11")
def test_a_reader_gives_up_after_so_many_attempts() -> None:
    busy = Published([1] * 1000)
    assert read_words(busy, WORDS, 7, attempts=10) is None
    assert busy.loads <= 10 * (len(WORDS) + 2)
    died = Published([1])
    assert read_words(died, WORDS, 7, attempts=10) is None, "the publisher died half way"


@pytest.mark.rule("PG-11", "GEN-1")
@pytest.mark.parametrize("change", [{page.GENERATION: 8}, {page.GENERATION: 0}, {page.VERSION: 0}])
def test_another_registration_is_not_believed(change: dict[int, int]) -> None:
    published = Published([])
    assert read_words(published, WORDS, 7) is not None
    for index, value in change.items():
        published.words[index] = value
    assert read_words(published, WORDS, 7) is None
