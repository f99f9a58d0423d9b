"""The host's main process: own the names, admit one guest, run its workers, report statistics."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait

from pvpmu.host.liveview import VmLive
from pvpmu.host.worker import HostBoot
from pvpmu.recording.file import Outcome, RecordingFile
from pvpmu.recording.handed import handed
from pvpmu.recording.options import RecordTo
from pvpmu.shared import control, liveview, memory
from pvpmu.shared.control import Bye, Channel, Hello, RefusalCode, Refuse, Stats, StatsRequest
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.errors import NameInUseError, PeerError
from pvpmu.shared.events import MODELLED
from pvpmu.shared.exits import SLOT_SIZE
from pvpmu.shared.handoff import Handoff
from pvpmu.shared.hostload import NO_LOAD, HostLoad
from pvpmu.shared.memory import Segment
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.port import PORT_BYTES
from pvpmu.shared.process import place
from pvpmu.shared.profile import KVM_5_14, Profile
from pvpmu.shared.workers import Worker, workers

_HELLO_TIMEOUT_S = 2.0
_ANSWER_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """What a host offers.

    ``wait_s``: how long a guest may take to come; ``pin``: see PINS. ``load``: the host's own
    events, and the physical PMU. ``test_port``: let the guest make the VMM's calls. ``live``: ask
    the guest to record latencies for the live view; ``publish``: let it see the host at all, which
    ``live`` needs. ``record``: where the vCPUs are recorded to.
    ``perf``: of PERFS; ``missing_events``: with real perf, what becomes of those it lacks.
    """

    name: str
    design: Design
    vcpus: int
    cpuid: PmuCpuid
    pin: str
    wait_s: float
    profile: Profile = KVM_5_14
    load: HostLoad = NO_LOAD
    test_port: bool = False
    live: bool = False
    publish: bool = True
    record: RecordTo | None = None
    perf: str = "model"
    missing_events: str = MODELLED

    @property
    def slot_bytes(self) -> int:
        """From one vCPU's exit slot to the next."""
        return SLOT_SIZE + (PORT_BYTES if self.test_port else 0)


def serve(
    config: HostConfig,
    say: Callable[[str], None],
    recorded: Callable[[Outcome], None] = lambda _: None,
) -> None:
    """Serve one guest from its Hello to its Bye, then remove everything.

    ``say`` gets one line per event, ``recorded`` what became of the recording, however the session
    ends. Raises :class:`NameInUseError`, :class:`PeerError` when no guest comes or the guest
    vanishes, :class:`ResourceError`, :class:`UsageError` when the recording cannot be written.
    """
    cpus = place(config.pin, config.vcpus)
    with vm_names(config) as listener, _published(config) as live:
        what = f"design {config.design.name}, vCPUs: {config.vcpus}"
        say(f"{config.name}: {what}, waiting for a guest")
        channel, hello = _admit(listener, config)
        with contextlib.closing(channel), live.serving(hello.pid, hello.vcpus):
            say(f"{config.name}: guest process {hello.pid}, vCPUs: {hello.vcpus}")
            handoffs = handoffs_of(config, hello, [host for host, _ in cpus])
            published = [replace(handoff, live=live.name) for handoff in handoffs]
            with (
                _recording(config, recorded) as recording,
                handed(recording, "host", published) as (own, inherited),
                workers(
                    "host",
                    "pvpmu.host.worker:serve_vcpu",
                    [_boot(config, handoff) for handoff in own],
                    inherited,
                ) as started,
            ):
                channel.send(welcome_to(config, handoffs, [guest for _, guest in cpus]))
                _session(channel, listener, started)
                say(f"{config.name}: guest done")


def _boot(config: HostConfig, handoff: Handoff) -> HostBoot:
    return HostBoot(
        handoff,
        config.design,
        config.cpuid,
        config.profile,
        config.load,
        config.test_port,
        config.perf,
        config.missing_events,
    )


@contextlib.contextmanager
def _recording(
    config: HostConfig, recorded: Callable[[Outcome], None]
) -> Iterator[RecordingFile | None]:
    """A recording that is not open yet, if one is asked for; on leaving it is told of."""
    if config.record is None:
        yield None
        return
    recording = config.record.open({"design": config.design.name, "vm": config.name})
    try:
        yield recording
    finally:
        recorded(recording.outcome)


@contextlib.contextmanager
def vm_names(config: HostConfig) -> Iterator[socket.socket]:
    """Make the VM's names and listen; all are gone on leaving.

    Raises :class:`NameInUseError`, :class:`ResourceError`.
    """
    memory.cleanup(config.name)
    with contextlib.ExitStack() as stack:
        # Last of all: a guest that was killed meanwhile leaves its memory behind.
        stack.callback(memory.cleanup, config.name)
        # The socket comes first: it can have one owner only, so that two hosts starting at once
        # cannot both think that the name is theirs.
        listener = stack.enter_context(_listen(config.name))
        stack.enter_context(
            Segment.create(
                memory.segment_name(config.name, "host"), config.vcpus * config.slot_bytes
            )
        )
        for vcpu in range(config.vcpus):
            for kind in memory.SEMAPHORES:
                semaphore = memory.create_semaphore(memory.semaphore_name(config.name, vcpu, kind))
                stack.callback(memory.remove_semaphore, semaphore)
        yield listener


@contextlib.contextmanager
def _published(config: HostConfig) -> Iterator[VmLive]:
    """What the live view sees of the VM; gone on leaving, but for those who look at it by then."""
    if not config.publish:
        yield VmLive.unpublished()
        return
    size = liveview.host_bytes(config.vcpus)
    name = memory.segment_name(config.name, liveview.HOST_SIDE)
    with Segment.create(name, size) as segment:
        liveview.begin_host(
            segment.words, vcpus=config.vcpus, design=config.design.name, wants=config.live
        )
        yield VmLive(segment.name, segment.words)


def handoffs_of(config: HostConfig, hello: Hello, cpus: Sequence[int]) -> list[Handoff]:
    """What the host's worker of each of the guest's vCPUs needs; ``cpus``: where it runs."""
    return [
        Handoff(
            vcpu=vcpu,
            cpu=cpus[vcpu],
            segment=memory.segment_name(config.name, "host"),
            segment_bytes=config.vcpus * config.slot_bytes,
            slot_bytes=config.slot_bytes,
            memory=hello.memory,
            memory_bytes=hello.memory_bytes,
            exit_semaphore=memory.semaphore_name(config.name, vcpu, "exit"),
            entry_semaphore=memory.semaphore_name(config.name, vcpu, "entry"),
        )
        for vcpu in range(hello.vcpus)
    ]


def _listen(name: str) -> socket.socket:
    try:
        return control.listen(name)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise NameInUseError(
                f"name {name!r} is in use by a live host; choose another --name"
            ) from None
        raise


def _admit(listener: socket.socket, config: HostConfig) -> tuple[Channel, Hello]:
    """Wait for a guest that may come in; others are refused and the wait goes on."""
    # A timeout per accept: a stream of refused guests can prolong the wait, which harms nobody.
    listener.settimeout(config.wait_s)
    while True:
        try:
            connection, _ = listener.accept()
        except (TimeoutError, BlockingIOError):
            raise PeerError(
                f"no guest came for {config.name!r} within {config.wait_s:g} s"
            ) from None
        channel = Channel(connection)
        channel.set_timeout(_HELLO_TIMEOUT_S)
        try:
            hello = channel.expect(Hello)
            refused = refusal(channel, hello, config)
        except PeerError as error:
            refused = Refuse(RefusalCode.MALFORMED, str(error))
        if refused is None:
            channel.set_timeout(_ANSWER_TIMEOUT_S)
            return channel, hello
        refuse(channel, refused)


def refusal(channel: Channel, hello: Hello, config: HostConfig) -> Refuse | None:
    """Why this guest may not come in, None if it may."""
    if not channel.same_user():
        return Refuse(RefusalCode.OTHER_USER, "the guest runs as another user")
    if hello.version != control.CONTROL_VERSION:
        return Refuse(
            RefusalCode.WRONG_VERSION,
            f"control version {hello.version}, expected {control.CONTROL_VERSION}",
        )
    if not 1 <= hello.vcpus <= config.vcpus:
        return Refuse(
            RefusalCode.TOO_MANY_VCPUS, f"{hello.vcpus} vCPUs, expected 1 to {config.vcpus}"
        )
    needed = hello.vcpus * PAGE_SIZE
    expected = memory.segment_name(config.name, "guest")
    if hello.memory != expected:
        return Refuse(RefusalCode.BAD_MEMORY, f"memory {hello.memory!r}, expected {expected!r}")
    if hello.memory_bytes < needed:
        return Refuse(
            RefusalCode.BAD_MEMORY,
            f"memory of {hello.memory_bytes} bytes, expected at least {needed} bytes",
        )
    try:
        memory.inspect_segment(hello.memory, hello.memory_bytes)
    except PeerError as error:
        return Refuse(RefusalCode.BAD_MEMORY, str(error))
    return None


def refuse(channel: Channel, refusal: Refuse) -> None:
    """Say no and close; the guest may have gone."""
    with contextlib.suppress(PeerError):
        channel.send(refusal)
    channel.close()


def welcome_to(
    config: HostConfig, handoffs: Sequence[Handoff], cpus: Sequence[int]
) -> control.Welcome:
    """What the guest is told; ``cpus``: where each of its own workers should run."""
    return control.Welcome(
        version=control.CONTROL_VERSION,
        pid=control.own_pid(),
        design=config.design.name,
        segment=handoffs[0].segment,
        segment_bytes=handoffs[0].segment_bytes,
        slot_bytes=handoffs[0].slot_bytes,
        semaphores=[(each.exit_semaphore, each.entry_semaphore) for each in handoffs],
        cpus=list(cpus[: len(handoffs)]),
    )


def _session(channel: Channel, listener: socket.socket, started: list[Worker]) -> None:
    """Answer the guest until Bye; raises :class:`PeerError` when it or a worker ends instead."""
    latest = [control.VcpuStats.empty() for _ in started]
    pipes = {worker.pipe.fileno(): vcpu for vcpu, worker in enumerate(started)}
    while True:
        ready = wait([channel.fileno(), listener.fileno(), *pipes])
        for vcpu in (vcpu for pipe, vcpu in pipes.items() if pipe in ready):
            latest[vcpu] = started[vcpu].receive()
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            refuse(Channel(connection), Refuse(RefusalCode.BUSY, "the host serves another guest"))
        if channel.fileno() not in ready:
            continue
        message = channel.receive()
        match message:
            case StatsRequest(vcpu) if 0 <= vcpu < len(started):
                while started[vcpu].pipe.poll():
                    latest[vcpu] = started[vcpu].receive()
                channel.send(Stats(latest[vcpu]))
            case Bye():
                return
            case None:
                raise PeerError("the guest has gone without Bye")
            case _:
                raise PeerError(f"expected StatsRequest of a vCPU or Bye, got {message}")
