"""A ring of records in memory that two processes share: one writer, one reader. Pure.

Layout: a page of control words, cache lines of each writer's own, then ``capacity`` records. The
writer counts records written and records dropped, the reader records taken; ``written`` is stored
after the record, so that what it counts is whole. Where records follow dropped ones the writer
notes the place and how many have been dropped by then: a ring that is full can only go on once the
reader has taken from it, so that few such places lie between two looks of the reader.

**Invariants**: one writer, which never waits: a record that finds the ring full is dropped, and
counted; memory does not depend on what is recorded.
"""

from __future__ import annotations

from typing import NamedTuple

from pvpmu.recording.format import RECORD, RECORD_BYTES
from pvpmu.shared.layout import Layout, Owner

CONTROL_BYTES = 4096
_RESUMES_KEPT = 8
"""More than can lie between two looks: at most two."""

_LAYOUT = Layout("pvpmu_ring", CONTROL_BYTES)
_LAYOUT.line(Owner.GUEST)
WRITTEN = _LAYOUT.word("written", "records written, by the writer")
DROPPED = _LAYOUT.word("dropped", "records that found the ring full, by the writer")
RESUMES = _LAYOUT.word("resumes", "how often records followed dropped ones, by the writer")
_LAYOUT.line(Owner.GUEST)
RESUME_AT = _LAYOUT.word("resume_at", "number of the record that followed", count=_RESUMES_KEPT)
_LAYOUT.line(Owner.GUEST)
RESUME_DROPPED = _LAYOUT.word("resume_dropped", "records dropped by then", count=_RESUMES_KEPT)
_LAYOUT.line(Owner.HOST)
TAKEN = _LAYOUT.word("taken", "records taken, by the reader")


def ring_bytes(capacity: int) -> int:
    """Bytes of a ring of so many records."""
    return CONTROL_BYTES + capacity * RECORD_BYTES


def capacity_of(window: memoryview[int]) -> int:
    """Records that a ring in ``window`` (bytes) holds."""
    return (len(window) - CONTROL_BYTES) // RECORD_BYTES


class Run(NamedTuple):
    """Records that follow each other. ``dropped``: records dropped before them since the start.

    ``pieces``: their bytes in order, two where the ring wraps.
    """

    dropped: int
    pieces: list[memoryview[int]]

    @property
    def records(self) -> int:
        """How many."""
        return sum(map(len, self.pieces)) // RECORD_BYTES


class RingWriter:
    """The writer's end. ``window``: the ring's bytes, zeroed before the first writer."""

    __slots__ = ("_capacity", "_drops", "_limit", "_next", "_pack", "_records", "_words")

    def __init__(self, window: memoryview[int]) -> None:
        self._words = window[:CONTROL_BYTES].cast("Q")
        self._records = window[CONTROL_BYTES:]
        self._capacity = capacity_of(window)
        self._next = self._words[WRITTEN]
        resumes = self._words[RESUMES]
        told = self._words[RESUME_DROPPED + (resumes - 1) % _RESUMES_KEPT] if resumes else 0
        self._drops = self._words[DROPPED] != told
        # After drops the first record has to note its place.
        self._limit = self._next if self._drops else self._words[TAKEN] + self._capacity
        self._pack = RECORD.pack_into

    def put(self, wall: int, now: int, cycles: int, head: int, a: int, b: int) -> None:
        """Write one record of six 64-bit words, or drop it."""
        place = self._next
        if place == self._limit:
            self._limit = self._words[TAKEN] + self._capacity
            if place == self._limit:
                self._words[DROPPED] += 1
                self._drops = True
                return
            if self._drops:
                self._resume(place)
        at = place % self._capacity * RECORD_BYTES
        # pack_into stores zeros first; nobody looks before the count below says so.
        self._pack(self._records, at, wall, now, cycles, head, a, b)
        self._next = self._words[WRITTEN] = place + 1

    def _resume(self, place: int) -> None:
        number = self._words[RESUMES]
        self._words[RESUME_AT + number % _RESUMES_KEPT] = place
        self._words[RESUME_DROPPED + number % _RESUMES_KEPT] = self._words[DROPPED]
        self._words[RESUMES] = number + 1
        self._drops = False


class RingReader:
    """The reader's end."""

    __slots__ = ("_capacity", "_dropped", "_records", "_resumes", "_taken", "_words")

    def __init__(self, window: memoryview[int]) -> None:
        self._words = window[:CONTROL_BYTES].cast("Q")
        self._records = window[CONTROL_BYTES:]
        self._capacity = capacity_of(window)
        self._taken = self._words[TAKEN]
        self._resumes = self._words[RESUMES]
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Records that were dropped so far."""
        return self._words[DROPPED]

    def look(self) -> list[Run]:
        """All records that wait, in order: a run for each place where some were dropped."""
        first = self._taken
        end = first + min(self._words[WRITTEN] - first, self._capacity)
        runs: list[Run] = []
        dropped = self._dropped
        for number in range(self._resumes, self._words[RESUMES]):
            place = self._words[RESUME_AT + number % _RESUMES_KEPT]
            if not first <= place < end:
                break
            if place > first:
                runs.append(Run(dropped, self._pieces(first, place)))
            first, dropped = place, self._words[RESUME_DROPPED + number % _RESUMES_KEPT]
        if end > first:
            runs.append(Run(dropped, self._pieces(first, end)))
        return runs

    def take(self, runs: list[Run]) -> None:
        """Give the room of what :meth:`look` returned back to the writer."""
        if not runs:
            return
        self._taken += sum(run.records for run in runs)
        self._dropped = runs[-1].dropped
        while (
            self._resumes < self._words[RESUMES]
            and self._words[RESUME_AT + self._resumes % _RESUMES_KEPT] < self._taken
        ):
            self._resumes += 1
        self._words[TAKEN] = self._taken

    def _pieces(self, first: int, end: int) -> list[memoryview[int]]:
        at = first % self._capacity
        whole = min(end - first, self._capacity - at)
        pieces = [self._records[at * RECORD_BYTES : (at + whole) * RECORD_BYTES]]
        if end - first > whole:
            pieces.append(self._records[: (end - first - whole) * RECORD_BYTES])
        return pieces

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._records.release()
