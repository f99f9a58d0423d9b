"""The declare-once layout builder."""

import pytest

from pvpmu.shared.layout import Layout, Owner


def test_words_get_consecutive_indices_and_arrays_take_their_count() -> None:
    layout = Layout("block", 4096)
    layout.line(Owner.HOST)
    assert [layout.word("a", ""), layout.word("b", "", count=3), layout.word("c", "")] == [0, 1, 4]
    assert [(field.offset, field.size) for field in layout.fields] == [(0, 8), (8, 24), (32, 8)]
    assert layout.used == 40


def test_a_new_line_starts_at_the_next_64_bytes() -> None:
    layout = Layout("block", 4096)
    layout.line(Owner.HOST)
    layout.word("a", "")
    layout.line(Owner.GUEST)
    assert layout.word("b", "") == 8
    assert [field.owner for field in layout.fields] == [Owner.HOST, Owner.GUEST]


def test_a_line_on_a_boundary_leaves_no_gap() -> None:
    layout = Layout("block", 4096)
    layout.line(Owner.HOST)
    layout.word("a", "", count=8)
    layout.line(Owner.GUEST)
    assert layout.word("b", "") == 8


def test_a_name_is_declared_once() -> None:
    layout = Layout("block", 4096)
    layout.word("a", "")
    with pytest.raises(ValueError, match="block: word 'a' is declared twice"):
        layout.word("a", "")


def test_a_block_that_is_full_takes_no_more_and_stays_as_it_is() -> None:
    layout = Layout("block", 64)
    layout.word("a", "", count=7)
    with pytest.raises(ValueError, match="past the size 0x40"):
        layout.word("b", "", count=2)
    assert layout.word("c", "") == 7
    assert layout.used == 64
