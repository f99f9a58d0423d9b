"""The host's live entries in the exit slot: what counts, and how far each is from overflow.

The host is believed in what it counts, but no entry of a broken one leads out of range.
"""

from __future__ import annotations

from pvpmu.shared import exits
from pvpmu.shared.errors import PeerError
from pvpmu.shared.events import KINDS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER, SlotWords, load_words

_AT = exits.LIVE_AT
_MOST = next(field.count for field in exits.SLOT.fields if field.index == _AT) // 2
_MODES = MODE_USER | MODE_KERNEL
_KNOWN = {
    kind | modes << exits.LIVE_MODE_SHIFT: (kind, modes)
    for kind in range(KINDS)
    for modes in range(_MODES + 1)
}
"""Kind and modes by descriptor, of those that there can be."""


def live_entries(slot: SlotWords) -> list[list[int]]:
    """Kind, modes and distance of each; raises :class:`PeerError` for what rule BND-16 excludes."""
    count = slot[exits.LIVE_COUNT]
    if count > _MOST:
        raise PeerError(f"the host has {count} live entries, at most {_MOST} fit the slot")
    words = load_words(slot, _AT, 2 * count)
    entries: list[list[int]] = []
    for descriptor, distance in zip(words[::2], words[1::2], strict=True):
        if descriptor not in _KNOWN or not distance:
            kind, modes = descriptor & 0xFF, descriptor >> exits.LIVE_MODE_SHIFT
            raise PeerError(
                f"the host's live entry {len(entries)} has event kind {kind}, modes {modes:#x} and "
                f"distance {distance}; expected a kind below {KINDS}, modes within {_MODES:#x} and "
                "a distance of 1 or more"
            )
        entries.append([*_KNOWN[descriptor], distance])
    return entries
