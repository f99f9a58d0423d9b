"""Where simulations run: a pool of local processes, or an engine that runs already."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process

from pvpmu.shared.errors import PeerError, UsageError

_CONNECT_S = 10


@dataclass(frozen=True, slots=True)
class Engine:
    """An executor, how many simulations it runs at once, and what it raises when it loses one."""

    executor: Executor
    slots: int
    losses: tuple[type[BaseException], ...]


@contextlib.contextmanager
def open_engine(name: str, *, jobs: int, scheduler: str) -> Iterator[Engine]:
    """The engine called ``name``: ``local`` has ``jobs`` processes, ``dask`` is at ``scheduler``.

    Raises :class:`UsageError` without the library or for a malformed address, :class:`PeerError`
    when no scheduler answers.
    """
    with _dask(scheduler) if name == "dask" else _local(jobs) as engine:
        yield engine


@contextlib.contextmanager
def _local(jobs: int) -> Iterator[Engine]:
    # A thread draws progress: forking beside it is not safe.
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as executor:
        yield Engine(executor, jobs, (BrokenProcessPool,))


@contextlib.contextmanager
def _dask(scheduler: str) -> Iterator[Engine]:
    try:
        from distributed import CancelledError, Client, KilledWorker  # noqa: PLC0415
        from distributed.comm import get_address_host_port  # noqa: PLC0415
    except ImportError:
        raise UsageError("--engine dask needs the extra dask: pip install 'pvpmu[dask]'") from None
    try:
        get_address_host_port(scheduler)
    except ValueError as error:
        raise UsageError(f"--scheduler {scheduler}: {error}") from None
    try:
        client = Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
    except OSError as error:
        raise PeerError(f"no dask scheduler at {scheduler}: {error}") from None
    with client:
        slots = sum(client.nthreads().values())
        if not slots:
            raise PeerError(f"the dask scheduler at {scheduler} has no workers")
        yield Engine(client.get_executor(pure=False), slots, (CancelledError, KilledWorker))


def _start_worker() -> None:
    # Ctrl-C reaches the whole foreground group; the main process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End when the main process does, however it does: a pool's worker would wait for ever."""
    connection.wait([sentinel])
    os._exit(1)
