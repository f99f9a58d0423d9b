"""What the kit asks of a target: ``hello``, ``reset``, operations. Everything is JSON-able.

An out-of-process adapter is the same thing line by line: :func:`line_of` and :func:`reply_of`
turn a request into one line and a line into a reply. Integers travel as hex strings.

An operation may be interrupted by NMIs of the guest. The target then calls back (a line
``{"nmi": VCPU}`` from an adapter), serves the operations of the handler, and goes on when the
callback returns (a request ``iret``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from pvpmu.shared.errors import PeerError, PvpmuError

PROTOCOL = 1
"""Version of this protocol; an adapter that says another is refused."""

Json = bool | int | str | list["Json"] | dict[str, "Json"] | None
OnNmi = Callable[[int], None]


class Unsupported(PvpmuError):  # noqa: N818 (an answer, not a failure of the target)
    """The target has no such operation, or cannot be configured so."""


class Hello(Struct, frozen=True, kw_only=True):
    """Who a target is.

    ``features``: of :data:`pvpmu.conformance.features.FEATURES`; ``profiles``: best first.
    """

    name: str
    version: str
    features: tuple[str, ...]
    profiles: tuple[str, ...]
    protocol: int = PROTOCOL


class Reply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an operation.

    ``value``: the result; ``fault``: #GP; ``refused``: the host said no to a host-side call.
    """

    value: int | None = None
    fault: bool = False
    refused: bool = False


class Target(Protocol):
    """An implementation under test. Any exception it raises fails the case, no more."""

    def hello(self) -> Hello: ...

    def reset(self, config: Mapping[str, Json]) -> None:
        """Make a new VM; raises :class:`Unsupported`."""

    def op(self, name: str, vcpu: int, fields: Mapping[str, Json], on_nmi: OnNmi) -> Reply:
        """Do one operation on one vCPU; raises :class:`Unsupported`."""

    def close(self) -> None: ...


class _Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    value: str | None = None
    fault: bool = False
    refused: bool = False
    unsupported: str | None = None
    error: str | None = None
    nmi: int | None = None


def line_of(name: str, vcpu: int, fields: Mapping[str, Json]) -> bytes:
    """One operation as a line, without its end."""
    return msgspec.json.encode({"op": name, "vcpu": vcpu, **_wire_fields(fields)})


def reply_of(line: bytes) -> Reply | int:
    """Read a line: a reply, or the number of the vCPU that takes an NMI.

    Raises :class:`Unsupported`, and :class:`PeerError` for what is no reply.
    """
    try:
        read = msgspec.json.decode(line, type=_Line)
        value = _integer(read.value)
    except (msgspec.DecodeError, ValueError) as error:
        raise PeerError(f"the adapter answered {line[:80]!r}: {error}") from None
    if read.nmi is not None:
        return read.nmi
    if read.unsupported is not None:
        raise Unsupported(read.unsupported)
    if read.error is not None:
        raise PeerError(f"the adapter reports: {read.error}")
    return Reply(value=value, fault=read.fault, refused=read.refused)


def _wire_fields(fields: Mapping[str, Json]) -> dict[str, Json]:
    return {key: _wire(value) for key, value in fields.items()}


def _wire(value: Json) -> Json:
    if isinstance(value, bool) or not isinstance(value, (int, list, dict)):
        return value
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, list):
        return [_wire(each) for each in value]
    return _wire_fields(value)


def _integer(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"-?0x[0-9a-fA-F]{1,16}", text):
        raise ValueError(f"value {text!r} is no hex string of up to 64 bits")
    return int(text, 16)
