"""What perf record in the guest would have taken."""

from __future__ import annotations

from typing import Any

import pytest

from pvpmu.recording.reader import Stream
from pvpmu.recording.samples import guest_events, guests_of, phases_of, program_of, samples
from pvpmu.shared.errors import UsageError


def stream(**meta: Any) -> Stream:
    return Stream(0, "guest", 0, meta, -1)


def test_each_sample_of_the_windows_comes_once(page_run: Any) -> None:
    with page_run.open() as recording:
        guests = guests_of(recording.streams)
        taken = list(samples(guests))
    assert len(taken) == sum(report.counts.samples for report in page_run.reports)
    assert [time for time, _, _ in taken] == sorted(time for time, _, _ in taken)


def test_a_second_run_follows_the_first_on_the_clock(page_run: Any) -> None:
    with page_run.open() as recording:
        guests = guests_of(recording.streams)
        times = [time for time, _, _ in samples(guests)]
    first = [time for time in times if time <= 20_000_000]
    assert len(first) == sum(report.counts.samples for report in page_run.reports[:2])


def test_events_have_their_kind_modes_and_frequency(page_run: Any) -> None:
    with page_run.open() as recording:
        events = guest_events(guests_of(recording.streams))
    assert [(e.name, e.kind, e.modes, e.frequency) for e in events] == [
        ("cpu-cycles", 0, 3, 4000),
        ("instructions", 1, 3, 4000),
        ("branch-instructions", 5, 3, 4000),
        ("cache-misses", 4, 3, 4000),
    ]


def test_a_recording_of_the_host_has_none() -> None:
    with pytest.raises(UsageError, match="a recording of the host alone has no samples"):
        guests_of([Stream(0, "host", 0, {}, -1)])


def test_guests_with_different_events_are_refused() -> None:
    one = [{"name": "a", "kind": 0}]
    with pytest.raises(UsageError, match="different events"):
        guest_events([stream(events=one), stream(events=[])])


@pytest.mark.parametrize("events", [[{}], [7], "x", 7, [{"name": "a", "kind": 99}]])
def test_damaged_events_are_refused(events: Any) -> None:
    with pytest.raises(UsageError, match="damaged metadata"):
        guest_events([stream(events=events)])


def test_a_program_has_a_name_and_code_whatever_the_file_says() -> None:
    assert program_of(stream()) == "guest"
    assert program_of(stream(scenario="a-very-long-name-of-a-scenario")) == "a-very-long-nam"
    assert phases_of(stream(code=64)) == 64
    assert phases_of(stream(code="x")) == phases_of(stream(code=-1)) == phases_of(stream()) == 0
