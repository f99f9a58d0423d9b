"""Files: what is put into rings comes out, what does not get there is counted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pvpmu.recording import file
from pvpmu.recording.file import RecordingFile, append_recording
from pvpmu.recording.format import Kind, head_of
from pvpmu.recording.reader import LOST, Recording
from pvpmu.recording.ring import RingWriter
from pvpmu.shared.errors import ResourceError, UsageError

MARK = head_of(Kind.MARK, 9)


def put(writer: RingWriter, *numbers: int) -> None:
    for number in numbers:
        writer.put(number, 0, 0, MARK, number, 0)


def wait_for(condition: Callable[[], object]) -> None:
    """The recording's thread gets there by itself."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0)


def walls(path: Path) -> list[list[int]]:
    with Recording(path) as recording:
        assert not recording.problem
        return [[r.wall for r in stream.records()] for stream in recording.streams]


def test_each_stream_has_its_records_in_order(tmp_path: Path) -> None:
    path = tmp_path / "run"
    recording = RecordingFile(path, {"design": "trap"})
    host, guest = recording.stream("host", 0), recording.stream("guest", 0)
    with recording:
        put(host.attach(), *range(1000))
        put(guest.attach(), 5, 6)
    assert walls(path) == [list(range(1000)), [5, 6]]
    assert (recording.outcome.written, recording.outcome.lost) == (1002, 0)
    assert recording.outcome.warning == ""


def test_more_than_a_ring_holds_is_written_while_it_comes(tmp_path: Path) -> None:
    recording = RecordingFile(tmp_path / "run", {}, records=64)
    ring = recording.stream("host", 0)
    with recording:
        writer = ring.attach()
        number = 0
        while recording._streams[0].written < 500:
            put(writer, number)
            number += 1
    written, lost = recording.outcome.written, recording.outcome.lost
    assert written + lost == number
    with Recording(tmp_path / "run") as read:
        (stream,) = read.streams
        assert stream.lost == lost
        assert sum(r.a if r.kind == LOST else 1 for r in stream.records()) == number


def test_drops_are_in_the_file_where_they_happened(tmp_path: Path) -> None:
    path = tmp_path / "run"
    recording = RecordingFile(path, {}, records=4)
    ring = recording.stream("guest", 1)
    writer = ring.attach()
    # Before the thread's first look there is no room for two of these.
    put(writer, *range(1, 7))
    with recording:
        wait_for(lambda: recording._streams[0].written)
        put(writer, 7, 8)
    assert recording.outcome.lost == 2
    assert recording.outcome.warning == f"{path}: 2 of 8 records lost: the rings were full"
    with Recording(path) as read:
        (stream,) = read.streams
        assert stream.lost == 2
        found = [(r.kind == LOST and f"{r.a} lost") or r.wall for r in stream.records()]
        assert found == [1, 2, 3, 4, "2 lost", 7, 8]


def test_a_full_disk_loses_records_and_says_so() -> None:
    recording = RecordingFile(Path("/dev/full"), {})
    ring = recording.stream("host", 0)
    with recording:
        put(ring.attach(), 1, 2, 3)
    assert recording.outcome.lost == 3
    assert recording.outcome.warning == ("/dev/full: 3 of 3 records lost: No space left on device")


def test_several_may_record_to_one_device() -> None:
    with RecordingFile(Path(os.devnull), {}) as one, RecordingFile(Path(os.devnull), {}) as other:
        rings = [recording.stream("host", 0) for recording in (one, other)]
        for ring in rings:
            put(ring.attach(), 1)
    assert [recording.outcome.lost for recording in (one, other)] == [0, 0]


def test_a_chunk_that_did_not_fit_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    recording = RecordingFile(path, {})
    ring = recording.stream("host", 0)
    whole = os.writev
    with recording:
        writer = ring.attach()
        put(writer, 1)
        wait_for(lambda: recording._streams[0].written)

        def half(handle: int, parts: list[memoryview]) -> int:
            os.write(handle, parts[0][:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "writev", half)
        put(writer, 2, 3)
        wait_for(lambda: recording._streams[0].discarded)
        monkeypatch.setattr(os, "writev", whole)
    with Recording(path) as read:
        assert read.problem == f"{path}: not all was written: No space left on device"
        (stream,) = read.streams
        assert [r.wall for r in stream.records() if r.kind != LOST] == [1]
        assert stream.lost == 2


def test_recordings_can_be_put_one_behind_the_other(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for number, path in enumerate(paths):
        recording = RecordingFile(path, {"design": path.name})
        ring = recording.stream("host", 0)
        with recording:
            put(ring.attach(), number)
    append_recording(*paths)
    assert walls(paths[0]) == [[0], [1]]
    with Recording(paths[0]) as read:
        assert read.designs == ["one", "two"]


def test_a_section_can_be_written_behind_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for number in range(2):
        recording = RecordingFile(path, {}, append=bool(number))
        ring = recording.stream("host", 0)
        with recording:
            put(ring.attach(), number)
    assert walls(path) == [[0], [1]]


def test_a_file_that_somebody_records_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = RecordingFile(path, {})
    with first, pytest.raises(UsageError, match="somebody else records to it"):
        RecordingFile(path, {})


def test_a_ring_takes_no_memory_that_others_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9999 kB\nMemAvailable:     100 kB\n")
    monkeypatch.setattr(file, "_MEMINFO", meminfo)
    recording = RecordingFile(tmp_path / "run", {}, records=960)
    ring = recording.stream("host", 0)
    with pytest.raises(ResourceError, match=r"102,400 bytes of memory are available"):
        RecordingFile(tmp_path / "other", {}, records=1000).stream("host", 3)
    with pytest.raises(ResourceError, match=r"rings of 100,352 bytes, up to guest vCPU 0"):
        recording.stream("guest", 0)
    with recording:
        put(ring.attach(), 1)
    assert walls(tmp_path / "run") == [[1]]


@pytest.mark.parametrize("text", ["", "MemFree: 1 kB\n"])
def test_where_nobody_says_how_much_memory_there_is_rings_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    meminfo = tmp_path / "meminfo"
    if text:
        meminfo.write_text(text)
    monkeypatch.setattr(file, "_MEMINFO", meminfo)
    recording = RecordingFile(tmp_path / "run", {})
    recording.stream("host", 0)
    with recording:
        pass


@pytest.mark.parametrize("name", ["", "missing/run"])
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        RecordingFile(tmp_path / name, {})


def test_another_process_writes_to_an_inherited_ring(tmp_path: Path) -> None:
    path = tmp_path / "run"
    recording = RecordingFile(path, {})
    ring = recording.stream("host", 0)
    with recording:
        child = os.fork()
        if not child:
            put(ring.attach(), 1, 2, 3)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert walls(path) == [[1, 2, 3]]
