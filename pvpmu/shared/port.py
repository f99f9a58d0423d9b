"""The test port's area: one msgpack map at a time, from the guest to the host and back.

A conformance kit that plays the guest also has to play the VMM: to set a filter, save, reset. It
does so by a CONTROL exit with CALL. The area follows the exit slot of each vCPU in the host's
segment: a length in bytes (64 bits, little-endian), then that many bytes of msgpack.
"""

from __future__ import annotations

from typing import Any

import msgpack

from pvpmu.shared.errors import PeerError
from pvpmu.shared.exits import SLOT_SIZE
from pvpmu.shared.layout import WORD_BYTES

PORT_BYTES = 1 << 16
_LIMIT = PORT_BYTES - WORD_BYTES


def area_of(slot: memoryview[int]) -> memoryview[int] | None:
    """The bytes behind a slot's words; None without a test port."""
    area = slot[SLOT_SIZE // WORD_BYTES :].cast("B")
    return area if len(area) >= PORT_BYTES else None


def put(area: memoryview[int], message: dict[str, Any]) -> None:
    """Store a message; raises :class:`PeerError` when it is too long."""
    packed: bytes = msgpack.packb(message)
    if len(packed) > _LIMIT:
        raise PeerError(f"test port message of {len(packed)} bytes, at most {_LIMIT}")
    area[WORD_BYTES : WORD_BYTES + len(packed)] = packed
    area[:WORD_BYTES] = len(packed).to_bytes(WORD_BYTES, "little")


def take(area: memoryview[int]) -> dict[str, Any]:
    """Copy the message once and read the copy; raises :class:`PeerError` for what is none."""
    length = int.from_bytes(area[:WORD_BYTES], "little")
    if length > _LIMIT:
        raise PeerError(f"test port message of {length} bytes, at most {_LIMIT}")
    packed = bytes(area[WORD_BYTES : WORD_BYTES + length])
    try:
        message = msgpack.unpackb(packed, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise PeerError(f"test port message is no msgpack: {error}") from None
    if not isinstance(message, dict):
        raise PeerError(f"test port message is a {type(message).__name__}, expected a map")
    return message
