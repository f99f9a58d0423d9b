"""The event filter by itself: what the call refuses, and what an entry matches."""

import errno

import pytest

from pvpmu.host.filter import MASKED_EVENTS, Action, EventFilter, FilterError, masked_entry

BRANCHES, MISSES = 0xC4, 0x412E
ALLOW, DENY = Action.ALLOW, Action.DENY


@pytest.mark.parametrize(
    ("wrong", "number", "message"),
    [
        ({"action": 2}, errno.EINVAL, "filter action: 2 is not 0 or 1"),
        ({"action": -1}, errno.EINVAL, "filter action: -1 is not 0 or 1"),
        ({"flags": 2}, errno.EINVAL, "filter flags: 0x2 has bits beyond 0x1"),
        ({"events": (BRANCHES,) * 301}, errno.E2BIG, "filter entries: 301 is more than 300"),
        (
            {"events": (BRANCHES, 1 << 40), "flags": MASKED_EVENTS},
            errno.EINVAL,
            "filter entry 1: 0x10000000000 has bits outside 0xff8000000000ffff",
        ),
        (
            {"events": (1 << 32,), "flags": MASKED_EVENTS},
            errno.EINVAL,
            "filter entry 0: 0x100000000 has bits outside 0xff8000000000ffff",
        ),
        ({"events": (1 << 64,)}, errno.EINVAL, "has bits outside 0xffffffffffffffff"),
        ({"events": (-1,)}, errno.EINVAL, "filter entry 0: -0x1 has bits outside"),
    ],
)
def test_a_wrong_filter_is_refused_with_one_line_and_its_errno(
    wrong: dict[str, object], number: int, message: str
) -> None:
    with pytest.raises(FilterError) as caught:
        EventFilter(**{"action": ALLOW} | wrong)  # type: ignore[arg-type]
    assert caught.value.errno == number
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "good",
    [
        {"events": (1 << 40,)},
        {"events": (masked_entry(0xFF, 0xFF, 0xFF, exclude=True),), "flags": MASKED_EVENTS},
        {"events": tuple(range(300))},
        {"fixed_counters": (1 << 64) - 1},
    ],
)
def test_what_kvm_takes_is_taken(good: dict[str, object]) -> None:
    EventFilter(**{"action": ALLOW} | good)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("action", "events", "branches", "misses"),
    [
        (DENY, (BRANCHES, MISSES), False, False),
        (ALLOW, (BRANCHES, MISSES), True, True),
        (DENY, (0xC5,), True, True),
        (ALLOW, (0xC5,), False, False),
        (DENY, (), True, True),
        (ALLOW, (), False, False),
        (DENY, (BRANCHES,), False, True),
        (ALLOW, (MISSES,), False, True),
    ],
)
def test_a_list_allows_or_denies_what_it_names(
    action: Action, events: tuple[int, ...], branches: bool, misses: bool
) -> None:
    event_filter = EventFilter(action, events)
    assert event_filter.allows_event(BRANCHES) == branches
    assert event_filter.allows_event(MISSES) == misses


def test_only_event_select_and_umask_of_a_selector_are_compared() -> None:
    event_filter = EventFilter(DENY, (BRANCHES,))
    assert not event_filter.allows_event(0xFFFF_0000 | BRANCHES)
    assert event_filter.allows_event(0x100 | BRANCHES)


def test_an_impossible_plain_entry_matches_nothing() -> None:
    assert EventFilter(DENY, (1 << 40 | BRANCHES, 1 << 35 | MISSES)).allows_event(BRANCHES)


UMASKS = (0x81, 0x82, 0x83)


@pytest.mark.parametrize(
    ("entries", "counted"),
    [
        ([masked_entry(0xD0, 0xFF, 0x81)], {0x81}),
        ([masked_entry(0xD0, 0xFF, 0x82)], {0x82}),
        ([masked_entry(0xD0, 0xFF, 0x81), masked_entry(0xD0, 0xFF, 0x82)], {0x81, 0x82}),
        ([masked_entry(0xD0, 0x7C, 0)], {0x81, 0x82, 0x83}),
        ([masked_entry(0xD0, 0x7C, 0), masked_entry(0xD0, 0xFF, 0x83, exclude=True)], {0x81, 0x82}),
        ([masked_entry(0xD0, 0xFF, 0x83, exclude=True), masked_entry(0xD0, 0x01, 1)], {0x81}),
        ([masked_entry(0xD0, 0xFF, 0x83, exclude=True)], set()),
        ([masked_entry(0xD1, 0, 0)], set()),
        ([masked_entry(0xD0, 0x01, 0x02)], set()),
    ],
)
@pytest.mark.parametrize("action", Action)
def test_a_masked_entry_matches_where_umask_and_mask_equal_match(
    action: Action, entries: list[int], counted: set[int]
) -> None:
    event_filter = EventFilter(action, tuple(entries), flags=MASKED_EVENTS)
    matched = {u for u in UMASKS if event_filter.allows_event(0xD0 | u << 8)}
    assert matched == (counted if action is ALLOW else set(UMASKS) - counted)


@pytest.mark.parametrize("bitmap", [0, 1, 2, 4, 7, 8])
def test_fixed_counters_go_by_the_bitmap_alone(bitmap: int) -> None:
    every_event = tuple(range(256))
    for number in range(3):
        listed = bool(bitmap >> number & 1)
        assert EventFilter(ALLOW, every_event, bitmap).allows_fixed(number) == listed
        assert EventFilter(DENY, every_event, bitmap).allows_fixed(number) != listed
