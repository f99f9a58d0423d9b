"""Words in, values out."""

from __future__ import annotations

import pytest

from pvpmu.console.snapshot import GUEST_HEAD, MOST, design_of, guest_of, status_of, vcpu_of
from pvpmu.shared import liveview
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import BUCKETS
from pvpmu.shared.liveview import EXIT_KEYS, HANDLER_KEY, AccessPath, Key, State, Status

KEY = Key(ExitReason.MSR_READ, 0x38E, AccessPath.PAGE)


def test_a_vcpu_is_what_its_words_say() -> None:
    words = [0] * (liveview.HOST_VCPU.size // 8)
    words[liveview.HOST_STATE] = State.FROZEN
    words[liveview.HOST_GENERATION] = 7
    words[liveview.HOST_PMI + 1] = 5
    words[liveview.HOST_EXITS + EXIT_KEYS.index(Key(ExitReason.HLT, 0, AccessPath.EXIT))] = 3
    vcpu = vcpu_of(2, words, None)
    assert (vcpu.number, vcpu.state, vcpu.generation) == (2, State.FROZEN, 7)
    assert vcpu.pmis["delivered"] == 5
    assert vcpu.exits == {Key(ExitReason.HLT, 0, AccessPath.EXIT): 3}


def test_a_state_or_status_of_a_later_version_is_none_of_these() -> None:
    words = [0] * (liveview.HOST_VCPU.size // 8)
    words[liveview.HOST_STATE] = 99
    assert vcpu_of(0, words, None).state is State.ABSENT
    vm = [0] * (liveview.VM.size // 8)
    vm[liveview.VM_STATUS] = 99
    assert status_of(vm) is Status.STOPPED


def test_a_name_that_is_no_text_is_still_shown() -> None:
    words = memoryview(bytearray(liveview.VM.size)).cast("Q")
    liveview.begin_host(words, vcpus=1, design="page-\x1b[31méà", wants=False)
    assert design_of(words) == "page-[31méà"
    words[liveview.VM_DESIGN] = 0xFFFF_FFFF
    assert "�" in design_of(words)


def test_a_guest_has_a_series_for_each_key_until_the_first_free_one() -> None:
    words = [0] * GUEST_HEAD
    words[liveview.GUEST_KEYS] = KEY.encode()
    words[liveview.GUEST_KEYS + 1] = HANDLER_KEY.encode()
    words[liveview.GUEST_KEYS + 3] = KEY.encode()
    words[liveview.GUEST_FLOOR] = 8000
    read = []

    def histogram(number: int) -> list[int]:
        read.append(number)
        return [number + 1] + [0] * (BUCKETS - 2) + [5]

    guest = guest_of(words, histogram)
    assert guest.series == {KEY: {0: 1, BUCKETS - 1: 5}, HANDLER_KEY: {0: 2, BUCKETS - 1: 5}}
    assert guest.counts == {KEY: 6, HANDLER_KEY: 7}
    assert guest.floor_ns == 8000
    # What is not used is not read.
    assert read == [0, 1]


def test_a_series_that_nobody_can_have_counted_is_refused_and_said() -> None:
    words = [0] * GUEST_HEAD
    words[liveview.GUEST_KEYS] = KEY.encode()
    words[liveview.GUEST_KEYS + 1] = HANDLER_KEY.encode()
    counts = [[1] * BUCKETS, [MOST - BUCKETS + 1] + [1] * (BUCKETS - 1)]
    guest = guest_of(words, counts.__getitem__)
    assert (guest.refused, guest.counts) == (0, {KEY: BUCKETS, HANDLER_KEY: MOST})
    counts[1][7] += 1
    guest = guest_of(words, counts.__getitem__)
    assert (guest.refused, set(guest.series), set(guest.counts)) == (1, {KEY}, {KEY})


def test_words_that_cannot_be_are_0_and_said() -> None:
    words = [0] * GUEST_HEAD
    words[liveview.GUEST_TIMER] = words[liveview.GUEST_RECORD] = words[liveview.GUEST_FLOOR] = (
        1 << 32
    )
    words[liveview.GUEST_SPURIOUS] = words[liveview.GUEST_DROPPED] = MOST
    guest = guest_of(words, lambda _: [])
    assert (guest.floor_ns, guest.spurious, guest.dropped, guest.refused) == (
        1 << 32,
        MOST,
        MOST,
        0,
    )
    for word in range(liveview.GUEST_TIMER, liveview.GUEST_DROPPED + 1):
        words[word] += 1
    guest = guest_of(words, lambda _: [])
    assert (guest.timer_ns, guest.record_ns, guest.floor_ns) == (0, 0, 0)
    assert (guest.spurious, guest.dropped, guest.refused) == (0, 0, 5)


@pytest.mark.parametrize("word", [0xFF, (1 << 64) - 1, 6])
def test_a_key_of_a_broken_guest_is_passed_over(word: int) -> None:
    words = [0] * GUEST_HEAD
    words[liveview.GUEST_KEYS] = word
    words[liveview.GUEST_KEYS + 1] = KEY.encode()
    assert set(guest_of(words, lambda _: [1] * BUCKETS).series) == {KEY}


def test_values_at_the_ends_of_blocks_are_found() -> None:
    words = [0] * GUEST_HEAD
    words[liveview.GUEST_KEYS] = KEY.encode()
    counts = [0] * BUCKETS
    expected = {0: 1, 127: 2, 128: 3, 255: 4, 1000: 5, BUCKETS - 129: 6, BUCKETS - 1: 7}
    for bucket, count in expected.items():
        counts[bucket] = count
    assert guest_of(words, lambda _: counts).series == {KEY: expected}
