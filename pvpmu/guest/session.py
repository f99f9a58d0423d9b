"""The guest's main process: memory, the handshake with the host, a worker per vCPU, jobs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import TypeVar

from pvpmu.guest.machine import Job
from pvpmu.guest.worker import JobProgress, JobResult
from pvpmu.recording.file import RecordingFile
from pvpmu.recording.handed import handed
from pvpmu.shared import control, liveview, memory
from pvpmu.shared.control import Bye, Channel, Hello, Stats, StatsRequest, VcpuStats, Welcome
from pvpmu.shared.errors import PeerError, UsageError
from pvpmu.shared.exits import SLOT_SIZE
from pvpmu.shared.handoff import Handoff
from pvpmu.shared.layout import WORD_BYTES
from pvpmu.shared.memory import Segment
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.workers import Worker, workers

_RETRY_S = 0.02
_ANSWER_TIMEOUT_S = 90.0

_T = TypeVar("_T")

OnProgress = Callable[[float], None]
"""Told the share of the jobs that is done, 0 to 1."""


def memory_needed(vcpus: int) -> int:
    """Bytes of guest memory that hold the pages of so many vCPUs."""
    return vcpus * PAGE_SIZE


class Session:
    """A guest that the host has admitted. ``design`` is the host's."""

    def __init__(self, channel: Channel, welcome: Welcome, started: list[Worker]) -> None:
        self._channel = channel
        self._workers = started
        self.design = welcome.design

    @property
    def vcpus(self) -> int:
        """Number of vCPUs."""
        return len(self._workers)

    def run(
        self, jobs: Sequence[Job[_T]], on_progress: OnProgress | None = None, *, first: int = 0
    ) -> list[_T]:
        """Do one job on each vCPU from ``first`` on, all at once; returns their results in order.

        Raises what a job raises, or :class:`PeerError` when the host or a worker ends.
        """
        active = self._workers[first : first + len(jobs)]
        for worker, job in zip(active, jobs, strict=True):
            worker.send(job)
        results: dict[int, _T] = {}
        shares = [0.0] * len(jobs)
        while len(results) < len(jobs):
            for vcpu in self._ready(active):
                message = active[vcpu].receive()
                if isinstance(message, JobProgress):
                    shares[vcpu] = message.share
                    if on_progress is not None:
                        on_progress(sum(shares) / len(shares))
                elif isinstance(message, JobResult):
                    results[vcpu] = message.value  # what Job[_T].do returned in our own worker
        return [results[vcpu] for vcpu in range(len(jobs))]

    def stats(self) -> list[VcpuStats]:
        """The host's statistics of the last measured window, by vCPU."""
        found = []
        for vcpu in range(self.vcpus):
            # One at a time: statistics of many vCPUs would not fit in a packet.
            self._channel.send(StatsRequest(vcpu))
            found.append(self._channel.expect(Stats).stats)
        return found

    def _ready(self, active: list[Worker]) -> list[int]:
        """Workers with a message; the host says nothing now, so its readiness is its end."""
        pipes = {worker.pipe.fileno(): vcpu for vcpu, worker in enumerate(active)}
        ready = wait([*pipes, self._channel.fileno()])
        messages = [vcpu for pipe, vcpu in pipes.items() if pipe in ready]
        if not messages:
            raise PeerError("the host has gone")
        return messages


@dataclass(frozen=True, slots=True)
class Admission:
    """What the host gave a guest that it admitted: one handoff for each vCPU."""

    channel: Channel
    welcome: Welcome
    handoffs: list[Handoff]

    def leave(self) -> None:
        """Tell the host that the guest is done."""
        self.channel.send(Bye())


@contextlib.contextmanager
def join(
    name: str,
    vcpus: int,
    *,
    wait_s: float,
    memory_bytes: int,
    host_lives: Callable[[], bool] | None = None,
) -> Iterator[Admission]:
    """Make the guest's memory and be admitted to the VM; everything is removed on leaving.

    For the rest see :func:`open_session`. Nobody leaves for the caller: see ``Admission.leave``.
    """
    memory.cleanup(name)
    with contextlib.ExitStack() as stack:
        # Last of all: a host that was killed meanwhile leaves names behind.
        stack.callback(memory.cleanup, name)
        segment = stack.enter_context(
            Segment.create(memory.segment_name(name, "guest"), memory_bytes)
        )
        channel = _connect(name, wait_s, host_lives or (lambda: True))
        stack.callback(channel.close)
        channel.set_timeout(_ANSWER_TIMEOUT_S)
        channel.send(
            Hello(
                version=control.CONTROL_VERSION,
                pid=control.own_pid(),
                vcpus=vcpus,
                memory=segment.name,
                memory_bytes=memory_bytes,
            )
        )
        welcome = channel.expect(Welcome)
        _check(welcome, vcpus)
        yield Admission(channel, welcome, _handoffs(welcome, segment.name, memory_bytes))


@contextlib.contextmanager
def open_session(
    name: str,
    vcpus: int,
    *,
    wait_s: float,
    memory_bytes: int | None = None,
    host_lives: Callable[[], bool] | None = None,
    live: bool = False,
    recording: RecordingFile | None = None,
) -> Iterator[Session]:
    """Join the VM called ``name`` with so many vCPUs; everything is removed on leaving.

    Waits up to ``wait_s`` for the host, or until ``host_lives`` says no. ``memory_bytes``: size
    of the guest's memory, as little as its pages need by default. ``live``: record latencies for
    the live view, as the host may also ask for. ``recording``: what the vCPUs are recorded to; it
    is closed on leaving. Raises :class:`UsageError` when the memory is too small,
    :class:`NameInUseError`, :class:`RefusedError`, :class:`PeerError`.
    """
    needed = memory_needed(vcpus)
    size = needed if memory_bytes is None else memory_bytes
    if size < needed:
        raise UsageError(
            f"guest memory of {size} bytes, expected at least {needed} bytes: {PAGE_SIZE} for the "
            f"page of each of {vcpus} vCPU"
        )
    with (
        join(name, vcpus, wait_s=wait_s, memory_bytes=size, host_lives=host_lives) as admission,
        _published(name, vcpus, wanted=live or _asked(name)) as published,
        _recorded(recording, admission, published) as (handoffs, inherited),
        workers("guest", "pvpmu.guest.worker:run_vcpu", handoffs, inherited) as started,
    ):
        session = Session(admission.channel, admission.welcome, started)
        try:
            yield session
        except UsageError:
            # The host did nothing wrong: it is told that this guest is done.
            admission.leave()
            raise
        admission.leave()


@contextlib.contextmanager
def _published(name: str, vcpus: int, *, wanted: bool) -> Iterator[str]:
    """The segment of this guest's latencies, empty for none; it is gone on leaving."""
    if not wanted:
        yield ""
        return
    size = liveview.guest_bytes(vcpus)
    with Segment.create(memory.segment_name(name, liveview.GUEST_SIDE), size) as segment:
        liveview.begin_guest(segment.words, vcpus=vcpus)
        yield segment.name


def _asked(name: str) -> bool:
    """Whether the host asks for latencies; a host that publishes nothing does not."""
    try:
        with memory.Copies(memory.segment_name(name, liveview.HOST_SIDE), liveview.VM.size) as host:
            words = host.words(0, liveview.VM.size // WORD_BYTES)
    except PeerError:
        return False
    return words[liveview.VM_VERSION] == liveview.VIEW_VERSION and bool(words[liveview.VM_WANTS])


def _recorded(
    recording: RecordingFile | None, admission: Admission, published: str
) -> contextlib.AbstractContextManager[tuple[list[Handoff], list[int]]]:
    """What the workers are handed; the recording learns which design the host serves."""
    if recording is not None:
        recording.meta.setdefault("design", admission.welcome.design)
    handoffs = [replace(handoff, live=published) for handoff in admission.handoffs]
    return handed(recording, "guest", handoffs)


def _check(welcome: Welcome, vcpus: int) -> None:
    if welcome.version != control.CONTROL_VERSION:
        raise PeerError(
            f"the host speaks control version {welcome.version}, expected {control.CONTROL_VERSION}"
        )
    if not len(welcome.semaphores) == len(welcome.cpus) == vcpus:
        raise PeerError(
            f"the host offers {len(welcome.semaphores)} semaphore pairs and "
            f"{len(welcome.cpus)} CPUs, expected {vcpus} of each"
        )
    if welcome.slot_bytes < SLOT_SIZE or welcome.segment_bytes < vcpus * welcome.slot_bytes:
        raise PeerError(
            f"the host offers slots of {welcome.slot_bytes} bytes in {welcome.segment_bytes}, "
            f"expected {vcpus} of at least {SLOT_SIZE} bytes"
        )


def _connect(name: str, wait_s: float, host_lives: Callable[[], bool]) -> Channel:
    deadline = time.monotonic() + wait_s
    while True:
        channel = control.connect(name)
        if channel is not None:
            return channel
        if not host_lives():
            raise PeerError(f"the host of {name!r} ended before its guest came")
        if time.monotonic() >= deadline:
            raise PeerError(f"no host for {name!r} came within {wait_s:g} s")
        time.sleep(_RETRY_S)


def _handoffs(welcome: Welcome, memory_name: str, memory_bytes: int) -> list[Handoff]:
    return [
        Handoff(
            vcpu=vcpu,
            cpu=welcome.cpus[vcpu],
            segment=welcome.segment,
            segment_bytes=welcome.segment_bytes,
            slot_bytes=welcome.slot_bytes,
            memory=memory_name,
            memory_bytes=memory_bytes,
            exit_semaphore=exit_name,
            entry_semaphore=entry_name,
        )
        for vcpu, (exit_name, entry_name) in enumerate(welcome.semaphores)
    ]
