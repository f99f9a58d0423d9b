"""Write a recording as JSON lines: a header, then one object for each record. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from pvpmu.recording import names
from pvpmu.recording.format import (
    EXIT_NMI_BLOCKED,
    FAULT,
    MODES_SHIFT,
    NO_KIND,
    SPURIOUS,
    Kind,
    Record,
)
from pvpmu.recording.reader import LOST, Stream
from pvpmu.shared.exits import FAULT_GP, INJECT_IRQ, INJECT_NMI, ExitReason, reason_name
from pvpmu.trace.names import msr_name

_ENCODE = msgspec.json.Encoder().encode
SCHEMA = "pvpmu-recording/1"
_WRITE = int(ExitReason.MSR_WRITE)
_ADDRESSED = (int(ExitReason.MSR_READ), _WRITE, int(ExitReason.RDPMC), int(ExitReason.CPUID))
_READS = (int(ExitReason.MSR_READ), int(ExitReason.RDPMC))


def jsonl(
    records: Iterable[tuple[Stream, Record]], sections: Sequence[dict[str, Any]]
) -> Iterator[str]:
    """Lines with their ends. Times and counts are numbers, addresses and values hex strings."""
    yield _line({"schema": SCHEMA, "sections": list(sections)})
    for stream, record in records:
        yield _line(
            {
                "wall_ns": record.wall,
                "guest_ns": record.now,
                "cycles": record.cycles,
                "design": stream.design,
                "vcpu": stream.vcpu,
                "side": stream.side,
                **fields(record),
            }
        )


def fields(record: Record) -> dict[str, Any]:
    """What a record says, by name."""
    made = _FIELDS.get(record.kind)
    if made is None:
        return {"event": f"kind_{record.kind}", "words": [hex(record.a), hex(record.b)]}
    return made(record)


def _exit(record: Record) -> dict[str, Any]:
    said: dict[str, Any] = {"event": "exit", "reason": reason_name(record.code)}
    if record.code in _ADDRESSED:
        said["address"] = hex(record.detail)
    if record.code == _WRITE:
        said["value"] = hex(record.a)
    return said | {"nmi_blocked": bool(record.flags & EXIT_NMI_BLOCKED)}


def _msr(record: Record) -> dict[str, Any]:
    return {
        "event": "msr",
        "op": names.op_name(record.code),
        "name": msr_name(record.detail),
        "address": hex(record.detail),
        "value": hex(record.a),
        "fault": bool(record.flags & FAULT),
    }


def _entry(record: Record) -> dict[str, Any]:
    said: dict[str, Any] = {"event": "entry", "reason": reason_name(record.code)}
    if record.code in _READS:
        said["value"] = hex(record.a)
    said["fault"] = bool(record.flags & FAULT_GP)
    if record.flags & INJECT_NMI:
        said["injects"] = "NMI"
    elif record.flags & INJECT_IRQ:
        said["injects"] = hex(record.detail)
    return said


def _perf_call(record: Record) -> dict[str, Any]:
    kind = record.flags & 0xFF
    return {
        "event": "perf_call",
        "call": names.call_name(record.code),
        "host_event": record.detail,
        "counts": names.event_name(kind) if kind != NO_KIND else None,
        "modes": record.flags >> MODES_SHIFT & 0b11,
        "value": hex(record.a),
        "took_ns": record.b,
    }


def _access(record: Record) -> dict[str, Any]:
    return {
        "event": "access",
        "op": names.op_name(record.code),
        "address": hex(record.detail),
        "value": hex(record.a),
        "path": names.path_name(record.flags),
        "fault": bool(record.flags & FAULT),
        "took_ns": record.b,
    }


_FIELDS: dict[int, Callable[[Record], dict[str, Any]]] = {
    LOST: lambda r: {"event": "lost", "records": r.a},
    Kind.EXIT: _exit,
    Kind.MSR: _msr,
    Kind.ENTRY: _entry,
    Kind.PERF_CALL: _perf_call,
    Kind.PMI: lambda r: {"event": "pmi", "what": names.pmi_name(r.code)},
    Kind.STATE: lambda r: {
        "event": "state",
        "change": names.change_name(r.code),
        "state": names.state_name(r.flags),
        "generation": r.a,
    },
    Kind.MARK: lambda r: {"event": "mark", "what": names.control_name(r.code)},
    Kind.ACCESS: _access,
    Kind.HANDLER_ENTRY: lambda r: {"event": "handler_entry", "ip": hex(r.a)},
    Kind.HANDLER_EXIT: lambda r: {
        "event": "handler_exit",
        "bits": r.detail,
        "spurious": bool(r.flags & SPURIOUS),
        "took_ns": r.b,
    },
    Kind.SAMPLE: lambda r: {"event": "sample", "number": r.code, "ip": hex(r.a), "period": r.b},
    Kind.OPERATION: lambda r: {
        "event": "operation",
        "what": names.operation_name(r.code),
        "took_ns": r.b,
    },
}


def _line(value: dict[str, Any]) -> str:
    return _ENCODE(value).decode() + "\n"
