"""The layout of what the live view reads."""

from __future__ import annotations

import pytest

from pvpmu.shared import liveview
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import BUCKETS
from pvpmu.shared.layout import LINE_BYTES, Layout
from pvpmu.shared.liveview import EXIT_KEYS, HANDLER_KEY, OTHER, AccessPath, Key
from pvpmu.shared.registers import BY_ADDRESS, RDPMC_INDICES

LAYOUTS = (liveview.VM, liveview.HOST_VCPU, liveview.GUEST_VM, liveview.GUEST_VCPU)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_area_is_whole_lines_so_that_writers_share_none(layout: Layout) -> None:
    assert layout.size % LINE_BYTES == 0
    assert layout.used <= layout.size


def test_a_key_survives_its_word_and_no_word_of_one_is_zero() -> None:
    keys = [*EXIT_KEYS, HANDLER_KEY, Key(ExitReason.MSR_READ, OTHER, AccessPath.PAGE)]
    assert [Key.decode(key.encode()) for key in keys] == keys
    assert all(0 < key.encode() < 1 << 64 for key in keys)


def test_every_exit_of_the_model_has_a_word_and_only_one() -> None:
    assert len(set(EXIT_KEYS)) == len(EXIT_KEYS)
    for address in (*BY_ADDRESS, OTHER):
        assert Key(ExitReason.MSR_WRITE, address, AccessPath.EXIT) in EXIT_KEYS
        assert Key(ExitReason.MSR_READ, address, AccessPath.EXIT) in EXIT_KEYS
    for index in (*RDPMC_INDICES, OTHER):
        assert Key(ExitReason.RDPMC, index, AccessPath.EXIT) in EXIT_KEYS


def test_the_areas_of_vcpus_follow_the_head_and_do_not_meet() -> None:
    assert liveview.host_area(0).start == liveview.VM.size // 8
    assert liveview.host_area(3).stop == liveview.host_bytes(4) // 8
    assert liveview.guest_area(0).stop == liveview.guest_area(1).start
    assert liveview.guest_area(3).stop == liveview.guest_bytes(4) // 8


def test_the_size_of_both_segments_is_bounded_by_the_number_of_vcpus() -> None:
    assert liveview.host_bytes(4) == 5 * 4096
    assert liveview.guest_bytes(1) < 1_750_000


def test_a_name_longer_than_its_words_is_cut() -> None:
    words = memoryview(bytearray(liveview.VM.size)).cast("Q")
    liveview.begin_host(words, vcpus=2, design="d" * 100, wants=True)
    first = liveview.VM_DESIGN * 8
    assert bytes(words.cast("B")[first : first + 80]) == b"d" * 64 + bytes(16)
    assert words[liveview.VM_VCPUS] == 2
    assert words[liveview.VM_WANTS] == 1
    assert words[liveview.VM_VERSION] == liveview.VIEW_VERSION


def test_a_series_has_a_word_for_each_bucket() -> None:
    (counts,) = [field for field in liveview.GUEST_VCPU.fields if field.name == "counts"]
    assert counts.count == liveview.SERIES * BUCKETS
