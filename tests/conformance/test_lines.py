"""Requests and replies as lines."""

from __future__ import annotations

import json

import pytest

from pvpmu.conformance.lines import line_of, reply_of
from pvpmu.conformance.target import Reply, Unsupported
from pvpmu.shared.errors import PeerError


def test_integers_travel_as_hex_strings_and_flags_as_they_are() -> None:
    fields = {"msr": 0x38F, "value": (1 << 64) - 1, "fault": False, "events": [{"event": 0xC4}]}
    assert json.loads(line_of("wr", 1, fields)) == {
        "op": "wr",
        "vcpu": 1,
        "msr": "0x38f",
        "value": "0xffffffffffffffff",
        "fault": False,
        "events": [{"event": "0xc4"}],
    }


def test_replies_are_read_back() -> None:
    assert reply_of(b'{"value": "0x10"}') == Reply(value=16)
    assert reply_of(b'{"fault": true}') == Reply(fault=True)
    assert reply_of(b"{}") == Reply()
    assert reply_of(b'{"nmi": 1}') == 1
    with pytest.raises(Unsupported, match="no LBR"):
        reply_of(b'{"unsupported": "no LBR"}')
    with pytest.raises(PeerError, match="out of memory"):
        reply_of(b'{"error": "out of memory"}')


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"ok",
        b"[1]",
        b'{"value": 1}',
        b'{"value": "12"}',
        b'{"value": "0x' + b"1" * 17 + b'"}',
        b'{"x": 1}',
    ],
)
def test_what_is_no_reply_is_refused(line: bytes) -> None:
    with pytest.raises(PeerError, match="the adapter answered"):
        reply_of(line)
