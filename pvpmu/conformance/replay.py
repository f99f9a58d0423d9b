"""A random program as a vector: what ``pvpmu conform run --extra DIR`` replays."""

from __future__ import annotations

from typing import Any

import msgspec

from pvpmu.conformance.lockstep import Difference, expected_trace
from pvpmu.conformance.oracle import Seen
from pvpmu.conformance.program import GUARD, OF_PAGE, Op, Program, Where

AREA = "RND"
_MORE = 1000
"""NMIs that should not come: each finds the guard only."""
_NO_CONFIG = ("freeze", "profile", "nmi_at", "pages")
_PLAIN = {"cpl": 0, "pce": True, "protected": True, "emulated": False, "fill": 0, "masked": False}
"""Defaults of fields, which a vector leaves out."""
_ON_PAGE = ["page", "page+freeze"]


def vector_file(program: Program, difference: Difference) -> bytes:
    """A vector file of one case, whose expectations are the oracle's."""
    trace = expected_trace(program)
    seen = {where: what for where, name, what in trace if name != "NMI"}
    taken = sum(name == "NMI" for _, name, _ in trace)
    bodies = [program.handlers[n] if n < len(program.handlers) else [] for n in range(taken)]
    handlers = [_handler(n, body, seen) for n, body in enumerate(bodies)]
    last = {"op": "pmi", "times": _MORE, "optional": True, "do": [_guard(program)]}
    ops = [each for i, op in enumerate(program.ops) for each in _ops(op, seen.get((-1, i)))]
    config = {name: value for name, value in program.config.items() if name not in _NO_CONFIG}
    config = {name: value for name, value in config.items() if value is not None}
    vector = {
        "id": f"{AREA}-01",
        "title": str(difference),
        "clause": "found by pvpmu conform random",
        "profile": [program.config["profile"]],
        "config": config,
        "ops": [*handlers, last, *ops],
    }
    whole = {"area": AREA, "title": "Random programs that showed a difference", "vectors": [vector]}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def _handler(number: int, body: list[Op], seen: dict[Where, Seen]) -> dict[str, Any]:
    ops = [each for i, op in enumerate(body) for each in _ops(op, seen.get((number, i)))]
    guard = _ops(GUARD, seen.get((number, -1)))
    return {"op": "pmi", "do": [*guard, *ops]}


def _guard(program: Program) -> dict[str, Any]:
    (guard,) = _ops(GUARD, (None, program.config["version"] < 2, False))
    return guard


def _ops(op: Op, seen: Seen | None) -> list[dict[str, Any]]:
    """One operation of a vector, two for ``migrate``; ``seen`` is what the oracle expects."""
    name, fields = op
    if name == "migrate":
        restore = {"op": "restore", "from": "moved"} | ({"fresh": True} if fields["fresh"] else {})
        return [{"op": "save", "as": "moved"}, restore]
    made: dict[str, Any] = {"op": name}
    for key, value in fields.items():
        if value is _PLAIN.get(key) or (name == "run" and value == 0):
            continue
        plain = isinstance(value, bool) or not isinstance(value, int) or key == "cpl"
        made[key] = value if plain else hex(value)
    if name == "filter":
        made["events"] = [
            {"event": hex(e["event"]), "umask": hex(e["umask"])} for e in fields["events"]
        ]
    if name in OF_PAGE:
        made["on"] = _ON_PAGE
    if seen is not None:
        value, fault, refused = seen
        made |= {"fault": True} if fault else {"refused": True} if refused else {}
        if value is not None:
            made["expect"] = hex(value)
    return [made]
