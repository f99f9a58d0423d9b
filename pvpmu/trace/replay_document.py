"""A replay as plain JSON values, and as a table. Documented in ``docs/traces.md``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pvpmu import __version__
from pvpmu.bench.environment import environment
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.tally import CALL_KINDS, PLACES
from pvpmu.trace.counts import Access
from pvpmu.trace.document import not_understood
from pvpmu.trace.names import (
    ANY_COUNTER,
    RDPMC,
    READ,
    TRACE_OPS,
    WRITE,
    MsrClass,
    msr_class,
    msr_name,
)
from pvpmu.trace.reading import Trace
from pvpmu.trace.replay import ReplayConfig, Replayed
from pvpmu.trace.source import Source

SCHEMA = "pvpmu-replay/1"
ALL_EXIT = "trap"
"""The design whose exits are the trace's accesses."""

Json = dict[str, Any]

_OP_OF = {
    int(ExitReason.MSR_READ): READ,
    int(ExitReason.MSR_WRITE): WRITE,
    int(ExitReason.RDPMC): RDPMC,
}


def replay_document(
    source: Source, trace: Trace, config: ReplayConfig, replayed: Sequence[Replayed]
) -> Json:
    """The whole result."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "input": {
            "name": source.name,
            "format": trace.format,
            "compression": source.compression or None,
            "lines": trace.lines,
            "not_understood": not_understood(trace.unknown),
        },
        "transport": config.transport,
        "pin": config.pin if config.transport == "process" else None,
        "environment": environment(),
        "threads": [
            {"tid": thread.tid, "vcpu": thread.vcpu, "accesses": thread.accesses}
            for thread in config.threads
        ],
        "designs": [_design(one) for one in replayed],
        "checks": [check for one in replayed for check in _checks(one)],
        "notes": [*trace.notes, *_notes(replayed)],
    }


def _design(one: Replayed) -> Json:
    accesses = one.total("accesses")
    wall = sum(report.run_ns for report in one.reports)
    exits = one.exits
    by_access: Counter[Access] = Counter()
    for stats in one.stats:
        for reason, address, count in stats.accesses:
            op = _OP_OF[reason]
            by_access[op, ANY_COUNTER if op == RDPMC else address] += count
    pmu = {access: count for access, count in by_access.items() if _is_pmu(access)}
    tallies = [
        [sum(words) for words in zip(*(s.tallies[place] for s in one.stats), strict=True)]
        for place in range(len(PLACES))
    ]
    return {
        "name": one.design.name,
        "accesses": accesses,
        "pmu_exits": sum(pmu.values()),
        "exits": {ExitReason(reason).name: n for reason, n in sorted(exits.items()) if n},
        "registers": [
            {
                "op": TRACE_OPS[op],
                "name": "RDPMC" if op == RDPMC else msr_name(address),
                "address": None if op == RDPMC else address,
                "exits": count,
            }
            for (op, address), count in sorted(pmu.items(), key=lambda item: -item[1])
        ],
        "perf_calls_by": {
            place: sum(tally[: len(CALL_KINDS)])
            for place, tally in zip(PLACES, tallies, strict=True)
        },
        "page_registered": all(report.played.page_registered for report in one.reports),
        **{
            name: one.total(name)
            for name in ("pmis", "without_nmi", "unscripted", "not_live", "status_reads",
                         "status_equal")
        },
        "refused": [
            {
                "op": TRACE_OPS[op],
                "name": "RDPMC" if op == RDPMC else msr_name(address),
                "count": count,
            }
            for (op, address), count in one.refused.most_common()
        ],
        "wall_ns": wall,
        "accesses_per_s": round(accesses * 1e9 / wall) if wall else None,
    }  # fmt: skip


def _is_pmu(access: Access) -> bool:
    op, address = access
    return op == RDPMC or msr_class(op, address) is MsrClass.PMU


def _checks(one: Replayed) -> Iterator[Json]:
    made = one.total("accesses") + one.total("extra")
    exits = sum(count for reason, count in one.exits.items() if reason in _OP_OF)
    if one.design.name == ALL_EXIT:
        yield {"name": f"{ALL_EXIT} makes an exit of every access", "ok": exits == made}
    else:
        yield {"name": f"{one.design.name} makes no more exits than accesses", "ok": exits <= made}
    yield {"name": f"{one.design.name}: no access ends in #GP", "ok": not one.refused}


def _notes(replayed: Sequence[Replayed]) -> Iterator[str]:
    for one in replayed:
        name = one.design.name
        if one.total("without_nmi"):
            yield f"{name}: {one.total('without_nmi'):,} handlers were played without an NMI"
        if one.total("unscripted"):
            yield f"{name}: {one.total('unscripted'):,} NMIs came that the trace does not have"
        if one.total("not_live"):
            yield f"{name}: {one.total('not_live'):,} overflows are of counters that do not count"
        reads, equal = one.total("status_reads"), one.total("status_equal")
        if equal < reads:
            yield f"{name}: {reads - equal:,} of {reads:,} status reads differ from the trace's"
    yield (
        "values: writes as traced, but each selector's event, LVTPC's vector and bits that this "
        "PMU lacks; reads give the model's; nothing is retired but what makes counters overflow"
    )
