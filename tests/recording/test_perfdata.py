"""perf.data: as its format says, and as the real perf reads it where that is installed."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pvpmu.cli import main
from pvpmu.guest.scenario import load_scenario
from pvpmu.recording.format import Record
from pvpmu.recording.perfdata import write_kvm, write_samples
from pvpmu.recording.reader import LOST, Stream, merged
from pvpmu.recording.samples import guests_of, samples
from pvpmu.shared.exits import reason_name

PERF = shutil.which("perf")
needs_perf = pytest.mark.skipif(PERF is None, reason="needs perf (Debian: linux-perf)")
TYPES = {2: "LOST", 3: "COMM", 9: "SAMPLE", 10: "MMAP2", 68: "FINISHED_ROUND"}


def kvm_file(run: Any, path: Path) -> Path:
    with run.open() as recording, path.open("w+b") as out:
        hosts = [stream for stream in recording.streams if stream.side == "host"]
        write_kvm(out, merged(hosts), hosts, "pvpmu trace export run")
    return path


def sample_file(run: Any, path: Path) -> Path:
    with run.open() as recording, path.open("w+b") as out:
        guests = guests_of(recording.streams)
        write_samples(out, samples(guests), guests, "pvpmu trace export run")
    return path


def perf(*arguments: str | Path) -> str:
    """What perf prints, on either output; it must find nothing wrong."""
    assert PERF is not None
    done = subprocess.run(
        [PERF, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PAGER": "cat", "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def kvm_stat(path: Path, event: str) -> dict[str, int]:
    """perf kvm stat report: samples by label."""
    table = perf("kvm", "-i", path, "stat", "report", f"--event={event}")
    rows = re.findall(r"^\s*(\S+)\s+(\d+)\s+[\d.]+%\s+[\d.]+%", table, re.MULTILINE)
    return {label: int(count) for label, count in rows}


def parts(data: bytes) -> tuple[dict[str, int], Counter[str], list[int]]:
    """Header fields, records by type, and the times of the samples."""
    fields = struct.unpack_from("<8sQQQQQQQQQQQQ", data)
    header = dict(
        zip(("size", "attr_size", "attrs_at", "attrs", "data_at", "data"), fields[1:7], strict=True)
    )
    kinds: Counter[str] = Counter()
    times = []
    at, end = header["data_at"], header["data_at"] + header["data"]
    while at < end:
        kind, _, size = struct.unpack_from("<IHH", data, at)
        assert size % 8 == 0
        kinds[TYPES[kind]] += 1
        if kind == 9:
            times.append(struct.unpack_from("<Q", data, at + 32)[0])
        at += size
    assert at == end
    return header, kinds, times


def exits_of(run: Any) -> dict[str, int]:
    exits: Counter[str] = Counter()
    for stats in run.stats:
        for reason, count in stats.exits.items():
            exits[reason_name(reason)] += count
    return dict(exits)


def msrs_of(run: Any) -> dict[str, int]:
    found: Counter[str] = Counter()
    for stats in run.stats:
        for reason, address, count in stats.accesses:
            if reason in (31, 32):
                found[f"{address:#x}:{'W' if reason == 32 else 'R'}"] += count
    return dict(found)


def test_the_file_is_laid_out_as_its_header_says(trap_run: Any, tmp_path: Path) -> None:
    data = kvm_file(trap_run, tmp_path / "perf.data").read_bytes()
    assert data[:8] == b"PERFILE2"
    header, kinds, times = parts(data)
    assert header["attrs"] == 3 * header["attr_size"]
    exits = sum(exits_of(trap_run).values())
    msrs = sum(msrs_of(trap_run).values())
    assert kinds["SAMPLE"] == 2 * exits + 1 + msrs
    assert kinds["COMM"] == 1
    assert times == sorted(times)


def test_features_lie_behind_the_data_in_order(page_run: Any, tmp_path: Path) -> None:
    data = kvm_file(page_run, tmp_path / "perf.data").read_bytes()
    header, _, _ = parts(data)
    bitmap = struct.unpack_from("<Q", data, 72)[0]
    features = [bit for bit in range(64) if bitmap >> bit & 1]
    assert features == [1, 3, 4, 5, 6, 7, 8, 9, 11, 12]
    at = header["data_at"] + header["data"]
    table = list(struct.iter_unpack("<QQ", data[at : at + 16 * len(features)]))
    expected = at + 16 * len(features)
    for offset, size in table:
        assert offset == expected
        expected += size
    assert expected == len(data)
    cpuid = table[features.index(9)][0]
    assert data[cpuid + 4 :].startswith(b"GenuineIntel,")


def test_losses_are_records_of_their_own() -> None:
    out = io.BytesIO()
    stream = Stream(0, "host", 0, {"pid": 7}, -1)
    write_kvm(out, [(stream, Record(1, 0, 0, LOST, 0, 0, 0, 12, 0))], [stream], "")
    _, kinds, _ = parts(out.getvalue())
    # The sample is the entry with which a stream begins.
    assert kinds == {"COMM": 1, "SAMPLE": 1, "LOST": 1, "FINISHED_ROUND": 1}


def test_samples_come_with_their_task_and_its_code(page_run: Any, tmp_path: Path) -> None:
    data = sample_file(page_run, tmp_path / "perf.data").read_bytes()
    _, kinds, times = parts(data)
    assert kinds["SAMPLE"] == sum(report.counts.samples for report in page_run.reports)
    assert (kinds["COMM"], kinds["MMAP2"]) == (2, 2)
    assert times == sorted(times)


@needs_perf
@pytest.mark.parametrize("which", ["trap_run", "page_run"])
def test_perf_kvm_stat_shows_exactly_the_runs_counts(
    request: pytest.FixtureRequest, tmp_path: Path, which: str
) -> None:
    run = request.getfixturevalue(which)
    path = kvm_file(run, tmp_path / "perf.data")
    assert kvm_stat(path, "vmexit") == exits_of(run)
    assert kvm_stat(path, "msr") == msrs_of(run)


@needs_perf
def test_perf_script_prints_what_our_own_text_says(trap_run: Any, tmp_path: Path) -> None:
    from pvpmu.recording.text import perf_script

    with trap_run.open() as recording:
        hosts = [stream for stream in recording.streams if stream.side == "host"]
        ours = "".join(perf_script(merged(hosts)))
    printed = perf("script", "--ns", "-i", kvm_file(trap_run, tmp_path / "perf.data"))
    assert [line.split() for line in printed.splitlines()] == [
        line.split() for line in ours.splitlines()
    ]


@needs_perf
def test_whatif_reads_the_real_perfs_text_and_tables(trap_run: Any, tmp_path: Path) -> None:
    from pvpmu.trace.reading import read_trace
    from pvpmu.trace.source import Source

    path = kvm_file(trap_run, tmp_path / "perf.data")
    tables = [
        perf("script", "-i", path),
        *(perf("kvm", "-i", path, "stat", "report", f"--event={e}") for e in ("vmexit", "msr")),
    ]
    traces = [read_trace(Source("perf", io.BytesIO(text.encode()), None)) for text in tables]
    assert [trace.format for trace in traces] == ["events", "perf-kvm-stat", "perf-kvm-stat"]
    assert traces[0].counts.exits == traces[1].counts.exits == exits_of(trap_run)
    assert traces[0].counts.msr == traces[2].counts.msr


@needs_perf
@pytest.mark.parametrize(
    "fields",
    [
        "-cpu",
        "+period",
        "tid,time,event,trace",
        "comm,pid,tid,cpu,time,event,trace,ip,sym,symoff,dso",
    ],
)
def test_whatif_reads_the_real_perfs_text_with_other_fields(
    fields: str, trap_run: Any, tmp_path: Path
) -> None:
    from pvpmu.trace.reading import read_trace
    from pvpmu.trace.source import Source

    path = kvm_file(trap_run, tmp_path / "perf.data")
    text = "".join(
        line
        for line in perf("script", "-i", path, "-F", fields).splitlines(keepends=True)
        # perf's own words on standard error, of types of event that the file does not have.
        if not line.endswith("events. Ignoring.\n")
    )
    trace = read_trace(Source("perf", io.BytesIO(text.encode()), None))
    assert trace.unknown.examples == []
    assert trace.counts.exits == exits_of(trap_run)
    assert trace.counts.total == sum(exits_of(trap_run).values())
    assert trace.events is not None
    assert {thread.several for thread in trace.events.threads.values()} == {False}


@needs_perf
def test_perf_report_shows_the_guests_samples(page_run: Any, tmp_path: Path) -> None:
    path = sample_file(page_run, tmp_path / "perf.data")
    report = perf("report", "--stdio", "-i", path, "--sort", "comm,dso")
    events = re.findall(r"^# Samples: (\S+)\s+of event '(\S+)'", report, re.MULTILINE)
    assert [name for _, name in events] == [
        "cpu-cycles",
        "instructions",
        "branch-instructions",
        "cache-misses",
    ]
    assert re.findall(r"100\.00%\s+br_instr\s+br_instr", report)
    script = perf("script", "--ns", "-i", path, "-F", "comm,time,period,event,ip")
    lines = [line for line in script.splitlines() if line.strip()]
    taken = sum(report.counts.samples for report in page_run.reports)
    assert len(lines) == taken


@needs_perf
def test_perf_report_names_the_programs_phases(page_run: Any, tmp_path: Path) -> None:
    elf, path = tmp_path / "program.elf", tmp_path / "perf.data"
    options = ("--format", "perf.data", "--side", "guest", "-o", str(path), "--elf", str(elf))
    assert main(["trace", "export", str(page_run.path), *options]) == 0
    report = perf("report", "--stdio", "-i", path, "--sort", "dso,sym", "--percent-limit", "0")
    names = set(re.findall(r"program\.elf\s+\[\.\] (\w+)", report))
    assert names
    assert all(re.fullmatch(r"phase_\d+", name) for name in names)
    assert "0x00000" not in report


@needs_perf
def test_perf_script_prints_samples_as_our_own_text_does(page_run: Any, tmp_path: Path) -> None:
    from pvpmu.recording.text import perf_script_samples

    with page_run.open() as recording:
        guests = guests_of(recording.streams)
        ours = "".join(perf_script_samples(samples(guests), guests))
    printed = perf("script", "--ns", "-i", sample_file(page_run, tmp_path / "perf.data"))

    def words(text: str) -> list[Sequence[str]]:
        return [line.split() for line in text.splitlines() if "[unknown]" in line]

    assert words(printed) == words(ours)


@needs_perf
def test_perf_reads_the_header(page_run: Any, tmp_path: Path) -> None:
    header = perf("report", "--header-only", "-i", kvm_file(page_run, tmp_path / "perf.data"))
    assert "# cpuid : GenuineIntel,6,106,6" in header
    assert "# cmdline : pvpmu trace export run" in header
    assert "# nrcpus online : 2" in header
    assert re.search(r"name = kvm:kvm_exit", header)


@needs_perf
def test_perf_kvm_stat_of_the_script_shows_the_counts_of_the_2021_mail(
    make_recording: Callable[..., Any], tmp_path: Path
) -> None:
    run = make_recording(tmp_path / "run", "trap", scenario=load_scenario("br_instr-trace"))
    path = kvm_file(run, tmp_path / "perf.data")
    # Two more writes of GLOBAL_CTRL than in the mail: handlers entered with the PMU disabled.
    assert kvm_stat(path, "msr") == {
        "0x38f:W": 15_824,
        "0x38e:R": 14_558,
        "0x834:W": 7_315,
        "0x390:W": 7_250,
        "0x4c1:W": 2_922,
        "0x309:W": 2_912,
        "0x30a:W": 2_904,
        "0x38d:R": 2_390,
        "0x38d:W": 2_390,
        "0x186:W": 1_195,
        "0x187:W": 1_195,
        "0x4c2:W": 976,
    }
    assert kvm_stat(path, "vmexit") == {
        "MSR_WRITE": 44_883,
        "MSR_READ": 16_948,
        "RDPMC": 9_710,
        "EXCEPTION_NMI": 7_250,
        "NMI_WINDOW": 58,
    }
