"""Whatever bytes a recording holds: it is read, exported or refused, never a defect of ours."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvpmu.cli import main
from pvpmu.recording.chrome import chrome
from pvpmu.recording.file import RecordingFile
from pvpmu.recording.format import Kind, head_of
from pvpmu.recording.jsonl import jsonl
from pvpmu.recording.perfdata import write_kvm, write_samples
from pvpmu.recording.reader import Recording, merged
from pvpmu.recording.samples import guests_of, samples
from pvpmu.recording.text import ftrace, ftrace_guest, perf_script, perf_script_samples
from pvpmu.shared.errors import UsageError
from pvpmu.shared.units import U64_MASK

WORD = st.one_of(st.integers(0, 5), st.integers(0, U64_MASK), st.just(U64_MASK))
HEAD = st.builds(
    head_of,
    st.one_of(st.sampled_from([int(kind) for kind in Kind]), st.integers(0, 255)),
    st.integers(0, 255),
    st.integers(0, 0xFFFF),
    st.one_of(st.integers(0, 0xFFFF_FFFF), st.sampled_from([0x38F, 0x4C1, 1 << 30])),
)
RECORDS = st.lists(st.tuples(WORD, WORD, WORD, HEAD, WORD, WORD), max_size=12)
EVENTS = [{"name": "cpu-cycles", "kind": 0}, {"name": "cache-misses", "kind": 4}]
EVERYTHING = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def written(path: Path, *sides: list[tuple[int, ...]], **meta: Any) -> Path:
    recording = RecordingFile(path, {"design": "odd", "events": EVENTS, **meta}, records=64)
    rings = [recording.stream(side, 0) for side in ("host", "guest")]
    with recording:
        for ring, records in zip(rings, sides, strict=True):
            writer = ring.attach()
            for record in records:
                writer.put(*record)
    return path


def export(path: Path) -> None:
    """Every format, of both sides."""
    with Recording(path) as recording:
        streams = recording.streams
        for line in jsonl(merged(streams, everything=True), recording.sections):
            json.loads(line)
        json.loads("".join(chrome(merged(streams, everything=True), {})))
        for write in (ftrace, ftrace_guest, perf_script):
            assert all(line.endswith("\n") for line in write(merged(streams)))
        guests = guests_of(streams)
        list(perf_script_samples(samples(guests), guests))
        write_kvm(io.BytesIO(), merged(streams), streams, "")
        write_samples(io.BytesIO(), samples(guests), guests, "")


def export_or_refuse(path: Path) -> None:
    """It may be refused, with one line."""
    refusals = []
    try:
        export(path)
    except UsageError as error:
        refusals.append(str(error))
    assert not any("\n" in refusal for refusal in refusals)


@EVERYTHING
@given(RECORDS, RECORDS)
def test_records_of_any_words_are_exported(
    tmp_path: Path, host: list[tuple[int, ...]], guest: list[tuple[int, ...]]
) -> None:
    export(written(tmp_path / "run", host, guest))


@pytest.mark.parametrize("words", [["info"], ["export", "--format", "ftrace", "--all"]])
def test_records_of_no_known_kind_are_said(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    known, unknown = (5, 0, 0, head_of(Kind.EXIT, 1), 0, 0), (6, 0, 0, head_of(99, 1), 0, 0)
    path = written(tmp_path / "run", [known, unknown, unknown], [])
    assert main(["trace", words[0], str(path), *words[1:]]) == 0
    assert capsys.readouterr().err == (
        "pvpmu: warning: 2 records of no known kind: the recording is damaged; "
        "only jsonl has them\n"
    )


@EVERYTHING
@given(st.data())
def test_a_file_with_any_bytes_changed_is_read_or_refused(tmp_path: Path, data: Any) -> None:
    mark = (1, 1, 1, head_of(Kind.MARK, 1), 0, 0)
    sample = (2, 2, 2, head_of(Kind.SAMPLE, 1), 3, 4)
    path = written(tmp_path / "run", [mark] * 3, [mark, sample])
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    export_or_refuse(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta.update(pid=1 << 40),
        lambda meta: meta.update(pid="x"),
        lambda meta: meta.update(scenario=7, code=[], node=None, release={}),
        lambda meta: meta.update(events="none"),
        lambda meta: meta["events"][0].update(period=1 << 70),
        lambda meta: meta["events"][0].update(name="two\nlines"),
        lambda meta: meta["streams"][0].update(vcpu=1 << 40),
        lambda meta: meta["streams"][0].update(vcpu=-1),
        lambda meta: meta.update(streams=[7]),
        lambda meta: meta.update(streams=7),
    ],
)
def test_metadata_of_any_kind_is_used_or_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = written(tmp_path / "run", [(1, 1, 1, head_of(Kind.EXIT, 31), 0, 0)], [])
    data = path.read_bytes()
    at = data.index(b"{")
    size = int.from_bytes(data[at - 24 : at - 16], "little")
    meta = json.loads(data[at : at + size])
    change(meta)
    changed = json.dumps(meta).encode()
    header = data[: at - 24] + len(changed).to_bytes(8, "little") + data[at - 16 : at]
    path.write_bytes(header + changed + data[at + size :])
    export_or_refuse(path)
