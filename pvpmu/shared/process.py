"""What every command shares: one-line failures, argument types, and which CPUs to run on."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pvpmu.shared.errors import PvpmuError, ResourceError, UsageError
from pvpmu.shared.output import STANDARD_OUTPUT, named_output

MAX_VCPUS = 1024
"""As KVM_MAX_VCPUS on x86."""
_MAX_SECONDS = 1_000_000
PINS = ("same", "split", "none")


class _Terminated(Exception):  # noqa: N818 (a request, not an error)
    """SIGTERM or SIGHUP arrived."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose mistakes are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise :class:`UsageError`."""
        raise UsageError(message)


def run_command(name: str, command: Callable[[list[str]], int], argv: list[str] | None) -> int:
    """Run a command's body; returns its exit status and prints a failure as one line."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Whoever ignores a signal for us (nohup) means it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    try:
        with named_output():
            return command(sys.argv[1:] if argv is None else argv)
    except PvpmuError as error:
        _say(f"{name}: error: {error}")
        return error.status
    except KeyboardInterrupt:
        _say(f"{name}: interrupted")
        return 128 + signal.SIGINT
    except _Terminated as signalled:
        _say(f"{name}: terminated")
        return 128 + signalled.number
    except BrokenPipeError:
        # The reader of our output has gone: not worth a line, and there is nowhere to write it.
        return 128 + signal.SIGPIPE
    except OSError as error:
        # A full disk, a vanished folder: the machine's refusal, not a defect.
        output = error.filename == STANDARD_OUTPUT
        what = f"{STANDARD_OUTPUT}: cannot be written: {error.strerror}" if output else error
        _say(f"{name}: error: {what}")
        return 1


def vcpu_count(text: str) -> int:
    """Argument type: a number of vCPUs, 1 to MAX_VCPUS."""
    value = integer(text)
    if not 1 <= value <= MAX_VCPUS:
        raise argparse.ArgumentTypeError(f"{value} is outside 1..{MAX_VCPUS}")
    return value


def at_least_one(text: str) -> int:
    """Argument type: an integer from 1 on."""
    value = integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def seconds(text: str) -> float:
    """Argument type: seconds, not negative."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    if not 0 <= value <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} s is outside 0..{_MAX_SECONDS}")
    return value


def writable(path: Path) -> Path:
    """``path``, if a file can be written there: better found out before minutes of work.

    Raises :class:`UsageError`.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected a file")
    if not path.exists():
        _may_make(path, path.parent)
    elif not os.access(path, os.W_OK):
        raise UsageError(f"{path}: cannot be written")
    return path


@contextlib.contextmanager
def writing(where: Path | str) -> Iterator[None]:
    """While ``where`` is written: a disk that is full, a folder that has gone, says of which file.

    Raises :class:`ResourceError`.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise ResourceError(f"{error.filename or where}: cannot be written: {why}") from None


def writable_folder(path: Path) -> Path:
    """``path``, if files can be written there, in a folder that is made if need be.

    Raises :class:`UsageError`.
    """
    there = next(each for each in (path, *path.parents) if each.exists())
    _may_make(path, there)
    return path


def _may_make(path: Path, folder: Path) -> None:
    """Raise :class:`UsageError` if ``path`` cannot be made since ``folder`` is none, or closed."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{path}: cannot be written: {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: cannot be written")


def place(pin: str, vcpus: int) -> list[tuple[int, int]]:
    """(host CPU, guest CPU) for each vCPU; -1 where a worker is not pinned.

    Raises :class:`ResourceError` when ``split`` finds a single CPU.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if pin == "none":
        return [(-1, -1)] * vcpus
    if pin == "split" and len(cpus) < 2:
        raise ResourceError("--pin split needs 2 CPUs, this process may use 1")
    shift = 1 if pin == "split" else 0
    return [(cpus[(i + shift) % len(cpus)], cpus[i % len(cpus)]) for i in range(vcpus)]


def pin_to(cpu: int) -> None:
    """Run this process on one CPU; -1 leaves it as it is. Raises :class:`ResourceError`."""
    if cpu < 0:
        return
    try:
        os.sched_setaffinity(0, {cpu})
    except (OSError, OverflowError) as error:
        raise ResourceError(f"cannot run on CPU {cpu}: {error}") from None


def _on_signal(number: int, _frame: FrameType | None) -> None:
    raise _Terminated(number)


def integer(text: str) -> int:
    """Argument type: an integer, decimal or 0x."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer") from None


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(" ".join(line.splitlines()), file=sys.stderr, flush=True)
