"""Requests and answers of an adapter: one JSON object a line, integers as hex strings.

The types here are the published schema, ``pvpmu conform schema --adapter``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from pvpmu.conformance.target import PROTOCOL, Hello, Json, Reply, Unsupported
from pvpmu.shared.errors import PeerError

_HEX = r"^-?0x[0-9a-fA-F]{1,16}$"
_Number = Annotated[int, Meta(ge=0)]
_VALUE = "Value"


class HelloRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The first line: the version of the protocol that the kit speaks."""

    hello: _Number


class ResetRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Make a new VM of this configuration."""

    reset: dict[str, Any]


class OpRequest(Struct, frozen=True):
    """Do one operation on one vCPU; its fields stand beside these two."""

    op: str
    vcpu: _Number


class IretRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The handler of this vCPU's NMI has ended: go on with what it interrupted."""

    iret: _Number


class HelloAnswer(Struct, frozen=True, forbid_unknown_fields=True):
    """Who the adapter is."""

    hello: Hello


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of a reset or an operation: done, unless it says otherwise.

    ``value``: the result; ``fault``: #GP; ``refused``: the host said no. ``unsupported``: there is
    no such operation or configuration here, ``error``: something is broken; both say what.
    ``nmi``: not an end yet: this vCPU takes an NMI.
    """

    value: Annotated[str, Meta(pattern=_HEX)] | None = None
    fault: bool = False
    refused: bool = False
    unsupported: str | None = None
    error: str | None = None
    nmi: _Number | None = None


def hello_line() -> bytes:
    """The first request, without its end as all of them."""
    return msgspec.json.encode(HelloRequest(PROTOCOL))


def reset_line(config: Mapping[str, Json]) -> bytes:
    """A new VM."""
    return msgspec.json.encode(ResetRequest(_wire_fields(config)))


def line_of(name: str, vcpu: int, fields: Mapping[str, Json]) -> bytes:
    """One operation."""
    return msgspec.json.encode({"op": name, "vcpu": vcpu, **_wire_fields(fields)})


def iret_line(vcpu: int) -> bytes:
    """The end of an NMI's handler."""
    return msgspec.json.encode(IretRequest(vcpu))


def hello_of(line: bytes) -> Hello:
    """Read the first answer; raises :class:`PeerError`."""
    try:
        return msgspec.json.decode(line, type=HelloAnswer).hello
    except (msgspec.DecodeError, ValueError) as error:
        raise _no_answer(line, error) from None


def reply_of(line: bytes) -> Reply | int:
    """Read an answer: a reply, or the number of the vCPU that takes an NMI.

    Raises :class:`Unsupported`, and :class:`PeerError` for what is no answer.
    """
    try:
        read = msgspec.json.decode(line, type=Answer)
    except (msgspec.DecodeError, ValueError) as error:
        raise _no_answer(line, error) from None
    if read.nmi is not None:
        return read.nmi
    if read.unsupported is not None:
        raise Unsupported(read.unsupported)
    if read.error is not None:
        raise PeerError(f"the adapter reports: {read.error}")
    value = None if read.value is None else int(read.value, 16)
    return Reply(value=value, fault=read.fault, refused=read.refused)


def lines_schema() -> bytes:
    """The JSON Schema of a line, of either direction."""
    kinds = (HelloRequest, ResetRequest, OpRequest, IretRequest, HelloAnswer, Answer)
    references, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    value = {"$ref": f"#/$defs/{_VALUE}"}
    components[_VALUE] = {
        "description": "Integers are hex strings of up to 64 bits.",
        "anyOf": [
            {"type": ["boolean", "null", "string"]},
            {"type": "array", "items": value},
            {"type": "object", "additionalProperties": value},
        ],
    }
    components["OpRequest"]["additionalProperties"] = value
    components["ResetRequest"]["properties"]["reset"]["additionalProperties"] = value
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line between the conformance kit and an adapter",
        "anyOf": list(references),
        "$defs": components,
    }
    for each in components.values():
        each["description"] = inspect.cleandoc(each["description"])
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def _no_answer(line: bytes, error: Exception) -> PeerError:
    return PeerError(f"the adapter answered {line[:80]!r}: {error}")


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
