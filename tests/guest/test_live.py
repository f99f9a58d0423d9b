"""The host's live entries: taken as they are, or refused in one line."""

import pytest

from pvpmu.guest.live import live_entries
from pvpmu.shared import exits
from pvpmu.shared.errors import PeerError

BRANCHES, BOTH = 5, 3


def slot_with(*entries: tuple[int, int], count: int | None = None) -> memoryview:
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    for number, (descriptor, distance) in enumerate(entries):
        slot[exits.LIVE_AT + 2 * number] = descriptor
        slot[exits.LIVE_AT + 2 * number + 1] = distance
    slot[exits.LIVE_COUNT] = len(entries) if count is None else count
    return slot


def test_an_entry_is_kind_modes_and_distance() -> None:
    slot = slot_with((BRANCHES | BOTH << 8, 1 << 48), (0, 1))
    assert live_entries(slot) == [[BRANCHES, BOTH, 1 << 48], [0, 0, 1]]
    assert live_entries(slot_with()) == []


@pytest.mark.rule("BND-16")
@pytest.mark.parametrize(
    ("entry", "says"),
    [((7, 1), "kind 7"), ((4 << 8, 1), "modes 0x4"), ((BRANCHES, 0), "distance 0")],
)
def test_what_no_silicon_counts_is_refused(entry: tuple[int, int], says: str) -> None:
    with pytest.raises(PeerError, match=rf"live entry 1 has .*{says}"):
        live_entries(slot_with((0, 1), entry))


@pytest.mark.parametrize("count", [20, 1 << 63])
def test_more_than_fit_the_slot_are_refused(count: int) -> None:
    with pytest.raises(PeerError, match=f"{count} live entries, at most 19"):
        live_entries(slot_with(count=count))
