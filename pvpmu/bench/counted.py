"""What one design did, from exact counts: what repeats on any machine. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pvpmu.bench.charged import overhead_percent
from pvpmu.bench.competition import competition
from pvpmu.bench.switches import switches
from pvpmu.bench.totals import Totals
from pvpmu.cost.model import CostModel
from pvpmu.guest.scenario import Scenario
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.shared.tally import (
    CALL_KINDS,
    LOCAL_READS,
    PLACEMENTS,
    PLACES,
    PMU_SWITCHES,
    REDUNDANT,
    locks,
)

Json = dict[str, Any]

_TRACE_OPS = {"wrmsr": "msr_write", "rdmsr": "msr_read"}


def counted(scenario: Scenario, totals: Totals, models: Iterable[CostModel]) -> Json:
    """The fields of a design in ``docs/bench-json.md`` that are counted or modelled."""
    guest = totals.guest
    nmis = _pmi_exits(totals)
    real = sum(totals.operations[kind].count for kind in ("pmi", "pmi_disabled"))
    names = scenario.labels
    pmu_exits = _pmu_exits(totals)
    return {
        "page_registered": totals.page_registered,
        **{key: guest[key] for key in ("handlers", "acks", "ticks", "sched_in", "sched_out")},
        "rotations": guest["rotations"],
        "reads": guest["reads"],
        "elapsed_ns": guest["elapsed_ns"],
        "charged_ns": guest["charged_ns"],
        "overhead_percent": overhead_percent(guest["elapsed_ns"], guest["charged_ns"]),
        "second_bits": guest["second_bits"],
        "exits": {
            ExitReason(reason).name: count
            for reason, count in sorted(totals.exits.items())
            if count
        },
        "msr": _msr_rows(totals),
        "exits_by": dict(zip(PLACES, totals.exits_by, strict=True)),
        "pmu_exits": pmu_exits,
        "pmu_exits_with_nmi": pmu_exits + nmis,
        "exits_per_pmi": _operation_rate(totals, "pmi", "pmi_disabled"),
        "exits_per_pmi_with_nmi": _plus(
            _operation_rate(totals, "pmi", "pmi_disabled"), nmis / real if real else None
        ),
        "exits_per_spurious": _operation_rate(totals, "pmi_spurious"),
        "exits_per_tick": _operation_rate(totals, "tick"),
        "exits_per_sched_in": _operation_rate(totals, "sched_in"),
        "exits_per_sched_out": _operation_rate(totals, "sched_out"),
        "exits_per_rotation": _operation_rate(totals, "rotation"),
        "exits_per_read": _operation_rate(totals, "read"),
        "perf_calls": _calls([sum(kinds) for kinds in zip(*totals.tallies, strict=True)]),
        **{
            f"perf_calls_{place}": _calls(tally)
            for place, tally in zip(PLACES, totals.tallies, strict=True)
        },
        "perf_calls_redundant": _by_place(totals, REDUNDANT),
        "context_locks": sum(map(locks, totals.tallies)),
        "context_locks_by": dict(zip(PLACES, map(locks, totals.tallies), strict=True)),
        "placements": sum(tally[PLACEMENTS] for tally in totals.tallies),
        "placements_by": _by_place(totals, PLACEMENTS),
        "local_reads": sum(tally[LOCAL_READS] for tally in totals.tallies),
        "local_reads_by": _by_place(totals, LOCAL_READS),
        **switches(totals),
        "samples": guest["samples"],
        "throttles": guest["throttles"],
        "rate_lowered": guest["lowered"],
        "max_sample_rate": totals.max_sample_rate,
        "samples_digest": totals.samples_digest,
        "access_digest": totals.access_digest,
        "count_error": {event: totals.error[i] for i, event in enumerate(names)},
        "held": {event: totals.held[i] for i, event in enumerate(names)},
        "held_share": {
            event: _share(totals.held[i], totals.due[i]) for i, event in enumerate(names)
        },
        "pmi": {
            **{kind: totals.pmi[kind] for kind in ("raised", "delivered", "coalesced")},
            "spurious": guest["spurious"],
            "late": totals.pmi["late"],
            "lost": totals.lost,
            "stray": totals.pmi["stray"],
            "undelivered": totals.pmi["undelivered"],
        },
        "entry_loops_extra": totals.pmi["extra_loops"],
        "accuracy": totals.accuracy.described(names),
        **competition(scenario, totals),
        "model": {
            model.name: model.per_pmi(guest["handlers"], totals.exits_by, totals.tallies)
            for model in models
        },
    }


def _pmi_exits(totals: Totals) -> int:
    """EXCEPTION_NMI exits; where the guest's PMU is switched, a PMI is an EXTERNAL_INTERRUPT."""
    by_vector = any(tally[PMU_SWITCHES] for tally in totals.tallies)
    interrupts = totals.exits[ExitReason.EXTERNAL_INTERRUPT] if by_vector else 0
    return totals.exits[ExitReason.EXCEPTION_NMI] + interrupts


def _msr_rows(totals: Totals) -> list[Json]:
    """Rows in the manner of a kvm_msr listing, RDPMC last, most accesses first."""
    rows: list[Json] = []
    for op, address in sorted(totals.accesses | totals.exits_host):
        if op == "rdpmc" or not BY_ADDRESS[address].pmu:
            continue
        register = BY_ADDRESS[address]
        rows.append(
            {
                "op": _TRACE_OPS[op],
                "name": register.trace_name,
                "linux_name": register.name,
                "address": address,
                "accesses": totals.accesses[op, address],
                "exits": totals.exits_host[op, address],
            }
        )
    rows.sort(key=lambda row: -row["accesses"])
    rdpmc = {
        "op": "rdpmc",
        "name": "RDPMC",
        "linux_name": "RDPMC",
        "address": None,
        "accesses": sum(n for (op, _), n in totals.accesses.items() if op == "rdpmc"),
        "exits": sum(n for (op, _), n in totals.exits_host.items() if op == "rdpmc"),
    }
    return [*rows, rdpmc]


def _pmu_exits(totals: Totals) -> int:
    """MSR and RDPMC exits for PMU registers, STOP and COMMIT among them."""
    return sum(count for (op, address), count in totals.exits_host.items() if is_pmu(op, address))


def is_pmu(op: str, address: int) -> bool:
    """Whether an access is one of the PMU: RDPMC, or an MSR of it."""
    return op == "rdpmc" or (address in BY_ADDRESS and BY_ADDRESS[address].pmu)


def _operation_rate(totals: Totals, *names: str) -> float | None:
    count = sum(totals.operations[name].count for name in names)
    exits = sum(totals.operations[name].exits for name in names)
    return round(exits / count, 4) if count else None


def _plus(rate: float | None, more: float | None) -> float | None:
    return None if rate is None or more is None else round(rate + more, 4)


def _calls(tally: list[int]) -> dict[str, int]:
    return dict(zip(CALL_KINDS, tally, strict=False))


def _by_place(totals: Totals, word: int) -> dict[str, int]:
    return {place: tally[word] for place, tally in zip(PLACES, totals.tallies, strict=True)}


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0
