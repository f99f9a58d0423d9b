"""pvpmu trace: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvpmu.cli import main
from pvpmu.recording.cli import FORMATS

Capture = pytest.CaptureFixture[str]


def trace(*arguments: str | Path) -> int:
    return main(["trace", *map(str, arguments)])


def failure(capsys: Capture) -> str:
    """The one line that a command failed with."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_info_says_what_is_in_each_stream(both_run: Any, capsys: Capture) -> None:
    assert trace("info", both_run.path) == 0
    text = capsys.readouterr().out
    assert re.search(r"both: [\d,]+ records, 0 lost, [\d,]+ bytes\n", text)
    assert "design trap, scenario short, seed 1" in text
    exits = sum(both_run.stats[0].exits.values())
    assert exits > 100
    assert re.search(r"  trap vCPU 0 host: [\d.]+ s, windows: 1, lost: 0\n", text)
    assert f"{both_run.reports[1].counts.samples} sample" in text


def test_info_as_json(page_run: Any, capsys: Capture) -> None:
    assert trace("info", page_run.path, "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["complete"]
    assert [(s["side"], s["vcpu"], s["windows"]) for s in answer["streams"]] == [
        ("host", 0, 2),
        ("guest", 0, 2),
        ("host", 1, 2),
        ("guest", 1, 2),
    ]
    assert answer["streams"][0]["kinds"]["exit"] > 100


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_goes_to_a_file_or_to_standard_output(
    trap_run: Any, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], name: str
) -> None:
    out = tmp_path / "out"
    assert trace("export", trap_run.path, "--format", name, "-o", out) == 0
    assert trace("export", trap_run.path, "--format", name, "-o", "-") == 0
    printed = capfdbinary.readouterr().out
    if name == "perf.data":
        # Its header has the command line.
        assert printed[:8] == out.read_bytes()[:8] == b"PERFILE2"
    else:
        assert printed == out.read_bytes()


def test_one_design_of_several_has_to_be_named_for_a_kernels_format(
    both_run: Any, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    assert trace("export", both_run.path, "--format", "ftrace", "-o", out) == 2
    assert "designs trap, page were recorded, and ftrace holds one" in failure(capsys)
    assert not out.exists()
    sizes = {}
    for design in ("trap", "page"):
        where = ("--design", design, "-o", out)
        assert trace("export", both_run.path, "--format", "ftrace", *where) == 0
        sizes[design] = out.read_text().count("kvm_exit")
    assert sizes["trap"] == sum(both_run.stats[0].exits.values())
    assert sizes["page"] == sum(both_run.stats[1].exits.values())
    assert trace("export", both_run.path, "--format", "chrome", "-o", out) == 0


def test_one_vcpu_can_be_chosen(page_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert trace("export", page_run.path, "--format", "jsonl", "--vcpu", 1, "-o", out) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()[1:]]
    assert {line["vcpu"] for line in lines} == {1}


def test_boot_and_shutdown_are_exported_if_asked_for(page_run: Any, tmp_path: Path) -> None:
    counts = []
    for more in ((), ("--all",)):
        out = tmp_path / "out"
        assert trace("export", page_run.path, "--format", "ftrace", "-o", out, *more) == 0
        counts.append(out.read_text().count("reason CPUID"))
    assert counts[0] == 0 < counts[1]


def test_a_hosts_and_a_guests_recording_are_put_together(
    page_run: Any, tmp_path: Path, capsys: Capture
) -> None:
    from pvpmu.recording.file import RecordingFile

    # The sides of a run as two files: sections may lie in any of them.
    files = []
    for side in ("host", "guest"):
        files.append(tmp_path / side)
        with page_run.open() as whole:
            streams = [stream for stream in whole.streams if stream.side == side]
            recording = RecordingFile(files[-1], {**whole.sections[0]})
            rings = [recording.stream(side, stream.vcpu).attach() for stream in streams]
            with recording:
                for stream, ring in zip(streams, rings, strict=True):
                    for record in stream.records():
                        head = record.kind | record.code << 8 | record.flags << 16
                        head |= record.detail << 32
                        ring.put(record.wall, record.now, record.cycles, head, record.a, record.b)
    outs = [tmp_path / "together", tmp_path / "whole"]
    assert trace("export", *files, "--format", "chrome", "-o", outs[0]) == 0
    assert trace("export", page_run.path, "--format", "chrome", "-o", outs[1]) == 0
    together, whole_made = (json.loads(out.read_text())["traceEvents"] for out in outs)
    key = lambda event: json.dumps(event, sort_keys=True)  # noqa: E731
    assert sorted(together, key=key) == sorted(whole_made, key=key)
    assert trace("export", files[1], "--format", "ftrace") == 2
    assert "a recording of the guest alone has no exits" in failure(capsys)
    assert trace("export", files[0], "--format", "perf.data", "--side", "guest", "-o", "x") == 2
    assert "a recording of the host alone has no samples" in failure(capsys)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--format", "jsonl", "--elf", "x"), "--elf: needs --format perf.data --side guest"),
        (("--format", "ftrace", "--design", "moon"), "no design 'moon' in"),
        (("--format", "jsonl", "--vcpu", "9"), "no vCPU 9 in"),
        (("--format", "ftrace", "--vcpu", "0", "--vcpu", "7"), "no vCPU 7 in"),
        (("--format", "ftrace", "-o", "/nowhere/out"), "cannot be written"),
        (("--format", "moon"), "invalid choice: 'moon'"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_status_2(
    trap_run: Any, capsys: Capture, arguments: tuple[str, ...], why: str
) -> None:
    assert trace("export", trap_run.path, *arguments) == 2
    assert why in failure(capsys)


def test_a_recording_is_never_overwritten_by_its_own_export(
    trap_run: Any, tmp_path: Path, capsys: Capture
) -> None:
    copy = tmp_path / "run"
    shutil.copy(trap_run.path, copy)
    assert trace("export", copy, "--format", "jsonl", "-o", copy) == 2
    assert "is the recording itself" in failure(capsys)
    assert copy.read_bytes() == Path(trap_run.path).read_bytes()


@pytest.mark.parametrize("command", [("info",), ("export", "--format", "jsonl")])
def test_what_is_no_recording_is_one_line_and_status_2(
    tmp_path: Path, capsys: Capture, command: tuple[str, ...]
) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(os.urandom(4096))
    assert trace(command[0], odd, *command[1:]) == 2
    assert f"{odd}: no recording: begins with " in failure(capsys)
    assert trace(command[0], tmp_path / "none", *command[1:]) == 2
    assert "No such file" in failure(capsys)


def test_symbols_overwrite_neither_the_recording_nor_its_export(
    make_recording: Callable[..., Any], tmp_path: Path, capsys: Capture
) -> None:
    run = make_recording(tmp_path / "run", "trap")
    before = run.path.read_bytes()
    perf_data = ("--format", "perf.data", "--side", "guest")
    for out, elf in ((tmp_path / "out", run.path), (tmp_path / "same", tmp_path / "same")):
        assert trace("export", run.path, *perf_data, "-o", out, "--elf", elf) == 2
        assert f"--elf {elf}: is {elf}, which it would overwrite" in failure(capsys)
        assert not out.exists()
    assert run.path.read_bytes() == before


def test_perf_data_needs_a_file_that_can_be_sought_in(
    trap_run: Any, tmp_path: Path, capsys: Capture
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert trace("export", trap_run.path, "--format", "perf.data", "-o", fifo) == 2
    os.close(reader)
    assert failure(capsys) == f"pvpmu: error: {fifo}: perf.data needs a file that can be sought in"


def test_a_recording_that_was_cut_off_gives_what_is_there(
    trap_run: Any, tmp_path: Path, capsys: Capture
) -> None:
    cut, out = tmp_path / "cut", tmp_path / "out"
    whole = Path(trap_run.path).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    assert trace("export", cut, "--format", "ftrace", "-o", out) == 0
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"pvpmu: warning: {cut}: byte ")
    assert line.endswith("; what comes before is read")
    assert 0 < out.read_text().count("kvm_exit") < sum(trap_run.stats[0].exits.values())
    assert trace("info", cut) == 0
    assert "not complete" in capsys.readouterr().out


def test_losses_are_told_with_every_export(
    make_recording: Callable[..., Any], tmp_path: Path, capsys: Capture
) -> None:
    run = make_recording(tmp_path / "run", "trap")
    data = run.path.read_bytes()
    run.path.write_bytes(data.replace(b'"lost":[0,0]', b'"lost":[7,0]'))
    out = tmp_path / "out"
    assert trace("export", run.path, "--format", "ftrace", "-o", out) == 0
    assert capsys.readouterr().err == (
        "pvpmu: warning: 7 records were lost when it was recorded: counts are too small\n"
    )
    assert out.read_text().endswith("CPU:0 [LOST 7 EVENTS]\n")
    assert trace("info", run.path) == 0
    assert "7 records were lost" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_a_file(trap_run: Any, capsys: Capture) -> None:
    assert trace("export", trap_run.path, "--format", "ftrace", "-o", "/dev/full") == 1
    assert failure(capsys) == "pvpmu: error: /dev/full: cannot be written: No space left on device"
    assert Path("/dev/full").exists()


def test_a_reader_that_goes_is_no_error(trap_run: Any) -> None:
    command = [sys.executable, "-m", "pvpmu.cli", "trace", "export", str(trap_run.path)]
    with subprocess.Popen(
        [*command, "--format", "jsonl"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(60) == 128 + 13


def test_whatif_says_how_to_read_a_recording(trap_run: Any, capsys: Capture) -> None:
    assert main(["whatif", str(trap_run.path)]) == 2
    assert f"is a recording, expected text: pvpmu trace export --format ftrace {trap_run.path}" in (
        failure(capsys)
    )


def test_an_export_can_be_piped_to_whatif(trap_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "trace"
    assert trace("export", trap_run.path, "--format", "perf-script", "-o", out) == 0
    answer = tmp_path / "answer"
    assert main(["whatif", str(out), "--json", str(answer)]) == 0
    counted = json.loads(answer.read_text())
    assert sum(counted["exits"].values()) == sum(trap_run.stats[0].exits.values())


def test_whatif_takes_the_trace_of_a_guest_that_has_a_page(page_run: Any, tmp_path: Path) -> None:
    out, answer = tmp_path / "trace", tmp_path / "answer"
    assert trace("export", page_run.path, "--format", "ftrace", "-o", out) == 0
    assert main(["whatif", str(out), "--json", str(answer)]) == 0
    exits = json.loads(answer.read_text())["exits"]
    assert sum(exits.values()) == sum(sum(stats.exits.values()) for stats in page_run.stats)
