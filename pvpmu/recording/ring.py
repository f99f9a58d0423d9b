"""A ring of records in memory that two processes share: one writer, one reader. Pure.

Layout: a page of control words, one cache line for each writer, then ``capacity`` records. The
writer counts records written and records dropped, the reader records taken; ``written`` is stored
after the record, so that what it counts is whole.

**Invariants**: one writer, which never waits: a record that finds the ring full is dropped, and
counted; memory does not depend on what is recorded.
"""

from __future__ import annotations

from pvpmu.recording.format import RECORD, RECORD_BYTES
from pvpmu.shared.layout import Layout, Owner

CONTROL_BYTES = 4096

_LAYOUT = Layout("pvpmu_ring", CONTROL_BYTES)
_LAYOUT.line(Owner.GUEST)
WRITTEN = _LAYOUT.word("written", "records written, by the writer")
DROPPED = _LAYOUT.word("dropped", "records that found the ring full, by the writer")
_LAYOUT.line(Owner.HOST)
TAKEN = _LAYOUT.word("taken", "records taken, by the reader")


def ring_bytes(capacity: int) -> int:
    """Bytes of a ring of so many records."""
    return CONTROL_BYTES + capacity * RECORD_BYTES


def capacity_of(window: memoryview[int]) -> int:
    """Records that a ring in ``window`` (bytes) holds."""
    return (len(window) - CONTROL_BYTES) // RECORD_BYTES


class RingWriter:
    """The writer's end. ``window``: the ring's bytes, zeroed before the first writer."""

    __slots__ = ("_capacity", "_limit", "_next", "_pack", "_records", "_words")

    def __init__(self, window: memoryview[int]) -> None:
        self._words = window[:CONTROL_BYTES].cast("Q")
        self._records = window[CONTROL_BYTES:]
        self._capacity = capacity_of(window)
        self._next = self._words[WRITTEN]
        self._limit = self._words[TAKEN] + self._capacity
        self._pack = RECORD.pack_into

    def put(self, wall: int, now: int, cycles: int, head: int, a: int, b: int) -> None:
        """Write one record of six 64-bit words, or drop it."""
        place = self._next
        if place == self._limit:
            self._limit = self._words[TAKEN] + self._capacity
            if place == self._limit:
                self._words[DROPPED] += 1
                return
        at = place % self._capacity * RECORD_BYTES
        # pack_into stores zeros first; nobody looks before the count below says so.
        self._pack(self._records, at, wall, now, cycles, head, a, b)
        self._next = self._words[WRITTEN] = place + 1


class RingReader:
    """The reader's end."""

    __slots__ = ("_capacity", "_records", "_taken", "_words")

    def __init__(self, window: memoryview[int]) -> None:
        self._words = window[:CONTROL_BYTES].cast("Q")
        self._records = window[CONTROL_BYTES:]
        self._capacity = capacity_of(window)
        self._taken = self._words[TAKEN]

    @property
    def dropped(self) -> int:
        """Records that were dropped so far."""
        return self._words[DROPPED]

    def look(self) -> list[memoryview[int]]:
        """The bytes of all records that wait, in order: no piece, one, or two where it wraps."""
        waiting = min(self._words[WRITTEN] - self._taken, self._capacity)
        if not waiting:
            return []
        first = self._taken % self._capacity
        whole = min(waiting, self._capacity - first)
        pieces = [self._records[first * RECORD_BYTES : (first + whole) * RECORD_BYTES]]
        if waiting > whole:
            pieces.append(self._records[: (waiting - whole) * RECORD_BYTES])
        return pieces

    def take(self, pieces: list[memoryview[int]]) -> None:
        """Give the room of what :meth:`look` returned back to the writer."""
        self._taken += sum(map(len, pieces)) // RECORD_BYTES
        self._words[TAKEN] = self._taken

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._records.release()
