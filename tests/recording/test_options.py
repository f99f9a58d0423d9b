"""--record and --record-buffer."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvpmu.recording.file import RING_RECORDS, Outcome
from pvpmu.recording.options import RecordTo, add_record_options, record_to, warn
from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import CommandParser


def parsed(*arguments: str) -> RecordTo | None:
    parser = CommandParser()
    add_record_options(parser)
    return record_to(parser.parse_args(arguments))


def test_nothing_is_recorded_unless_it_is_asked_for() -> None:
    assert parsed() is None


def test_the_buffer_is_given_in_mebibytes(tmp_path: Path) -> None:
    file = tmp_path / "run"
    assert parsed("--record", str(file)) == RecordTo(file, RING_RECORDS)
    assert parsed("--record", str(file), "--record-buffer", "1") == RecordTo(file, (1 << 20) // 48)


@pytest.mark.parametrize("size", ["0", "-1", "x", "1025"])
def test_a_buffer_of_no_size_is_refused(tmp_path: Path, size: str) -> None:
    with pytest.raises(UsageError):
        parsed("--record", str(tmp_path / "run"), "--record-buffer", size)


def test_the_options_can_be_handed_on(tmp_path: Path) -> None:
    to = parsed("--record", str(tmp_path / "run"), "--record-buffer", "3")
    assert to is not None
    assert parsed(*to.options) == to


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        parsed("--record", str(tmp_path))


def test_standard_output_is_no_recording() -> None:
    with pytest.raises(UsageError, match="--record -: a recording is a file"):
        parsed("--record", "-")


def test_a_result_does_not_go_to_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = CommandParser()
    add_record_options(parser)
    given = parser.parse_args(["--record", "run"])
    with pytest.raises(UsageError, match="is where the result goes"):
        record_to(given, str(tmp_path / "run"))
    assert record_to(given, "other") == record_to(given, "-") == record_to(given)
    nowhere = parser.parse_args(["--record", "/dev/null"])
    assert record_to(nowhere, "/dev/null") is not None


def test_only_what_is_missing_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    warn("pvpmu-host", Outcome(Path("run"), 5, 0, ""))
    assert capsys.readouterr().err == ""
    warn("pvpmu-host", Outcome(Path("run"), 5, 2, ""))
    assert capsys.readouterr().err == (
        "pvpmu-host: warning: run: 2 of 7 records lost: the rings were full\n"
    )
    warn("pvpmu-host", Outcome(Path("run"), 5, 0, "Input/output error"))
    assert capsys.readouterr().err == "pvpmu-host: warning: run: Input/output error\n"
