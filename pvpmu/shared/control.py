"""Control messages between ``pvpmu-guest`` and ``pvpmu-host``: msgpack maps, one per packet.

Carried by an abstract Unix SOCK_SEQPACKET socket, ``@pvpmu/NAME``, which disappears with its
owner. The guest speaks first::

    guest                         host
    Hello ──────────────────────►
          ◄────────────────────── Welcome | Refuse (then it closes)
    StatsRequest ───────────────►
          ◄────────────────────── Stats
    Bye ────────────────────────►  (both close)
"""

from __future__ import annotations

import enum
import os
import socket
import struct
from dataclasses import dataclass, fields
from typing import TypeVar

import msgpack
import msgspec

from pvpmu.shared.calltimes import CallTimes
from pvpmu.shared.errors import PeerError, RefusedError
from pvpmu.shared.hostload import HostLoadStats
from pvpmu.shared.tally import calls

CONTROL_VERSION = 1
_MAX_MESSAGE = 1 << 18
_CONNECT_TIMEOUT_S = 1.0
_UCRED = struct.Struct("3i")


class RefusalCode(enum.IntEnum):
    """Why a host turns a guest away. Append only."""

    WRONG_VERSION = 1
    TOO_MANY_VCPUS = 2
    BAD_MEMORY = 3
    BUSY = 4
    MALFORMED = 5
    OTHER_USER = 6


@dataclass(frozen=True, slots=True)
class Hello:
    """Guest: who I am. ``memory``: my segment's name; ``memory_bytes``: without its header."""

    version: int
    pid: int
    vcpus: int
    memory: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """Host: what you get.

    ``segment`` holds the slots, ``slot_bytes`` apart; ``semaphores`` are (exit, entry) names by
    vCPU; ``cpus``: the CPU that each guest worker should run on, -1 for any.
    """

    version: int
    pid: int
    design: str
    segment: str
    segment_bytes: int
    slot_bytes: int
    semaphores: list[tuple[str, str]]
    cpus: list[int]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Host: no, and why."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class StatsRequest:
    """Guest: send one vCPU's statistics of its last measured window."""

    vcpu: int


@dataclass(frozen=True, slots=True)
class VcpuStats:
    """One vCPU's counts between START and STOP.

    ``exits``: by VMX reason number. ``accesses``: [reason, MSR address or RDPMC index, exits].
    ``tallies`` and ``exits_by``: by place; see :mod:`pvpmu.shared.tally`.
    ``pmi``: raised, delivered, coalesced, late, stray, extra_loops; ``undelivered`` at STOP.
    ``load``: what the host's own events did. ``times``: what perf calls took, where they were real.
    """

    exits: dict[int, int]
    accesses: list[tuple[int, int, int]]
    tallies: list[list[int]]
    exits_by: list[int]
    pmi: dict[str, int]
    undelivered: int
    load: HostLoadStats | None = None
    times: CallTimes | None = None

    @classmethod
    def empty(cls) -> VcpuStats:
        """No counts: nothing was measured."""
        return cls({}, [], [], [], {}, 0)

    @property
    def perf_calls(self) -> int:
        """Host perf calls in all places."""
        return sum(calls(tally) for tally in self.tallies)


@dataclass(frozen=True, slots=True)
class Stats:
    """Host: the statistics asked for; empty if nothing was measured."""

    stats: VcpuStats


@dataclass(frozen=True, slots=True)
class Bye:
    """Guest: done; everything of mine may go."""


Message = Hello | Welcome | Refuse | StatsRequest | Stats | Bye
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Hello, Welcome, Refuse, StatsRequest, Stats, Bye)
}
_M = TypeVar("_M", Hello, Welcome, Refuse, StatsRequest, Stats, Bye)


def encode(message: Message) -> bytes:
    """One packet: a msgpack map with the message's name under ``type``."""
    body = msgspec.to_builtins(message, builtin_types=(bytes,))
    packed: bytes = msgpack.packb({"type": type(message).__name__, **body})
    return packed


def decode(packet: bytes) -> Message:
    """Read one packet; raises :class:`PeerError` for anything but a well-formed message."""
    try:
        raw = msgpack.unpackb(packet, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        # TypeError: a map key that is itself a map or an array.
        raise PeerError(f"control message of {len(packet)} bytes is no msgpack: {error}") from None
    name = raw.pop("type", None) if isinstance(raw, dict) else None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise PeerError(f"unknown control message {name!r}; known: {', '.join(_KINDS)}")
    extra = set(raw) - {field.name for field in fields(kind)}
    if extra:
        raise PeerError(f"control message {name}: unknown field {min(map(str, extra))!r}")
    try:
        return msgspec.convert(raw, type=kind)
    except msgspec.ValidationError as error:
        raise PeerError(f"control message {name}: {error}") from None


class Channel:
    """A connected control socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """For selectors and ``multiprocessing.connection.wait``."""
        return self._sock.fileno()

    def send(self, message: Message) -> None:
        """Send one message; raises :class:`PeerError` when the other side has gone."""
        self.send_packet(encode(message))

    def send_packet(self, packet: bytes) -> None:
        """Send an encoded message, likewise."""
        try:
            self._sock.send(packet)
        except TimeoutError:
            raise PeerError(f"not taken within {self._sock.gettimeout()} s") from None
        except OSError as error:
            raise PeerError(f"the other side has gone: {error.strerror}") from None

    def receive(self) -> Message | None:
        """Wait for one message; None when the other side has closed."""
        try:
            packet = self._sock.recv(_MAX_MESSAGE)
        except TimeoutError:
            raise PeerError(f"no answer within {self._sock.gettimeout()} s") from None
        except OSError as error:
            raise PeerError(f"the other side has gone: {error.strerror}") from None
        return decode(packet) if packet else None

    def expect(self, kind: type[_M]) -> _M:
        """Wait for a message of one kind.

        Raises :class:`RefusedError` for a Refuse, :class:`PeerError` for anything else.
        """
        message = self.receive()
        if isinstance(message, kind):
            return message
        if isinstance(message, Refuse):
            raise RefusedError(f"the host refused (code {message.code}): {message.reason}")
        got = type(message).__name__ if message else "end of connection"
        raise PeerError(f"expected {kind.__name__}, got {got}")

    def same_user(self) -> bool:
        """Whether the other side runs as this user (an abstract socket has no permissions)."""
        raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(raw)
        return uid in (os.getuid(), 0)

    def set_timeout(self, seconds: float | None) -> None:
        """Bound every later send and receive."""
        self._sock.settimeout(seconds)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def own_pid() -> int:
    """This process's id, as Hello and Welcome carry it."""
    return os.getpid()


def socket_address(vm: str) -> str:
    """The abstract socket address of a VM."""
    return f"\0pvpmu/{vm}"


def listen(vm: str) -> socket.socket:
    """Bind a VM's control socket; raises :class:`OSError` (EADDRINUSE) when it is taken."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.bind(socket_address(vm))
        sock.listen(4)
    except OSError:
        sock.close()
        raise
    return sock


def connect(vm: str) -> Channel | None:
    """Connect to a VM's host; None when there is none yet."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Without a timeout a host that accepts nobody would block the connection, not refuse it.
    sock.settimeout(_CONNECT_TIMEOUT_S)
    try:
        sock.connect(socket_address(vm))
    except (ConnectionRefusedError, FileNotFoundError, BlockingIOError, TimeoutError):
        sock.close()
        return None
    return Channel(sock)
