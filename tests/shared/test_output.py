"""Standard output that cannot be written, as a user's shell gives it to a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import sys
from pvpmu.shared.process import run_command

def body(argv):
    {body}
    return 0

sys.exit(run_command("some", body, []))
"""
SHORT, LONG = "print('few')", "print('x' * 100_000)"
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def run(
    body: str, target: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMAND.format(body=body)]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {target}', "sh", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "", **(environment or {})},
    )


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("body", [SHORT, LONG, "sys.stdout.buffer.write(b'few')"])
def test_a_full_disk_is_one_line_about_standard_output(body: str, unbuffered: str) -> None:
    done = run(body, "> /dev/full", {"PYTHONUNBUFFERED": unbuffered})
    assert done.stderr == (
        "some: error: standard output: cannot be written: No space left on device\n"
    )
    assert done.returncode == 1


@needs_full
@pytest.mark.parametrize("lines", [1, 5000])
def test_help_that_cannot_be_written_is_an_error(lines: int) -> None:
    parser = f"import argparse; argparse.ArgumentParser(epilog='x ' * {lines})"
    done = run(f"{parser}.parse_args(['-h'])", "> /dev/full")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


@needs_full
def test_what_failed_before_is_what_is_said() -> None:
    done = run("print('few'); raise OSError('something else')", "> /dev/full")
    assert (done.returncode, done.stderr) == (1, "some: error: something else\n")


@pytest.mark.parametrize("body", [SHORT, LONG])
def test_a_closed_standard_output_is_said(body: str) -> None:
    done = run(body, ">&-")
    assert done.stderr == "some: error: standard output: cannot be written: Bad file descriptor\n"
    assert done.returncode == 1
    assert run("pass", ">&-").returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_is_written_arrives_in_order(unbuffered: str) -> None:
    body = "print('ä'); sys.stdout.buffer.write(b'') ; sys.stdout.write('two\\n')"
    done = run(body, "", {"PYTHONUNBUFFERED": unbuffered, "PYTHONUTF8": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "ä\ntwo\n", "")


def test_a_reader_that_has_gone_is_no_error_line() -> None:
    done = run(LONG, "| true")
    assert done.stderr == ""
