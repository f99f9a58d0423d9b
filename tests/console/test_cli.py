"""``pvpmu top`` as a user runs it: in a terminal, in a pipe, with mistakes."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pvpmu.cli import main
from pvpmu.console import cli
from pvpmu.shared import liveview
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.liveview import HANDLER_KEY, AccessPath, State, Status

pytestmark = pytest.mark.process
TIMEOUT_S = 300
IN_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from pvpmu.cli import main
sys.exit(main(sys.argv[1:]))
"""
_SIZELESS = {name: os.environ[name] for name in os.environ if name not in ("COLUMNS", "LINES")}
"""A test runner's own idea of its terminal would be taken for that of the terminal under test."""
WRITE, READ = int(ExitReason.MSR_WRITE), int(ExitReason.MSR_READ)


def fill(published: Any) -> None:
    """A commit, page accesses and handlers on each vCPU."""
    vcpus = published.host.words[liveview.VM_VCPUS]
    for number in range(vcpus):
        host = published.vcpu(number)
        host.entered(State.FROZEN, 3)
        host.served(WRITE, 0x38F, State.RUNNING)
        if published.guest is not None:
            live = published.live(number)
            live.record(READ, 0x38E, AccessPath.PAGE, 180)
            live.record(WRITE, 0x38F, AccessPath.COMMIT, 9000)
            live.record(0, 0, HANDLER_KEY.path, 87_000)


def top(*args: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pvpmu.cli", "top", *args],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        check=False,
        **more,
    )


class Screen:
    """``pvpmu top`` in a terminal: what it has written, and what is typed."""

    def __init__(self, width: int, height: int, *args: str, **environment: str) -> None:
        self._person, self._program = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(self._program)
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_A_TERMINAL, "top", "-s", "0.1", *args],
            stdin=self._program,
            stdout=self._program,
            stderr=self._program,
            env={**_SIZELESS, "TERM": "xterm", "PYTHONUTF8": "1", **environment},
            start_new_session=True,
        )

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._program, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._person, text.encode())

    def until(self, *words: str) -> str:
        """Read until all words have come since the last time; returns what came."""
        self.seen = ""
        # A view that draws for ever without them must not be waited for for ever.
        deadline = time.monotonic() + TIMEOUT_S
        while not all(word in self.seen for word in words):
            left = max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self._person], [], [], left)
            assert left, f"expected {words}, got {self.seen[-4000:]!r}"
            assert ready, f"expected {words}, got {self.seen!r} and then nothing"
            self.seen += os.read(self._person, 65536).decode("utf-8", "replace")
        return self.seen

    def ended(self) -> int:
        """Exit status; the terminal must be as it was before."""
        end = time.monotonic() + TIMEOUT_S
        with contextlib.suppress(OSError):
            while self.process.poll() is None:
                assert time.monotonic() < end, f"still runs; its screen: {self.seen[-4000:]!r}"
                ready, _, _ = select.select([self._person], [], [], 0.05)
                if ready:
                    self.seen += os.read(self._person, 65536).decode("utf-8", "replace")
        status = self.process.wait(TIMEOUT_S)
        assert termios.tcgetattr(self._program) == self.before
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._person)
        os.close(self._program)


@pytest.fixture
def screen() -> Iterator[Callable[..., Screen]]:
    with contextlib.ExitStack() as stack:

        def start(*args: Any, **environment: str) -> Screen:
            made = Screen(*args, **environment)
            stack.callback(made.close)
            return made

        yield start


def test_a_view_that_does_not_end_is_not_waited_for_for_ever(
    publish: Any, screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish()
    fill(published)
    shown = screen(80, 24, published.name)
    shown.until("RUNNING")
    monkeypatch.setattr(f"{__name__}.TIMEOUT_S", 0)
    with pytest.raises(AssertionError, match="still runs; its screen: "):
        shown.ended()


def test_keys_do_what_they_say_and_q_puts_the_terminal_back(publish: Any, screen: Any) -> None:
    published = publish(vcpus=4)
    fill(published)
    shown = screen(80, 24, published.name)
    shown.until("\x1b[?1049h", "RUNNING", "commit", "180ns", "87.0us", "PMI handler")
    shown.type("h")
    shown.until("pvpmu top: keys")
    shown.type("h")
    shown.until("GLOBAL_STATUS")
    shown.type("o")
    shown.until("order: rate")
    shown.type("fSTATUS\r")
    shown.until("/STATUS/")
    shown.type("p3\r")
    shown.until("vCPU 3, every 0.1 s")
    shown.type("p9\r")
    shown.until("vCPU '9', expected 0 to 3")
    shown.type(" ")
    shown.until("PAUSED")
    shown.type(" s0.2\r")
    shown.until("every 0.2 s")
    shown.type("r")
    shown.until("totals begin at 0 here")
    shown.type("q")
    assert shown.ended() == 0
    assert "\x1b[?1049l" in shown.seen
    assert "\x1b[?25h" in shown.seen


def test_a_resized_terminal_is_drawn_anew(publish: Any, screen: Any) -> None:
    published = publish(vcpus=2)
    fill(published)
    shown = screen(80, 24, published.name)
    shown.until("every 0.1 s")
    shown.resize(150, 40)
    shown.until("MSR_CORE_PERF_GLOBAL_CTRL", "bare round trip")
    shown.type("q")
    assert shown.ended() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_puts_the_terminal_back(
    publish: Any, screen: Any, number: signal.Signals, status: int
) -> None:
    published = publish()
    shown = screen(80, 24, published.name)
    shown.until("every 0.1 s")
    shown.process.send_signal(number)
    assert shown.ended() == status
    assert "\x1b[?1049l" in shown.seen


def test_the_view_outlives_its_host_and_keeps_the_last_numbers(publish: Any, screen: Any) -> None:
    published = publish()
    fill(published)
    shown = screen(80, 24, published.name)
    shown.until("RUNNING")
    published.end(Status.LOST)
    shown.until("host ended: peer lost; the last numbers stay", "peer lost", "GLOBAL_STATUS")
    shown.type("h")
    shown.until("pvpmu top: keys")
    shown.type("q")
    assert shown.ended() == 0


def test_no_colour_is_asked_for_and_none_comes(publish: Any, screen: Any) -> None:
    published = publish()
    fill(published)
    shown = screen(80, 24, published.name, NO_COLOR="1")
    text = shown.until("every 0.1 s", "GLOBAL_STATUS", "q quit")
    assert not any(f"\x1b[{colour}m" in text for colour in range(30, 38))
    shown.type("q")
    assert shown.ended() == 0


def test_a_dumb_terminal_gets_plain_lines(publish: Any, screen: Any) -> None:
    published = publish()
    fill(published)
    shown = screen(80, 24, published.name, "-n", "2", TERM="dumb")
    text = shown.until("avoid/s", "RUNNING")
    assert "\x1b" not in text
    assert shown.ended() == 0


def test_a_pipe_gets_a_line_per_interval_until_the_host_ends(publish: Any) -> None:
    published = publish()
    fill(published)
    done = top(published.name, "-s", "0.1", "-n", "3")
    assert done.returncode == 0
    title, *lines = done.stdout.splitlines()
    assert title.split()[0] == "time"
    assert [line.split()[1:4] for line in lines] == [[published.name, "page", "RUNNING"]] * 3
    process = subprocess.Popen(
        [sys.executable, "-m", "pvpmu.cli", "top", published.name, "-s", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    published.end(Status.DONE)
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert output.splitlines()[-1].split()[3] == "ended"
    assert errors == f"pvpmu: {published.name}: host ended: guest done\n"


def test_a_pipe_that_is_to_have_colours_is_no_screen(publish: Any) -> None:
    published = publish()
    done = top(published.name, "-s", "0.1", "-n", "1", env={**os.environ, "FORCE_COLOR": "1"})
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("time")


def test_once_is_a_full_report_as_text_json_and_csv(publish: Any) -> None:
    published = publish(vcpus=2)
    fill(published)
    text = top("--once", "-s", "0.1", published.name).stdout
    assert "MSR_CORE_PERF_GLOBAL_CTRL" in text
    assert "PMI handler" in text
    made = json.loads(top("--once", "--json", "-s", "0.1", published.name).stdout)
    assert made["vms"][0]["exits"]["MSR_WRITE"]["total"] == 2
    table = top("-1", "--csv", "-s", "0.1", "-p", "1", published.name).stdout
    rows = list(csv.DictReader(io.StringIO(table)))
    assert {row["vcpu"] for row in rows if row["kind"] == "register"} == {"1"}


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_a_filter_is_one_in_data_too(publish: Any, form: str) -> None:
    published = publish()
    fill(published)
    text = top("--once", form, "-s", "0.1", "-f", "status|HLT", published.name).stdout
    if form == "--json":
        names = {register["name"] for register in json.loads(text)["vms"][0]["registers"]}
    else:
        rows = csv.DictReader(io.StringIO(text))
        names = {row["name"] for row in rows if row["kind"] == "register"}
    assert names == {"MSR_CORE_PERF_GLOBAL_STATUS"}


def test_what_a_hostile_guest_counted_is_refused_in_every_form(
    publish: Any, screen: Any, tmp_path: Path
) -> None:
    pytest.importorskip("hdrh.histogram")
    published = publish()
    fill(published)
    words = published.guest.words[liveview.guest_area(0)]
    words[liveview.GUEST_COUNTS + 10] = 1 << 63
    words[liveview.GUEST_COUNTS + 3000] = 1
    said = "1 of the guest's series and words refused: beyond what can be"
    args = ("-s", "0.1", "-n", "1", published.name)
    folder, log = tmp_path / "hgrm", tmp_path / "top.hlog"
    done = top(*args, "--json", "--hgrm", str(folder), "--hlog", str(log))
    assert (done.returncode, f"pvpmu: {said}" in done.stderr.splitlines()) == (0, True)
    assert json.loads(done.stdout)["vms"][0]["refused"] == 1
    rows = list(csv.DictReader(io.StringIO(top(*args, "--csv").stdout)))
    assert {row["total"] for row in rows if row["name"] == "refused"} == {"1"}
    shown = screen(80, 24, published.name)
    shown.until(said)
    shown.type("q")
    assert shown.ended() == 0


def test_several_vms_stand_side_by_side(publish: Any) -> None:
    names = []
    for design in ("trap", "page"):
        published = publish(design=design)
        fill(published)
        names.append(published.name)
    text = top("--once", "-s", "0.1", *names, names[0]).stdout
    assert [line.split(":")[0] for line in text.splitlines()[:2]] == names
    assert text.count("trap ") > 3


def test_what_runs_is_listed(publish: Any) -> None:
    one, two = publish(vcpus=3, serving=False), publish(design="trap")
    lines = top("--list").stdout.splitlines()
    assert f"{one.name}: design page, vCPUs: 3, waiting for a guest" in lines
    assert f"{two.name}: design trap, vCPUs: 1, guest 4711" in lines
    done = top()
    assert done.returncode == 0
    assert one.name in done.stdout
    assert "pvpmu top NAME" in done.stdout


def test_without_a_name_the_only_host_is_watched(
    publish: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = publish()
    fill(published)
    monkeypatch.setattr(cli, "running", lambda: [published.name])
    assert main(["top", "--once", "-s", "0.1"]) == 0
    assert capsys.readouterr().out.startswith(f"{published.name}: design page, guest 4711")


def test_where_no_host_runs_that_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "running", list)
    monkeypatch.setattr(cli, "unpublished", list)
    assert main(["top"]) == 2
    assert capsys.readouterr().err == "pvpmu: error: no host is running: start pvpmu-host\n"
    assert main(["top", "--list"]) == 0
    assert capsys.readouterr().out == "no host is running\n"


def test_histograms_and_the_screen_are_written_at_the_end(publish: Any, tmp_path: Path) -> None:
    pytest.importorskip("hdrh.histogram")
    published = publish()
    fill(published)
    svg, folder, log = tmp_path / "top.svg", tmp_path / "hgrm", tmp_path / "top.hlog"
    files = "--svg", str(svg), "--hgrm", str(folder), "--hlog", str(log)
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "pvpmu.cli", "top", published.name, "-s", "0.1", *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    # The view has looked: what comes now is what it is to write, and nothing from before.
    fill(published)
    published.end(Status.DONE)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    ended = time.time()
    assert process.returncode == 0, errors
    assert svg.read_text("utf-8").startswith("<svg")
    written = [path.read_text("utf-8") for path in folder.iterdir()]
    assert len(written) == 3
    assert all("TotalCount     =         1.00" in text for text in written)
    text = log.read_text("utf-8")
    assert text.count("Tag=") == 3
    (start,) = re.findall(r"StartTime: ([0-9.]+)", text)
    assert began <= float(start) + 0.001 <= ended
    for line in text.splitlines():
        if line.startswith("Tag="):
            assert float(start) + float(line.split(",")[2]) <= ended + 0.002


def test_where_nothing_was_recorded_meanwhile_that_is_said(publish: Any, tmp_path: Path) -> None:
    published = publish()
    fill(published)
    done = top("--once", "-s", "0.1", published.name, "--hgrm", str(tmp_path))
    assert done.returncode == 0
    assert "pvpmu: no latency was recorded while the view looked\n" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_where_hosts_run_that_publish_nothing_they_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "running", list)
    monkeypatch.setattr(cli, "unpublished", lambda: ["vm3", "vm4"])
    assert main(["top"]) == 2
    words = "no host publishes for the view (--no-publish): vm3, vm4"
    assert capsys.readouterr().err == f"pvpmu: error: {words}\n"
    assert main(["top", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "vm3: not published (--no-publish)",
        "vm4: not published (--no-publish)",
    ]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nobody"], "no host of 'nobody'"),
        (["a/b"], "VM name 'a/b'"),
        (["-s", "0"], "interval 0 s, expected 0.1 to 3600 s"),
        (["--interval=-1"], "interval -1 s, expected 0.1 to 3600 s"),
        (["-s", "x"], "'x' is no number of seconds"),
        (["-n", "0"], "0 is below 1"),
        (["--once", "--batch"], "not allowed with argument"),
        (["--json", "--csv"], "not allowed with argument"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args: list[str], words: str) -> None:
    done = top(*args)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("pvpmu: error: ")
    assert words in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-f", "("], "is no regular expression"),
        (["-p", "7"], "--vcpu 7, expected 0 to 0"),
        (["--svg", "/nowhere/x.svg"], "/nowhere/x.svg: cannot be written"),
        (["--hgrm", "/dev/null"], "/dev/null: cannot be written: /dev/null is no folder"),
        (["--hgrm", "/dev/null/a/b"], "/dev/null/a/b: cannot be written: /dev/null is no folder"),
        (["--hlog", "/dev/null/log"], "/dev/null/log: cannot be written: /dev/null is no folder"),
        (["--svg", "/dev/null/svg"], "/dev/null/svg: cannot be written: /dev/null is no folder"),
    ],
)
def test_a_mistake_about_a_running_host_is_one_too(
    publish: Any, args: list[str], words: str
) -> None:
    done = top(publish().name, "--once", *args)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_full_disk_is_one_line_with_the_files_name(publish: Any) -> None:
    published = publish()
    fill(published)
    done = top(published.name, "-n", "1", "-s", "0.1", "--svg", "/dev/full")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line == "pvpmu: error: /dev/full: cannot be written: No space left on device"


def test_a_host_of_another_version_is_refused(publish: Any) -> None:
    published = publish()
    published.host.words[liveview.VM_VERSION] = 2
    done = top(published.name)
    assert done.returncode == 2
    assert "publishes version 2, expected 1" in done.stderr
