"""``pvpmu-host`` as a child of this process: started, ended, and heard when it fails."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from pvpmu.shared.errors import PeerError
from pvpmu.shared.workers import python_command, python_environment

WAIT_S = 30.0
_END_S = 10.0


class HostProcess:
    """One host. Its workers inherit its standard error, which ends when the last of them has."""

    def __init__(self, name: str, *options: str) -> None:
        command = python_command("pvpmu.host.cli", "--quiet", "--name", name)
        self._process = subprocess.Popen(  # noqa: S603 (this interpreter, this package)
            [*command, "--wait", f"{WAIT_S:g}", *options],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=python_environment(),
            text=True,
        )

    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL; returns when its workers, which never outlive it, have ended too."""
        self._process.kill()
        self._process.communicate(timeout=_END_S)

    def end(self) -> None:
        """After Bye it ends by itself; after a failure it sees the guest vanish."""
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def last_words(self) -> str:
        """The last line of an ended host's standard error; empty while it lives."""
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return ""
        stderr = self._process.stderr
        lines = stderr.read().splitlines() if stderr is not None and not stderr.closed else []
        return lines[-1] if lines else ""


@contextlib.contextmanager
def host_process(name: str, *options: str) -> Iterator[HostProcess]:
    """Start a host of that VM name; it is gone on leaving.

    Raises :class:`PeerError` with the host's own words when it ends early.
    """
    host = HostProcess(name, *options)
    try:
        yield host
    except PeerError as error:
        raise PeerError(host.last_words() or str(error)) from None
    finally:
        host.end()
