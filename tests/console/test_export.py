"""Histograms in HdrHistogram's formats, compared with its library where that is installed."""

from __future__ import annotations

import base64
import random
from pathlib import Path
from typing import Any

import pytest

from pvpmu.console import export
from pvpmu.console.export import encoded, hgrm, histograms, hlog, series_name, write_hgrm
from pvpmu.console.model import Model, Recorded
from pvpmu.console.snapshot import MOST
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import BUCKETS, bucket_of, highest_of
from pvpmu.shared.liveview import HANDLER_KEY, AccessPath, Key
from pvpmu.shared.process import MAX_VCPUS

ENDS = [{}, {0: 1}, {bucket_of(1000): 3}, {bucket_of((1 << 32) - 1): 2, 5: 1}]


def drawn(seed: int, count: int) -> dict[int, int]:
    draw = random.Random(seed)
    counts: dict[int, int] = {}
    for _ in range(count):
        bucket = bucket_of(int(draw.lognormvariate(6, 1.5)))
        counts[bucket] = counts.get(bucket, 0) + 1
    return counts


CASES = [*ENDS, drawn(1, 10), drawn(2, 1000), drawn(3, 50_000)]


def recorded(*snapshots: Any) -> list[Recorded]:
    """As of views that looked every 2.5 s, from 100 s on."""
    model = Model()
    for number, snapshot in enumerate(snapshots):
        model.update(100.0 + 2.5 * number, [snapshot])
    return model.recorded()


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("hdrh.histogram")


def of_library(library: Any, counts: dict[int, int]) -> Any:
    made = library.HdrHistogram(1, (1 << 32) - 1, 2)
    for bucket, count in counts.items():
        made.record_value(highest_of(bucket), count)
    return made


def numbers(line: str) -> list[float]:
    return [float(word) for word in line.split()]


@pytest.mark.parametrize("counts", CASES[1:], ids=range(len(CASES) - 1))
def test_an_hgrm_file_says_what_the_library_counts(library: Any, counts: dict[int, int]) -> None:
    recorded = [
        (float(each.value_iterated_to), each.total_count_to_this_value)
        for each in of_library(library, counts).get_recorded_iterator()
    ]
    total = recorded[-1][1]
    title, blank, *lines = hgrm(counts).splitlines()
    assert title.split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    assert not blank
    *levels, last = [numbers(line) for line in lines if line[0] != "#"]
    assert last == [recorded[-1][0], 1.0, total]
    for value, level, count, inverse in levels:
        at = recorded.index((value, int(count)))
        # The smallest value that the level reaches.
        assert level <= count / total + 1e-9
        assert at == 0 or recorded[at - 1][1] / total < level + 1e-9
        assert inverse == pytest.approx(1 / (1 - level), abs=0.01, rel=1e-3)


def test_levels_come_five_to_each_half_of_what_is_left() -> None:
    counts = dict.fromkeys(range(200), 1000)
    levels = [numbers(line)[1] for line in hgrm(counts).splitlines()[2:-4]]
    assert levels[:11] == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75], abs=1e-9
    )


def test_an_hgrm_file_ends_with_its_moments() -> None:
    lines = hgrm({bucket_of(100): 2, bucket_of(200): 2}).splitlines()[-3:]
    assert "Mean    =       150.00, StdDeviation   =        50.00" in lines[0]
    assert "Max     =       200.00, TotalCount     =         4.00" in lines[1]
    assert "SubBuckets     =          256" in lines[2]


def test_the_most_that_all_vcpus_can_say_has_an_end_as_text_and_as_log(library: Any) -> None:
    counts = {10: MAX_VCPUS * MOST, 3000: 1}
    seen = [int(line.split()[2]) for line in hgrm(counts).splitlines()[2:-3]]
    # The last value's level, and the end.
    assert seen[-3:] == [MAX_VCPUS * MOST, MAX_VCPUS * MOST + 1, MAX_VCPUS * MOST + 1]
    # Five for each power of two of the values.
    assert len(seen) < 5 * 64
    full = dict.fromkeys(range(0, BUCKETS, 100), MAX_VCPUS * MOST)
    decoded = library.HdrHistogram.decode(encoded(full))
    assert decoded.get_count_at_value(100) == MAX_VCPUS * MOST


@pytest.mark.parametrize("counts", CASES, ids=range(len(CASES)))
def test_the_library_decodes_what_was_counted(library: Any, counts: dict[int, int]) -> None:
    text = encoded(counts)
    base64.b64decode(text, validate=True)
    decoded = library.HdrHistogram.decode(text)
    assert decoded.get_total_count() == sum(counts.values())
    for bucket, count in counts.items():
        assert decoded.get_count_at_value(highest_of(bucket)) == count


def test_a_log_has_a_tagged_line_for_each_series(library: Any, new_vm: Any) -> None:
    status = Key(ExitReason.MSR_READ, 0x38E, AccessPath.PAGE)
    vm = new_vm(series=[{status: {180: 5}}, {status: {180: 2, 190: 1}, HANDLER_KEY: {900: 4}}])
    lines = hlog(recorded(new_vm(series=[{}, {}]), vm), 1_699_999_900.0).splitlines()
    assert lines[0] == "#[Histogram log format version 1.3]"
    assert "#[StartTime: 1700000000.000 (seconds since epoch)]" in lines
    tagged = [line.split(",") for line in lines if line.startswith("Tag=")]
    assert {tag: float(length) for tag, _, length, _, _ in tagged} == {
        "Tag=vm0.page.PMI_handler": 2.5,
        "Tag=vm0.page.MSR_CORE_PERF_GLOBAL_STATUS.read.page": 2.5,
    }
    decoded = {tag: library.HdrHistogram.decode(payload) for tag, *_, payload in tagged}
    merged = decoded["Tag=vm0.page.MSR_CORE_PERF_GLOBAL_STATUS.read.page"]
    assert merged.get_count_at_value(180) == 7
    assert merged.get_total_count() == 8


def test_a_log_has_what_was_recorded_in_the_interval_that_it_states(
    library: Any, new_vm: Any
) -> None:
    status = Key(ExitReason.MSR_READ, 0x38E, AccessPath.PAGE)
    before = new_vm(series=[{status: {180: 1000, 200: 7}, HANDLER_KEY: {900: 4}}])
    after = new_vm(series=[{status: {180: 1002, 190: 1, 200: 7}, HANDLER_KEY: {900: 4}}])
    model = Model()
    model.update(50.0, [before])
    model.update(52.0, [before, new_vm("late", series=[{HANDLER_KEY: {5: 1}}])])
    model.update(56.0, [after, new_vm("late", series=[{HANDLER_KEY: {5: 3}}])])
    *_, first, second = hlog(model.recorded(), 1000.0).splitlines()
    tag, start, length, _, payload = first.split(",")
    assert tag.startswith("Tag=vm0.page.MSR_CORE_PERF_GLOBAL_STATUS")
    assert (float(start), float(length)) == (0.0, 6.0)
    decoded = library.HdrHistogram.decode(payload)
    assert (decoded.get_total_count(), decoded.get_count_at_value(180)) == (3, 2)
    tag, start, length, _, payload = second.split(",")
    assert (tag, float(start), float(length)) == ("Tag=late.page.PMI_handler", 2.0, 4.0)
    assert library.HdrHistogram.decode(payload).get_total_count() == 2


def test_after_a_reset_what_is_written_begins_there(new_vm: Any) -> None:
    model = Model()
    for time, count in ((10.0, 5), (11.0, 8), (12.0, 9)):
        model.update(time, [new_vm(series=[{HANDLER_KEY: {900: count}}])])
        if time == 11.0:
            model.reset()
    (vm,) = model.recorded()
    assert (vm.begun, vm.ended, vm.series) == (11.0, 12.0, {HANDLER_KEY: {900: 1}})


def test_each_series_has_a_file_whose_name_no_folder_minds(new_vm: Any, tmp_path: Path) -> None:
    keys = [HANDLER_KEY, Key(ExitReason.RDPMC, 1 << 30, AccessPath.EXIT)]
    vm = new_vm(design="my/../design", series=[{key: {5: 1} for key in keys}])
    paths = write_hgrm(tmp_path / "new", recorded(new_vm(design=vm.design), vm))
    assert [path.parent for path in paths] == [tmp_path / "new"] * 2
    assert {path.name for path in paths} == {
        "vm0.my_.._design.PMI_handler.hgrm",
        "vm0.my_.._design.RDPMC_0x40000000.exit.hgrm",
    }
    assert all("TotalCount" in path.read_text() for path in paths)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (
            Key(ExitReason.MSR_WRITE, 0x38F, AccessPath.COMMIT),
            "MSR_CORE_PERF_GLOBAL_CTRL.write.commit",
        ),
        (Key(ExitReason.MSR_READ, 0x999, AccessPath.EXIT), "MSR_0x999.read.exit"),
        (Key(ExitReason.HLT, 0, AccessPath.EXIT), "HLT.exit"),
    ],
)
def test_a_series_is_named_by_register_operation_and_path(key: Key, name: str) -> None:
    assert series_name(key) == name


def test_a_vm_that_records_nothing_has_no_histograms(new_vm: Any) -> None:
    (vm,) = recorded(new_vm(), new_vm())
    assert list(histograms(vm)) == []


def test_without_the_library_a_log_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(export.UsageError, match=r"pip install 'pvpmu\[hdr\]'"):
        export.needs_hdrhistogram()
