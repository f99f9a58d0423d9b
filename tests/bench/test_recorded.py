"""The recording of a bench: what was counted, to the last one, and what is said where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pvpmu.bench.checks import outcomes
from pvpmu.bench.measure import Measured, measure
from pvpmu.bench.recorded import as_counted, missing, read_back
from pvpmu.recording.file import Outcome
from pvpmu.recording.options import RecordTo
from pvpmu.recording.reader import Recording

from .conftest import quiet, short_config

NAME = "the recording holds what was counted, to the last one"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorded") / "run"


@pytest.fixture(scope="module")
def made(file: Path) -> Measured:
    return measure(short_config(record_to=RecordTo(file)), quiet)


def test_it_holds_every_run_of_every_vcpu_and_design(made: Measured, file: Path) -> None:
    with Recording(file) as recording:
        assert not recording.problem
        assert recording.designs == ["trap-5.14", "trap", "page"]
        assert [(s.side, s.vcpu) for s in recording.streams] == [
            (side, vcpu) for _ in range(3) for vcpu in (0, 1) for side in ("host", "guest")
        ]
    for name, totals in made.totals.items():
        assert totals.runs == 4
        assert as_counted(made.recorded[name], totals)


def test_the_check_is_made_where_there_is_a_recording(made: Measured, file: Path) -> None:
    config = short_config(record_to=RecordTo(file))
    checks = outcomes(config, made, [])["checks"]
    assert {"name": NAME, "ok": True} in checks
    without = outcomes(replace(config, record_to=None), made, [])
    assert NAME not in str(without)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("samples", 1),
        ("handlers", -1),
        ("spurious", 1),
        ("lost", 1),
        ("exits", {32: 1}),
        ("exits_host", {("wrmsr", 0x38F): 1}),
        ("accesses", {("rdpmc", 0): -1}),
        ("pmi", {"raised": 1}),
    ],
)
def test_one_more_or_less_of_anything_is_noticed(
    made: Measured, file: Path, name: str, change: Any
) -> None:
    recorded = read_back(RecordTo(file))["page"]
    was = getattr(recorded, name)
    if isinstance(change, dict):
        was.update(change)
    else:
        setattr(recorded, name, was + change)
    assert not as_counted(recorded, made.totals["page"])


def test_a_recording_that_loses_records_fails_the_check(tmp_path: Path) -> None:
    tiny = RecordTo(tmp_path / "run", records=100)
    config = replace(short_config(record_to=tiny, runs=1, vcpus=1))
    measured = measure(config, quiet)
    (check,) = [c for c in outcomes(config, measured, [])["checks"] if c["name"] == NAME]
    assert not check["ok"]
    lacking = missing(measured.recordings.values())
    assert lacking is not None
    assert lacking.lost > 0
    assert lacking.warning.endswith("records lost: the rings were full")


def test_a_full_disk_ends_no_bench() -> None:
    config = short_config(record_to=RecordTo(Path("/dev/full")), runs=1, vcpus=1)
    measured = measure(config, quiet)
    assert measured.recorded == {}
    lacking = missing(measured.recordings.values())
    assert lacking is not None
    assert lacking.warning.endswith("records lost: No space left on device")


def test_nothing_is_missing_where_nothing_was_lost() -> None:
    assert missing([Outcome(Path("run"), 5, 0, "")]) is None
