"""The result document: what ``--json`` writes and what the table is printed from.

Documented in ``docs/bench-json.md``; ``SCHEMA`` changes when a field's meaning does.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from pvpmu import __version__
from pvpmu.bench.costs import CostModel
from pvpmu.bench.measure import BenchConfig, Measured, Scaling
from pvpmu.bench.reference import Reference
from pvpmu.bench.totals import Totals
from pvpmu.guest.latency import ROUND_TRIP, WORD_READ, WORD_WRITE, LatencyReport
from pvpmu.guest.script import ScriptCounts
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import summarize
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.shared.tally import CALL_KINDS, PLACEMENTS, PLACES, REDUNDANT, locks

SCHEMA = "pvpmu-bench/1"

Json = dict[str, Any]

_TRACE_OPS = {"wrmsr": "msr_write", "rdmsr": "msr_read"}


def document(
    config: BenchConfig,
    measured: Measured,
    models: Iterable[CostModel],
    reference: Reference | None,
) -> Json:
    """The whole result as plain JSON values."""
    models = list(models)
    designs = [_design(config, name, measured, models) for name in measured.totals]
    result: Json = {
        "schema": SCHEMA,
        "version": __version__,
        "scenario": config.scenario.name,
        "summary": config.scenario.summary,
        "notes": list(config.scenario.notes),
        "transport": config.transport,
        "pin": config.pin if config.transport == "process" else None,
        "seed": config.seed,
        "runs": config.runs,
        "vcpus": config.vcpus,
        "environment": _environment(),
        "floors": _floors(measured.latency.values()),
        "scaling": _scaling(measured.scaling),
        "baseline": _baseline(config),
        "models": {model.name: model.summary for model in models},
        "reference": _reference(reference),
        "designs": designs,
    }
    result["checks"] = _checks(config, measured, designs)
    return result


def _design(config: BenchConfig, name: str, measured: Measured, models: list[CostModel]) -> Json:
    totals, latency = measured.totals[name], measured.latency[name]
    guest = totals.guest
    nmis = totals.exits[ExitReason.EXCEPTION_NMI]
    real = sum(totals.operations[kind].count for kind in ("pmi", "pmi_disabled"))
    names = [event.name for event in config.scenario.events]
    pmu_exits = _pmu_exits(totals)
    return {
        "name": name,
        "page_registered": totals.page_registered,
        **{key: guest[key] for key in ("handlers", "acks", "ticks", "sched_in", "sched_out")},
        "rotations": guest["rotations"],
        "second_bits": guest["second_bits"],
        "exits": {
            ExitReason(reason).name: count
            for reason, count in sorted(totals.exits.items())
            if count
        },
        "msr": _msr_rows(totals),
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
        "samples": guest["samples"],
        "throttles": guest["throttles"],
        "samples_digest": totals.samples_digest,
        "access_digest": totals.access_digest,
        "count_error": {event: totals.error[i] for i, event in enumerate(names)},
        "held": {event: totals.held[i] for i, event in enumerate(names)},
        "held_share": {
            event: _share(totals.held[i], totals.retired[opened.event.kind])
            for i, (event, opened) in enumerate(
                zip(names, config.scenario.configs(config.scenario.cpuid), strict=True)
            )
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
        "model": {
            model.name: model.per_pmi(guest["handlers"], totals.exits_by, totals.tallies)
            for model in models
        },
        "handler_ns": totals.handler.summary(),
        "handler_p50s": totals.handler_p50s,
        "handler_to_baseline": _against(totals, measured.totals[_baseline(config)]),
        "timer_ns": totals.timer_ns,
        "accesses_per_s": round(statistics.median(totals.access_rates)),
        "ratios": _ratios(latency),
        "access_ns": {
            "page_read": _accesses(latency.page_read, latency.plain),
            "page_write": _accesses(latency.page_write, latency.plain),
            "exit": _exits(latency),
        },
    }


def _baseline(config: BenchConfig) -> str:
    """The design that others are compared with: the last one without a page, else the first."""
    trapping = [design.name for design in config.designs if not design.page]
    return trapping[-1] if trapping else config.designs[0].name


def _against(totals: Totals, baseline: Totals) -> float | None:
    """p50 of the handler by the baseline's of the same turn, median over turns."""
    pairs = zip(totals.handler_p50s, baseline.handler_p50s, strict=True)
    ratios = [mine / base for mine, base in pairs if base]
    return round(statistics.median(ratios), 3) if ratios else None


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
    return sum(count for (op, address), count in totals.exits_host.items() if _is_pmu(op, address))


def _is_pmu(op: str, address: int) -> bool:
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


def _accesses(by_register: dict[str, list[float]], plain: set[str]) -> Json | None:
    """Summary over the plain words' batches, then one by register."""
    if not by_register:
        return None
    pooled = [ns for name in plain for ns in by_register.get(name, [])]
    return {
        **summarize(pooled),
        "plain": sorted(plain),
        "registers": {name: summarize(ns) for name, ns in by_register.items()},
    }


def _exits(latency: LatencyReport) -> Json:
    status = BY_ADDRESS[msr.GLOBAL_STATUS].name
    return {
        **summarize(latency.exit[status]),
        "access": f"rdmsr {status}",
        "registers": {name: summarize(ns) for name, ns in latency.exit.items()},
    }


def _ratios(latency: LatencyReport) -> Json:
    """Accesses against the floors of the same round, median over rounds; None without a floor.

    The machine's speed changes within a run, so that only neighbours in time compare.
    """
    floors = latency.floors
    status = latency.exit[BY_ADDRESS[msr.GLOBAL_STATUS].name]

    def worst(by_register: dict[str, list[float]], floor: list[float]) -> float | None:
        return max((_paired(batches, floor) for batches in by_register.values()), default=None)

    ratios: dict[str, float | None] = {"exit_to_round_trip": None}
    if ROUND_TRIP in floors:
        ratios["exit_to_round_trip"] = _paired(status, floors[ROUND_TRIP])
    for key, by_register, floor in (
        ("read", latency.page_read, floors[WORD_READ]),
        ("write", latency.page_write, floors[WORD_WRITE]),
    ):
        plain = {name: by_register[name] for name in latency.plain if name in by_register}
        ratios[f"plain_page_{key}_to_word"] = worst(plain, floor)
        ratios[f"any_page_{key}_to_word"] = worst(by_register, floor)
        ratios[f"any_page_{key}_to_exit"] = worst(by_register, status)
    return {key: value and round(value, 3) for key, value in ratios.items()}


def _paired(batches: list[float], floor: list[float]) -> float:
    # A floor of 0 can only be a clock too coarse for it.
    return statistics.median(ns / max(by, 0.1) for ns, by in zip(batches, floor, strict=True))


def _floors(reports: Iterable[LatencyReport]) -> Json:
    pooled: dict[str, list[float]] = {}
    for report in reports:
        for name, batches in report.floors.items():
            pooled.setdefault(name, []).extend(batches)
    summaries = {
        name: summarize(pooled[name]) if name in pooled else None
        for name in (ROUND_TRIP, WORD_READ, WORD_WRITE)
    }
    p50s = {f"{name}_ns": summary and summary["p50"] for name, summary in summaries.items()}
    return {**p50s, "summaries": summaries}


def _scaling(scaling: Scaling | None) -> Json | None:
    if scaling is None:
        return None
    return {
        "exits_per_s_1": round(scaling.one),
        "exits_per_s_2": round(scaling.two),
        "ratio": round(scaling.ratio, 3),
    }


def _reference(reference: Reference | None) -> Json | None:
    if reference is None:
        return None
    return {
        "name": reference.name,
        "summary": reference.summary,
        "exits": reference.exits,
        "msr_write": reference.msr_write,
        "msr_read": reference.msr_read,
        "handler_ns": reference.handler_ns,
    }


def _environment() -> Json:
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return "unknown"


def _checks(config: BenchConfig, measured: Measured, designs: list[Json]) -> list[Json]:
    """What must hold for the numbers to be believed; each with its outcome."""
    races = config.scenario.races
    quiet = not (races.pmi_skid or races.injection_latency or races.handler_tail)
    equivalent = {design.name for design in config.designs if design.equivalent}
    alike = [entry for entry in designs if entry["name"] in equivalent]
    every = list(measured.totals.values())

    def same(key: str) -> bool:
        return len({entry[key] for entry in alike}) <= 1

    checks: list[tuple[str, Callable[[], bool], bool]] = [
        ("no PMI lost", lambda: not any(totals.lost for totals in every), True),
        ("count error 0", lambda: not any(sum(t.error.values()) for t in every), True),
        (
            "host and guest count the same PMU exits",
            lambda: all(_host_view(totals) == +totals.exits_guest for totals in every),
            True,
        ),
        (
            "timed and counted passes take the same samples",
            lambda: not any(totals.unequal for totals in every),
            True,
        ),
        (
            "equivalent designs take the same samples",
            lambda: same("samples_digest"),
            quiet and len(alike) > 1,
        ),
        (
            "equivalent designs make the same accesses",
            lambda: same("access_digest"),
            quiet and len(alike) > 1,
        ),
        (
            "the script was played as it is written",
            lambda: all(_as_written(config.scenario.script, totals) for totals in every),
            config.scenario.script is not None,
        ),
    ]
    return [{"name": name, "ok": test()} for name, test, applies in checks if applies]


def _as_written(script: ScriptCounts | None, totals: Totals) -> bool:
    """Whether the guest did as often what the script says; a throttled event, say, does not."""
    if script is None:
        return True
    guest, runs = totals.guest, totals.runs
    done = {name: guest[name] for name in ("handlers", "ticks", "sched_in", "sched_out")}
    written = {name: runs * getattr(script, name) for name in done}
    bits = guest["acks"] + guest["second_bits"]
    return done == written and bits == runs * sum(script.overflows)


def _host_view(totals: Totals) -> dict[tuple[str, int], int]:
    return {key: count for key, count in totals.exits_host.items() if count and _is_pmu(*key)}
