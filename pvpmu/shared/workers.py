"""Worker processes: one per vCPU and side, started by a main process that they never outlive.

A worker is ``python -m pvpmu.shared.workers MODULE:FUNCTION``: nothing of the caller's own main
module runs in it, so that any script can start some.

**Invariants**: a worker ends when its main process does, however that one ends; a worker owns no
name in ``/dev/shm``, so that ending it at any instant leaks nothing.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn

from pvpmu.shared.errors import PeerError, PvpmuError, ResourceError

_STOP_TIMEOUT_S = 5
_START_TIMEOUT_S = 60

Body = Callable[["Connection[Any, Any]", Any], None]
"""A worker's body: gets the pipe to its main process and what it was given to start with."""


def python_command(module: str, *args: str) -> list[str]:
    """How to run a module of this package; with :func:`python_environment`."""
    return [sys.executable, "-P", "-m", module, *args]


def python_environment() -> dict[str, str]:
    """The same packages as here, whatever the current folder holds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@dataclass(frozen=True, slots=True)
class Failure:
    """What a worker sends instead of a result: an error of ours, to be raised in the main."""

    error: PvpmuError


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process and the pipe to it. ``label`` names it in errors."""

    label: str
    process: subprocess.Popen[bytes]
    pipe: Connection[Any, Any]

    def receive(self) -> Any:
        """Next message; raises what the worker raised, or :class:`PeerError` if it has ended."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            self._raise_ended()
        if isinstance(message, Failure):
            raise message.error
        return message

    def send(self, message: object) -> None:
        """Send one message; raises :class:`PeerError` if the worker has ended."""
        try:
            self.pipe.send(message)
        except OSError:
            self._raise_ended()

    def _raise_ended(self) -> NoReturn:
        code: object = "unknown"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(_STOP_TIMEOUT_S)
        raise PeerError(f"{self.label} ended, exit status {code}")


@contextlib.contextmanager
def workers(
    side: str, body: str, boots: Sequence[object], inherited: Sequence[int] = ()
) -> Iterator[list[Worker]]:
    """Start a worker per entry of ``boots``, which it is given; end them all on leaving.

    ``body``: "MODULE:FUNCTION", a :data:`Body` that sends one message as soon as it is ready.
    ``inherited``: open files that every worker gets too. Raises what a worker raises before that.
    """
    started: list[Worker] = []
    # Nobody writes to the lifeline: its write end closes when this process ends, however it does.
    lifeline, held = os.pipe()
    try:
        for number, boot in enumerate(boots):
            label = f"the {side}'s worker of vCPU {number}"
            started.append(_start(label, body, lifeline, inherited))
            started[-1].send(boot)
        for worker in started:
            if not worker.pipe.poll(_START_TIMEOUT_S):
                raise ResourceError(f"{worker.label} did not start within {_START_TIMEOUT_S} s")
            worker.receive()
        yield started
    finally:
        os.close(lifeline)
        os.close(held)
        for worker in started:
            worker.process.terminate()
        for worker in started:
            try:
                worker.process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.pipe.close()


def _start(label: str, body: str, lifeline: int, inherited: Sequence[int]) -> Worker:
    ours, theirs = Pipe()
    handed = (theirs.fileno(), lifeline)
    try:
        process = subprocess.Popen(  # noqa: S603 (this interpreter, this package)
            python_command(__name__, body, *map(str, handed)),
            stdin=subprocess.DEVNULL,
            pass_fds=(*handed, *inherited),
            env=python_environment(),
        )
    except OSError as error:
        ours.close()
        raise ResourceError(f"{label} cannot start: {error.strerror}") from None
    finally:
        theirs.close()
    return Worker(label, process, ours)


def _worker_main(body: str, pipe_fd: str, lifeline: str) -> None:
    # Ctrl-C reaches the whole foreground group; the main process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(int(lifeline),), daemon=True).start()
    module, _, function = body.partition(":")
    run: Body = getattr(importlib.import_module(module), function)
    # What is there now stays: collecting garbage need not look at it in the middle of a handler.
    gc.collect()
    gc.freeze()
    pipe: Connection[Any, Any] = Connection(int(pipe_fd))
    try:
        run(pipe, pipe.recv())
    except PvpmuError as error:
        with contextlib.suppress(BrokenPipeError):
            pipe.send(Failure(error))
        _leave()
    except (EOFError, BrokenPipeError):
        _leave()  # The main process has gone; its end is not this worker's news.
    except BaseException:  # noqa: BLE001 (a defect: shown, then the end)
        traceback.print_exc()
        _leave()


def _leave() -> NoReturn:
    """End here, within the failure: its frames hold windows into memory that is mapped."""
    os._exit(1)


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


if __name__ == "__main__":
    # Through the import, so that what is pickled here is found under the module's own name.
    importlib.import_module("pvpmu.shared.workers")._worker_main(*sys.argv[1:])  # noqa: SLF001
