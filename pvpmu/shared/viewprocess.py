"""``pvpmu top`` as a child of a command that was asked for ``--live``: a process of its own.

What is measured is then not held up by drawing. The view has the terminal, so that the command
says nothing on it meanwhile.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from pvpmu.shared.errors import PvpmuError, ResourceError
from pvpmu.shared.workers import python_command, python_environment

_END_S = 5


@contextlib.contextmanager
def live_view(names: Sequence[str], wait_s: float) -> Iterator[Callable[[], bool]]:
    """Look at these VMs, whose hosts may come up to ``wait_s`` later, until the user has enough.

    Yields what tells whether the view still has the terminal.

    On a terminal the view stays when its hosts have ended, and so does the caller on leaving; also
    after an error of this project, whose last numbers may say why. Elsewhere it prints lines, on
    standard error, and ends with the hosts.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 (this interpreter, this package)
            python_command("pvpmu.cli", "top", "--wait", f"{wait_s:g}", *names),
            # Standard output is the command's own, for its results.
            stdout=sys.stderr.fileno(),
            env=python_environment(),
        )
    except OSError as error:
        raise ResourceError(f"the view cannot start: {error.strerror}") from None
    try:
        yield lambda: process.poll() is None
    except PvpmuError:
        process.wait()
        raise
    except BaseException:
        _end(process)
        raise
    process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    """The view puts the terminal back when it is told to end."""
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
