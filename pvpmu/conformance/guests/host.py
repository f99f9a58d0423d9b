"""The kit's host process: one session after another, each with a VM name of its own.

A process of its own, so that a guest which breaks it costs one session. vCPUs are threads: one
lock serves one exit at a time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import msgpack
import posix_ipc

from pvpmu.conformance.guests.cases import RULES, Greeting
from pvpmu.conformance.guests.rule import End
from pvpmu.conformance.guests.vcpu import WatchedVcpu
from pvpmu.conformance.guests.wire import LISTENING, Job, Report
from pvpmu.host.server import HostConfig, handoffs_of, refusal, refuse, vm_names, welcome_to
from pvpmu.host.worker import stats_message
from pvpmu.shared import control, memory, page
from pvpmu.shared.control import Bye, Channel, Hello, RefusalCode, Refuse, Stats, StatsRequest
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import PeerError
from pvpmu.shared.exits import SLOT_SIZE, ExitReason
from pvpmu.shared.handoff import Attached
from pvpmu.shared.layout import WORD_BYTES
from pvpmu.shared.memory import HEADER_SIZE

_HELLO_TIMEOUT_S = 2.0
_MAX_ROUND_TRIPS = 1 << 16
_SHM = Path("/dev/shm")  # noqa: S108 (where shm_open(3) keeps names)


def serve_sessions(pipe: Connection[Any, Any], _boot: object) -> None:
    """Hold a session for each :class:`Job` that the pipe brings.

    LISTENING is sent as soon as the guest may come, a :class:`Report` at its end. The names stay
    until STOP comes, once for each job; before the report it ends the session.
    """
    pipe.send(True)
    while True:
        _Held(pipe.recv(), pipe).hold()
        gc.collect()


class _Held:
    """One session, from names to names."""

    def __init__(self, job: Job, pipe: Connection[Any, Any]) -> None:
        self._job, self._pipe = job, pipe
        self._report = Report()
        self._stopped = False
        self._config = HostConfig(
            name=job.name,
            design=design_named("page"),
            vcpus=job.vcpus,
            cpuid=job.shape,
            pin="none",
            wait_s=0,
        )

    def hold(self) -> None:
        """Hold it."""
        pipe = self._pipe
        with vm_names(self._config) as listener:
            pipe.send(LISTENING)
            try:
                self._admit(listener)
            except PeerError as error:
                self._report.trouble = str(error)
            pipe.send(self._report)
            if not self._stopped:
                pipe.recv()

    def _admit(self, listener: socket.socket) -> None:
        """Wait for the guest, and serve it if it may come in."""
        if listener not in wait([listener, self._pipe]):
            self._take_stop()
            return
        connection, _ = listener.accept()
        with contextlib.closing(Channel(connection)) as channel:
            channel.set_timeout(_HELLO_TIMEOUT_S)
            try:
                hello = channel.expect(Hello)
                refused = refusal(channel, hello, self._config)
            except PeerError as error:
                refused = Refuse(RefusalCode.MALFORMED, str(error))
            if refused is not None:
                self._report.refused = f"code {refused.code}, {refused.reason}"
                refuse(channel, refused)
            elif self._job.session.greeting == "refuse":
                self._report.admitted = True
                refuse(channel, Refuse(RefusalCode.BUSY, "this is how a refusal looks"))
            else:
                self._serve(channel, hello)

    def _serve(self, channel: Channel, hello: Hello) -> None:
        handoffs = handoffs_of(self._config, hello, [-1] * hello.vcpus)
        welcome = welcome_to(self._config, handoffs, [-1] * hello.vcpus)
        segment = _problem(hello)
        with contextlib.ExitStack() as stack:
            attached = [stack.enter_context(_attached(each.attach())) for each in handoffs]
            _age(attached[0].memory.words)
            served = _Served(self._job, attached, self._pipe, self._report)
            try:
                channel.send_packet(_greeting(self._job.session.greeting, welcome))
                self._report.admitted = True
                if served.session(channel):
                    self._take_stop()
            finally:
                served.end(segment)

    def _take_stop(self) -> None:
        self._pipe.recv()
        self._stopped = True


@contextlib.contextmanager
def _attached(attached: Attached) -> Iterator[Attached]:
    try:
        yield attached
    finally:
        # What still looks into the segments must be gone before they can be unmapped.
        gc.collect()
        attached.slot.release()
        attached.segment.close()
        attached.memory.close()


def _age(words: memoryview[int]) -> None:
    """Let guest memory hold pages of an earlier life (rule BND-6), ready and FROZEN."""
    old = [0] * (page.PAGE_SIZE // WORD_BYTES)
    old[page.VERSION], old[page.SIZE], old[page.GENERATION] = page.PAGE_VERSION, page.PAGE.used, 7
    for index in (page.GP_MASK, page.FIXED_MASK, page.STATUS_MASK):
        old[index] = (1 << 48) - 1
    for index in (page.ACKED, page.RELEASE_SEQ, page.PMI_ACK, page.FREEZE_SEQ, page.PMI_SEQ):
        old[index] = 3
    old[page.RAISED] = 3
    aged = memoryview(bytearray(b"".join(word.to_bytes(8, "little") for word in old))).cast("Q")
    for first in range(0, len(words) - len(aged) + 1, len(aged)):
        words[first : first + len(aged)] = aged


def _problem(hello: Hello) -> str:
    """What is wrong with the guest's memory segment, empty for nothing (rules BND-2, BND-3)."""
    about = (_SHM / hello.memory).stat()
    if stat.S_IMODE(about.st_mode) != 0o600:
        return f"mode {stat.S_IMODE(about.st_mode):#o}, expected 0o600"
    if about.st_blocks * 512 < HEADER_SIZE + hello.memory_bytes:
        expected = HEADER_SIZE + hello.memory_bytes
        return f"{about.st_blocks * 512} bytes allocated, expected {expected}"
    if not memory.owner_lives(hello.memory):
        return "its header names no live process with that start time"
    return ""


def _greeting(kind: Greeting, welcome: control.Welcome) -> bytes:
    """Welcome, in the way of the case."""
    if kind == "version":
        welcome = replace(welcome, version=control.CONTROL_VERSION + 1)
    if kind == "slot":
        welcome = replace(welcome, slot_bytes=SLOT_SIZE // 2)
    packet = control.encode(welcome)
    return _widest(packet) if kind == "encoding" else packet


class _Served:
    """One admitted guest: its vCPUs' threads, and what it says on the socket."""

    def __init__(
        self,
        job: Job,
        attached: Sequence[Attached],
        pipe: Connection[Any, Any],
        report: Report,
    ) -> None:
        self._job, self._pipe, self._report = job, pipe, report
        self._rules = [rule(job.session.offer) for rule in RULES]
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._woken, self._wake = os.pipe()
        session = job.session
        self._faults = [session.fault() for _ in attached]
        self._vcpus = [
            WatchedVcpu(
                number, each.slot, each.memory.words, session.offer, job.shape, session.profile,
                fault, self._rules,
            )
            for number, (each, fault) in enumerate(zip(attached, self._faults, strict=True))
        ]  # fmt: skip
        for vcpu in self._vcpus:
            vcpu.last_words = self._last_words
        self._stats = [control.VcpuStats.empty() for _ in attached]
        self._semaphores = [(each.exit_semaphore, each.entry_semaphore) for each in attached]
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(len(attached))
        ]
        for thread in self._threads:
            thread.start()

    def session(self, channel: Channel) -> bool:
        """Answer until Bye, the end of the connection, or trouble; True if STOP comes first."""
        socket_fd = channel.fileno()
        while True:
            ready = wait([socket_fd, self._pipe, self._woken])
            if socket_fd not in ready:
                # STOP; or a rule is broken, or a thread has failed.
                return self._pipe in ready
            message = channel.receive()
            match message:
                case StatsRequest(vcpu) if 0 <= vcpu < len(self._vcpus):
                    channel.send(Stats(self._stats[vcpu]))
                case Bye():
                    self._report.bye = True
                    return False
                case None:
                    return False
                case _:
                    raise PeerError(f"expected StatsRequest of a vCPU or Bye, got {message}")

    def end(self, segment: str) -> None:
        """Let the threads end, and complete the report."""
        self._stop.set()
        for exit_semaphore, _ in self._semaphores:
            exit_semaphore.release()
        for thread in self._threads:
            thread.join()
        report = self._report
        if report.bye:
            registered = tuple(vcpu.number for vcpu in self._vcpus if vcpu.page is not None)
            ended = tuple(filter(None, (vcpu.ended() for vcpu in self._vcpus)))
            for rule in self._rules:
                rule.finish(End(registered=registered, ended=ended, segment=segment))
        self._complete()
        self._vcpus.clear()
        os.close(self._woken)
        os.close(self._wake)

    def _complete(self) -> None:
        report = self._report
        report.fired = sum(fault.fired for fault in self._faults)
        report.broken = {rule.id: rule.broken for rule in self._rules if rule.broken is not None}
        report.occasions = {rule.id: rule.occasions for rule in self._rules}

    def _last_words(self) -> None:
        self._report.died = True
        self._complete()
        self._pipe.send(self._report)

    def _run(self, number: int) -> None:
        """One vCPU's thread."""
        vcpu = self._vcpus[number]
        exit_semaphore, entry_semaphore = self._semaphores[number]
        try:
            while True:
                exit_semaphore.acquire()
                with self._lock:
                    if self._stop.is_set():
                        return
                    rounds = self._exit(vcpu)
                for _ in range(rounds):
                    entry_semaphore.release()
                    exit_semaphore.acquire()
                    if self._stop.is_set():
                        return
                entry_semaphore.release()
        except posix_ipc.Error as error:
            # A guest can post until a semaphore is full.
            self._report.trouble = f"semaphores of vCPU {number}: {error}"
            os.write(self._wake, b".")
        except Exception as error:  # noqa: BLE001 (ends this session only, and it says so)
            self._report.error = f"{type(error).__name__}: {error}"
            os.write(self._wake, b".")

    def _exit(self, vcpu: WatchedVcpu) -> int:
        """Serve one exit; returns the bare round trips that follow it (FLOOR)."""
        report = self._report
        reason = vcpu.serve()
        seen = vcpu.seen
        report.last = f"vCPU {vcpu.number}, exit {seen.number}: {seen.text}"
        report.registered |= vcpu.page is not None
        if seen.due and any(fault.fired for fault in self._faults):
            report.overflows_after += 1
        if vcpu.result is not None:
            self._stats[vcpu.number] = stats_message(vcpu.result)
            vcpu.result = None
        if self._job.until_broken and any(rule.broken for rule in self._rules):
            os.write(self._wake, b".")
        if reason == ExitReason.FLOOR:
            return min(seen.value, _MAX_ROUND_TRIPS)
        return 0


def _widest(packet: bytes) -> bytes:
    """The same map with each value in its longest encoding, keys in the opposite order."""
    return _pack(dict(reversed(list(msgpack.unpackb(packet).items()))))


def _pack(value: object) -> bytes:
    match value:
        case int():
            head = b"\xd3" if value < 0 else b"\xcf"
            return head + (value & (1 << 64) - 1).to_bytes(8, "big")
        case str():
            text = value.encode()
            return b"\xdb" + len(text).to_bytes(4, "big") + text
        case list():
            return b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(_pack, value))
        case dict():
            items = b"".join(_pack(key) + _pack(each) for key, each in value.items())
            return b"\xdf" + len(value).to_bytes(4, "big") + items
    raise TypeError(type(value))
