"""Reading: windows, order between streams, and files that end anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pvpmu.recording.file import RecordingFile
from pvpmu.recording.format import CHUNK_HEADER, FILE_HEADER, Kind, head_of
from pvpmu.recording.reader import LOST, Recording, merged
from pvpmu.shared.errors import UsageError
from pvpmu.shared.exits import Control

EXIT = head_of(Kind.EXIT, 31)


def mark(control: Control) -> int:
    return head_of(Kind.MARK, control)


def write(path: Path, *streams: Sequence[tuple[int, int]], design: str = "trap") -> Path:
    """A recording of (wall, head) records, one stream for each list."""
    recording = RecordingFile(path, {"design": design})
    rings = [recording.stream("host", vcpu) for vcpu in range(len(streams))]
    with recording:
        for ring, records in zip(rings, streams, strict=True):
            writer = ring.attach()
            for wall, head in records:
                writer.put(wall, 0, 0, head, 0, 0)
    return path


def test_streams_are_merged_by_time_and_keep_their_own_order(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [(1, EXIT), (5, EXIT), (5, EXIT)], [(2, EXIT), (5, EXIT)])
    with Recording(path) as read:
        seen = [(stream.vcpu, record.wall) for stream, record in merged(read.streams)]
    assert seen == [(0, 1), (1, 2), (0, 5), (0, 5), (1, 5)]


def test_only_what_lies_in_a_measured_window_is_given(tmp_path: Path) -> None:
    heads = [EXIT, mark(Control.RESET), EXIT, mark(Control.START), EXIT, EXIT, mark(Control.STOP)]
    records = list(enumerate([*heads, EXIT, mark(Control.START), EXIT, mark(Control.STOP), EXIT]))
    path = write(tmp_path / "run", records)
    with Recording(path) as read:
        inside = [record.wall for _, record in merged(read.streams)]
        all_of_it = [record.wall for _, record in merged(read.streams, everything=True)]
    assert inside == [3, 4, 5, 6, 8, 9, 10]
    assert all_of_it == list(range(12))


def test_without_a_window_everything_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [(0, mark(Control.RESET)), (1, EXIT)])
    with Recording(path) as read:
        assert [record.wall for _, record in merged(read.streams)] == [0, 1]


def test_a_file_cut_anywhere_gives_what_is_whole_and_says_where_it_ends(tmp_path: Path) -> None:
    whole = write(tmp_path / "run", [(number, EXIT) for number in range(5)]).read_bytes()
    records_at = whole.index(b"PVCK", whole.index(b"PVCK") + 1) + CHUNK_HEADER.size
    cut = tmp_path / "cut"
    for size in range(1, len(whole)):
        cut.write_bytes(whole[:size])
        if size < FILE_HEADER.size:
            with pytest.raises(UsageError, match=r"no recording|expected a header"):
                Recording(cut)
            continue
        with Recording(cut) as read:
            assert read.problem.startswith(f"{cut}: byte ")
            assert read.problem.endswith("; what comes before is read")
            found = [r.wall for stream in read.streams for r in stream.records()]
            assert found == list(range(min(max(size - records_at, 0) // 48, 5)))


def test_junk_behind_a_recording_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [(0, EXIT)])
    path.write_bytes(path.read_bytes() + b"junk" * 20)
    with Recording(path) as read:
        assert "no chunk begins here: b'junk'" in read.problem
        assert [stream.count for stream in read.streams] == [1]


def test_chunks_and_kinds_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [(0, head_of(200, 1)), (1, EXIT)])
    data = path.read_bytes()
    at = data.rindex(b"PVCK")
    later = CHUNK_HEADER.pack(b"PVCK", 77, 0, 3, 0, 0) + b"abc"
    path.write_bytes(data[:at] + later + data[at:])
    with Recording(path) as read:
        assert not read.problem
        assert [r.kind for stream in read.streams for r in stream.records()] == [200, Kind.EXIT]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no recording: an empty file"),
        (b"PERFILE2" + bytes(100), "no recording: begins with b'PERFILE2', expected b'PVPMUREC'"),
        (b"\x7fELF", "no recording"),
        (FILE_HEADER.pack(b"PVPMUREC", 9, 24, 48, 0), "recording of version 9, expected 1"),
        (FILE_HEADER.pack(b"PVPMUREC", 1, 24, 64, 0), "records of 64 bytes, expected 48"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "odd"
    path.write_bytes(data)
    with pytest.raises(UsageError) as error:
        Recording(path)
    assert str(error.value).startswith(f"{path}: {why}")


@pytest.mark.parametrize(
    "meta", [b"{", b"[]", b"[" * 100_000, b'{"streams":[{"side":"moon","vcpu":0}]}']
)
def test_damaged_metadata_is_refused(tmp_path: Path, meta: bytes) -> None:
    path = tmp_path / "odd"
    header = FILE_HEADER.pack(b"PVPMUREC", 1, FILE_HEADER.size, 48, 0)
    path.write_bytes(header + CHUNK_HEADER.pack(b"PVCK", 1, 0, len(meta), 0, 0) + meta)
    with pytest.raises(UsageError, match="damaged metadata"):
        Recording(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Recording(tmp_path / "none")
    with pytest.raises(UsageError, match="is a folder"):
        Recording(tmp_path)
    with pytest.raises(UsageError, match="cannot be read from a pipe or a device"):
        Recording(Path("/dev/zero"))


def test_losses_up_to_the_end_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [(7, EXIT)])
    data = path.read_bytes().replace(b'"lost":[0]', b'"lost":[3]')
    path.write_bytes(data)
    with Recording(path) as read:
        (stream,) = read.streams
        assert [(r.kind, r.a) for r in stream.records()] == [(Kind.EXIT, 0), (LOST, 3)]
