"""One writer, one reader, bounded memory: order is kept, what does not fit is counted."""

from hypothesis import given
from hypothesis import strategies as st

from pvpmu.recording.format import RECORD
from pvpmu.recording.ring import RingReader, RingWriter, Run, capacity_of, ring_bytes


def ring(capacity: int) -> tuple[RingWriter, RingReader]:
    window = memoryview(bytearray(ring_bytes(capacity)))
    assert capacity_of(window) == capacity
    return RingWriter(window), RingReader(window)


def put(writer: RingWriter, number: int) -> None:
    writer.put(number, 1, 2, 3, 4, 5)


def take(reader: RingReader) -> list[int]:
    runs = reader.look()
    reader.take(runs)
    return [number for _, numbers in told(runs) for number in numbers]


def told(runs: list[Run]) -> list[tuple[int, list[int]]]:
    return [
        (run.dropped, [words[0] for piece in run.pieces for words in RECORD.iter_unpack(piece)])
        for run in runs
    ]


def test_records_come_out_in_order_also_where_the_ring_wraps() -> None:
    writer, reader = ring(4)
    seen = []
    for number in range(10):
        put(writer, number)
        if number % 3 == 2:
            seen += take(reader)
    assert seen + take(reader) == list(range(10))
    assert reader.dropped == 0


def test_a_full_ring_drops_the_newest_and_counts_them() -> None:
    writer, reader = ring(3)
    for number in range(8):
        put(writer, number)
    assert reader.dropped == 5
    assert take(reader) == [0, 1, 2]
    put(writer, 8)
    assert take(reader) == [8]
    assert reader.dropped == 5


def test_what_was_looked_at_stays_until_it_is_taken() -> None:
    writer, reader = ring(2)
    put(writer, 1)
    assert reader.look() == reader.look()
    put(writer, 2)
    put(writer, 3)
    assert reader.dropped == 1
    assert take(reader) == [1, 2]
    assert reader.look() == []


def test_a_writer_that_starts_anew_goes_on_where_the_last_one_ended() -> None:
    window = memoryview(bytearray(ring_bytes(4)))
    reader = RingReader(window)
    put(RingWriter(window), 1)
    put(RingWriter(window), 2)
    assert take(reader) == [1, 2]


def test_a_run_says_how_many_were_dropped_before_it() -> None:
    writer, reader = ring(4)
    for number in range(3):
        put(writer, number)
    early = reader.look()
    for number in range(3, 6):
        put(writer, number)
    reader.take(early)
    for number in range(6, 10):
        put(writer, number)
    # 4 and 5 found no room, nor did 9, which nothing follows yet.
    assert told(reader.look()) == [(0, [3]), (2, [6, 7, 8])]
    assert take(reader) == [3, 6, 7, 8]
    put(writer, 10)
    assert told(reader.look()) == [(3, [10])]


def test_a_writer_that_starts_anew_notes_what_the_last_one_dropped() -> None:
    window = memoryview(bytearray(ring_bytes(2)))
    reader = RingReader(window)
    first = RingWriter(window)
    for number in range(5):
        put(first, number)
    assert take(reader) == [0, 1]
    put(RingWriter(window), 5)
    assert told(reader.look()) == [(3, [5])]


@given(st.integers(1, 5), st.lists(st.integers(0, 5), max_size=60))
def test_each_run_begins_where_records_were_dropped(capacity: int, steps: list[int]) -> None:
    """``steps``: 0 looks, 1 takes what the last look gave, else a record is written."""
    writer, reader = ring(capacity)
    seen: list[tuple[int, list[int]]] = []
    looked: list[Run] = []
    number = 0
    for step in [*steps, 1, 0, 1]:
        if step == 0:
            looked = reader.look()
        elif step == 1:
            seen += told(looked)
            reader.take(looked)
            looked = []
        else:
            put(writer, number)
            number += 1
    taken = 0
    for dropped, numbers in seen:
        # Of all that was put before it, what was not taken was dropped.
        assert numbers == list(range(taken + dropped, taken + dropped + len(numbers)))
        taken += len(numbers)


@given(st.integers(1, 5), st.lists(st.integers(0, 3), max_size=60))
def test_nothing_is_lost_but_what_is_counted(capacity: int, takes: list[int]) -> None:
    writer, reader = ring(capacity)
    seen: list[int] = []
    for number, often in enumerate(takes):
        put(writer, number)
        if not often:
            seen += take(reader)
    seen += take(reader)
    assert seen == sorted(set(seen))
    assert len(seen) + reader.dropped == len(takes)
