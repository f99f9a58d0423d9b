"""The answer as plain JSON values: what ``--json`` writes and what the table is printed from.

Documented in ``docs/traces.md``; ``SCHEMA`` changes when a field's meaning does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pvpmu import __version__
from pvpmu.cost.model import CostModel
from pvpmu.shared.costs import Work, work_of
from pvpmu.shared.cpuid import FIXED_BASE
from pvpmu.trace.analysis import Analysis, Answer, Bounds
from pvpmu.trace.counts import Access, Counts
from pvpmu.trace.events import EventReader
from pvpmu.trace.fit import Fit
from pvpmu.trace.names import (
    ANY_COUNTER,
    RDPMC,
    TRACE_OPS,
    MsrClass,
    is_amd_exit,
    msr_class,
    msr_name,
)
from pvpmu.trace.operations import LABELS
from pvpmu.trace.reading import Unknown
from pvpmu.trace.source import Source

SCHEMA = "pvpmu-whatif/1"

_NATIVE = ("read_msr", "write_msr", "rdpmc")
"""Events of the kernel's own accesses (arch/x86/include/asm/msr-trace.h)."""

Json = dict[str, Any]


def document(source: Source, analysis: Analysis, models: Sequence[CostModel]) -> Json:
    """The whole answer."""
    trace = analysis.trace
    counts = trace.counts
    return {
        "schema": SCHEMA,
        "version": __version__,
        "input": _input(source, analysis),
        "exits": dict(counts.exits.most_common()),
        "exits_total": counts.total,
        "msr": _msr_rows(counts),
        "msr_exits": counts.msr_exits,
        "msr_listed": counts.listed,
        "msr_unlisted": counts.unlisted,
        "pmu": _pmu(analysis),
        "operations": _operations(analysis),
        "threads": _threads(trace.events),
        "handler_ns": _handlers(trace.events),
        "fit": _fit(analysis.fit),
        "baseline": analysis.baseline.design.name,
        "models": {model.name: model.file.summary for model in models},
        "designs": [_design(analysis, answer, models) for answer in analysis.answers],
        "checks": _checks(analysis),
        "notes": list(_notes(analysis)),
    }


def _input(source: Source, analysis: Analysis) -> Json:
    trace = analysis.trace
    events = trace.events
    return {
        "name": source.name,
        "format": trace.format,
        "compression": source.compression or None,
        "bytes": source.position,
        "lines": trace.lines,
        "not_understood": not_understood(trace.unknown),
        "events": dict(events.events.most_common()) if events else None,
        "lost": events.lost if events else 0,
        "duration_ns": events.duration_ns if events else None,
    }


def not_understood(unknown: Unknown) -> Json:
    """How many lines were not understood, and the first of them."""
    return {
        "lines": unknown.count,
        "examples": [{"line": number, "text": text} for number, text in unknown.examples],
    }


def _msr_rows(counts: Counts) -> list[Json]:
    """Every MSR of the input, most accesses first."""
    rows: list[Json] = []
    for op, address in counts.msr | counts.faults:
        rows.append(
            {
                "op": TRACE_OPS[op],
                "name": msr_name(address),
                "address": address,
                "class": msr_class(op, address).value,
                "accesses": counts.msr[op, address],
                "faults": counts.faults[op, address],
            }
        )
    for (op, name), count in counts.unnamed.items():
        rows.append(
            {
                "op": TRACE_OPS[op],
                "name": name,
                "address": None,
                "class": MsrClass.OTHER.value,
                "accesses": count,
                "faults": 0,
            }
        )
    return sorted(rows, key=lambda row: (-row["accesses"] - row["faults"], row["name"]))


def _pmu(analysis: Analysis) -> Json:
    events = analysis.trace.events
    return {
        "accesses": sum(analysis.pmu.values()),
        "attributed": sum(analysis.attributed.values()),
        "left_over": sum(analysis.left_over.values()),
        "left_over_by": dict(events.shapes.left_over) if events else {},
        "rdpmc_visible": _rdpmc_visible(analysis),
        "handlers": analysis.handlers,
    }


def _rdpmc_visible(analysis: Analysis) -> bool:
    return bool(analysis.trace.counts.exits)


def _operations(analysis: Analysis) -> list[Json]:
    counts: Counter[str] = Counter()
    accesses: Counter[str] = Counter()
    different: Counter[str] = Counter()
    for operation, number in analysis.operations:
        counts[operation.kind] += number
        accesses[operation.kind] += number * len(operation.tokens)
        different[operation.kind] += 1
    return [
        {
            "kind": kind,
            "label": LABELS[kind],
            "count": counts[kind],
            "accesses": accesses[kind],
            "different": different[kind],
        }
        for kind in LABELS
        if counts[kind]
    ]


def _threads(events: EventReader | None) -> list[Json]:
    """Threads that exited or accessed the PMU."""
    if events is None:
        return []
    return [
        {
            "tid": thread.tid if thread.tid >= 0 else None,
            "comm": thread.comm,
            "vcpu": thread.vcpu,
            "exits": sum(thread.exits.values()),
            "operations": {kind: n for kind in LABELS if (n := thread.tracker.kinds[kind])},
        }
        for thread in sorted(events.threads.values(), key=lambda t: (t.vcpu is None, t.vcpu, t.tid))
        if thread.exits or thread.tracker.kinds
    ]


def _handlers(events: EventReader | None) -> Json | None:
    return events.handler_ns.summary() if events and events.handler_ns.count else None


def _fit(fitted: Fit | None) -> Json | None:
    if fitted is None:
        return None
    return {
        "accepted": fitted.accepted,
        "reason": fitted.reason or None,
        "driver": fitted.driver or None,
        "unknowns": fitted.unknowns,
        "overflows": {_counter_name(index): n for index, n in fitted.overflows.items()},
        "implied_rdpmc": fitted.implied,
        "rows": [
            {**_access(row.access), "model": row.model, "counted": row.counted,
             "residual": row.residual}
            for row in fitted.rows
        ],
    }  # fmt: skip


def _counter_name(index: int) -> str:
    return f"FIXED_CTR{index - FIXED_BASE}" if index >= FIXED_BASE else f"PMC{index}"


def _access(access: Access) -> Json:
    op, address = access
    rdpmc = op == RDPMC or address == ANY_COUNTER
    return {
        "op": TRACE_OPS[op],
        "name": "RDPMC" if rdpmc else msr_name(address),
        "address": None if rdpmc else address,
    }


def _design(analysis: Analysis, answer: Answer, models: Sequence[CostModel]) -> Json:
    low, high = answer.left_over
    remaining = analysis.remaining(answer)
    total = analysis.trace.counts.total + analysis.implied
    return {
        "name": answer.design.name,
        "summary": answer.design.summary,
        "attributed": answer.attributed,
        "left_over": [low, high],
        "pmu_exits": [answer.attributed + low, answer.attributed + high],
        "avoided": list(analysis.avoided(answer)),
        "all_exits": list(remaining),
        "all_exits_share": [_share(n, total) for n in remaining],
        "operations": {
            kind: {
                "exits": one.exits,
                "per_operation": round(one.exits / one.count, 4),
            }
            for kind, one in answer.operations.items()
        },
        "registers": [
            {
                **_access(access),
                "accesses": analysis.attributed[access],
                "exits": answer.exits[access],
            }
            for access in sorted(
                analysis.attributed | answer.exits, key=lambda a: -analysis.attributed[a]
            )
        ],
        "modelled": {model.name: _modelled(analysis, answer, model) for model in models},
        "played_otherwise": answer.unfaithful,
    }


def _modelled(analysis: Analysis, answer: Answer, model: CostModel) -> Json:
    """Time of the operations under a cost model, in ns: of one handler, of all, and saved."""
    handlers = analysis.handlers
    mine, base = _work(handlers, answer), _work(handlers, analysis.baseline)
    # Of the difference, so that what both have in common is uncertain in neither.
    saved = Work(*(getattr(base, name) - getattr(mine, name) for name in Work.__slots__))
    return {
        "per_handler": model.per_pmi(handlers, answer.exits_by, answer.tallies),
        "operations_ns": _time(model, mine),
        "saved_ns": _time(model, saved),
    }


def _work(handlers: int, answer: Answer) -> Work:
    """The work of all operations, in all places."""
    tally = [sum(words) for words in zip(*answer.tallies, strict=True)]
    return work_of(sum(answer.exits_by), tally, handlers)


def _time(model: CostModel, work: Work) -> Json:
    low, high = model.interval(work)
    return {"value": round(model.costs.of(work)), "low": round(low), "high": round(high)}


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _checks(analysis: Analysis) -> list[Json]:
    """What must hold for the answer to be believed."""
    base = analysis.baseline
    events = analysis.trace.events
    checks = []
    if analysis.operations and not base.design.page:
        checks.append(
            {
                "name": f"{base.design.name} makes an exit of every access of the operations",
                "ok": base.exits == +analysis.attributed,
            }
        )
        checks.append(
            {
                "name": f"{base.design.name} plays every operation as the trace has it",
                "ok": not base.unfaithful,
            }
        )
    if events is not None:
        left = sum(events.shapes.left_over.values())
        together = sum(analysis.attributed.values()) + left
        checks.append(
            {
                "name": "every PMU access is in an operation or counted as left over",
                "ok": together == sum(analysis.pmu.values()),
            }
        )
    return checks


def _notes(analysis: Analysis) -> Iterator[str]:
    trace, counts = analysis.trace, analysis.trace.counts
    yield from trace.notes
    yield from _event_notes(trace.events)
    unlisted = sum(counts.unlisted.values())
    if unlisted:
        by = ", ".join(f"{n:,} {name}" for name, n in counts.unlisted.items() if n)
        yield (
            f"{counts.listed:,} MSR accesses are listed of {counts.msr_exits:,} MSR exits; the "
            f"others ({by}) are taken for none of the PMU's and stay"
        )
    if analysis.unknown:
        yield (
            f"nothing says which MSRs the {analysis.unknown:,} MSR exits accessed: a design other "
            "than the baseline saves between none and all of them"
        )
    if analysis.pmu and not _rdpmc_visible(analysis):
        where = "its exits are in no number here"
        if analysis.implied:
            where = (
                f"the fit implies {analysis.implied:,} exits of it, which are in the numbers of "
                "the designs and not in those of the trace"
            )
        yield f"the input has no exits by reason, so that RDPMC cannot be seen: {where}"
    faults = sum(counts.faults.values())
    if faults:
        yield f"{faults:,} accesses ended in #GP: they exit under any design and are counted apart"
    fast = counts.of_class(MsrClass.FASTPATH)
    if fast:
        yield (
            f"{fast:,} MSR writes are of registers that KVM's fast path takes (ICR, TSC_DEADLINE): "
            "not the PMU's, not attributed, and they stay"
        )
    outside = counts.of_class(MsrClass.PMU_OUTSIDE)
    if outside:
        yield (
            f"{outside:,} accesses to PMU registers outside the model (AMD's, PEBS, LBR, further "
            "counters): no design covers them, and they stay"
        )
    if any(is_amd_exit(reason) for reason in counts.exits):
        yield "exits have AMD's names; the designs are of Intel's PMU"
    otherwise = {a.design.name: a.unfaithful for a in analysis.answers if a.unfaithful}
    if otherwise:
        named = ", ".join(f"{name} {number:,}" for name, number in otherwise.items())
        yield (
            f"operations that the model could not play as the trace has them, by design: {named}; "
            "their exits are those of what it did play"
        )


def _event_notes(events: EventReader | None) -> Iterator[str]:
    if events is None:
        return
    if not (events.counts.exits or events.counts.listed):
        yield (
            "the input has neither kvm_exit nor kvm_msr events, so that it has no exits: "
            "record them with -e kvm:kvm_exit -e kvm:kvm_msr"
        )
    native = sum(events.events[name] for name in _NATIVE)
    if native:
        yield (
            f"{native:,} events are accesses by the kernel that was traced ({', '.join(_NATIVE)}), "
            "a guest's for instance: no exits, and in no number here"
        )


def as_text(bounds: Bounds | Sequence[int]) -> str:
    """A number, or an interval where its ends differ."""
    low, high = bounds
    return f"{low:,}" if low == high else f"{low:,}..{high:,}"
