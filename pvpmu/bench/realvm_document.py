"""The result document of a bench on a real VM: plain values, and what must hold for them."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pvpmu import __version__
from pvpmu.bench.environment import environment
from pvpmu.bench.realperf import counted_by, perf_described, perf_times
from pvpmu.bench.realvm import RealConfig, RealMeasured, Totals
from pvpmu.bench.recorded import RECORDED_AS_COUNTED
from pvpmu.cost.model import CostModel
from pvpmu.report.statistics import Median, median_of, ratios
from pvpmu.shared import registers as msr
from pvpmu.shared.calltimes import CallTimes
from pvpmu.shared.events import EVENTS, MODELLED
from pvpmu.shared.exits import ExitReason, reason_name
from pvpmu.shared.histogram import summarize
from pvpmu.shared.tally import CALL_KINDS, PLACES
from pvpmu.vm.jobs import KINDS_COUNTED, PmiReport

Json = dict[str, Any]

SCHEMA, VERSION = "pvpmu-vm-bench", 1
_HYPERVISOR = Path("/sys/hypervisor/type")
_BASELINE = "trap"
_EVENTS = {
    "model": "branches sampled on PMC0; PMC1, FIXED0 and FIXED1 count",
    "linux": "cycles sampled on FIXED1; PMC0, PMC1 and FIXED0 count",
}
_EXITS = {
    "to_user_rdmsr": "RDMSR",
    "to_user_wrmsr": "WRMSR",
    "to_user_io": "IO",
    "to_user_hlt": "HLT",
}
_AT_CPL_3 = (
    "CPL 0 is emulated here, so driver and program run at CPL 3, and each exit is made behind a "
    "gate (INT3, SYSRET) that no other machine needs: the floor of that name. Absolute times mean "
    "nothing beyond this machine; what is left of a handler less its gates is given beside."
)
_ALWAYS = (
    (
        "RDPMC never exits to user space, KVM answers it itself: this guest reads counters by "
        "RDMSR where it must exit, and such a read counts as one."
    ),
    (
        "Where the vPMU answers, it is this project's, in Python; where a table answers, exits and "
        "the guest are what is left."
    ),
    (
        "A model's ratio is of its own exits and perf calls at its own costs; here exits go on to "
        "user space and perf calls are Python's, so that only the counts are the same."
    ),
)
_OVERFLOWS = {
    "model": "The overflow's own exit is an OUT that stands for the physical PMI: with modelled "
    "counters the program knows when one is due.",
    "linux": "An overflow of the kernel's event is a signal that interrupts KVM_RUN, wherever the "
    "guest is. A perf call here is one or more system calls: pause is DISABLE, read and RESET.",
}
SAME_EXITS = "the kernel counts the same exits to user space"
_NO_HARDWARE_EXITS = (
    "kvm:kvm_exit and kvm:kvm_msr are 0: PVM has no hardware exits, and an MSR that goes to user "
    "space is none that KVM accesses; kvm:kvm_userspace_exit is what must agree."
)
_OPERATIONS = ("tick", "sched_in", "sched_out")


def real_document(config: RealConfig, measured: RealMeasured, models: Sequence[CostModel]) -> Json:
    """See docs/vm.md, "The document"."""
    khz = next(iter(measured.designs.values())).vpmu[0].tsc_khz
    floors = {name: summarize(cycles) for name, cycles in measured.floors.items()}
    gate = floors["gate"]["p50"] - floors["stamps"]["p50"] if measured.user else 0.0
    designs = [
        {"name": name, **_design(totals, khz, gate, models)}
        for name, totals in measured.designs.items()
    ]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "pvpmu": __version__,
        "environment": {
            **environment(),
            "kvm": measured.execution.module,
            "nested": _nested(),
            "execution": measured.execution.described,
            "kernel_cycles_per_instruction": round(measured.execution.kernel_cycles, 2),
            "guest_cpl": 3 if measured.user else 0,
            "tsc_khz": khz,
            "perf": perf_described(config.perf, config.missing_events, guest_runs=True),
            "perf_events": _counted_by(config),
        },
        "config": {
            "pmis": config.pmis,
            "period": config.period,
            "turns": config.turns,
            "events": _EVENTS[config.perf],
            "missing_events": config.missing_events if config.perf == "linux" else None,
        },
        "floors": floors,
        "event_group_ns": {name: summarize(ns) for name, ns in measured.groups.items()},
        "designs": designs,
        "ratios": _ratios(measured, designs),
        "scaling": _scaling(measured),
        "models": {model.name: model.described() for model in models},
        "checks": [
            {"name": name, "ok": ok, **({"detail": detail} if not ok else {})}
            for name, ok, detail in _checks(config, measured)
        ],
        "notes": _notes(config, measured),
    }


def _design(totals: Totals, khz: int, gate: float, models: Sequence[CostModel]) -> Json:
    reports = totals.vpmu
    pmis = sum(report.pmis for report in reports)
    # Those since the counting began; with real events one can come before.
    per = max(sum(report.nmis for report in reports), 1)
    exits = _sum(report.exits for report in reports)
    by_vpmu = [cycles for report in reports for cycles in report.cycles]
    by_table = [cycles for report in totals.table for cycles in report.cycles]
    msr_exits = exits["to_user_rdmsr"] + exits["to_user_wrmsr"]
    pmi = _sum(report.stats.pmi for report in reports if report.stats is not None)
    undelivered = sum(report.stats.undelivered for report in reports if report.stats is not None)
    places = [0] * len(PLACES)
    tallies = [[0] * len(report_tally) for report_tally in _tallies(reports)[0]]
    for report in reports:
        assert report.stats is not None
        places = [a + b for a, b in zip(places, report.stats.exits_by, strict=True)]
        tallies = [
            [a + b for a, b in zip(mine, theirs, strict=True)]
            for mine, theirs in zip(tallies, report.stats.tallies, strict=True)
        ]
    return {
        "page": reports[0].registered,
        "pmis": pmis,
        "samples": sum(report.samples for report in reports),
        "msr_exits_per_pmi": round(msr_exits / per, 4),
        "exits": {_EXITS[name]: count for name, count in exits.items()},
        "kernel": _kernel(reports),
        "pmi": {
            **pmi,
            "spurious": sum(report.empty for report in reports),
            "lost": _lost(pmi, undelivered),
        },
        "perf_calls_per_pmi": {
            place: round(sum(tally[: len(CALL_KINDS)]) / per, 4)
            for place, tally in zip(PLACES, tallies, strict=True)
        },
        "perf_calls": {
            kind: sum(tally[number] for tally in tallies) for number, kind in enumerate(CALL_KINDS)
        },
        "handler": {
            "vpmu": _latency(by_vpmu, khz),
            "table": _latency(by_table, khz),
        },
        "handler_less_gates": {
            "vpmu": _less(by_vpmu, gate * msr_exits / per),
            "table": _less(by_table, gate * msr_exits / per),
        },
        "real_perf": perf_times(_times(reports), per),
        "accesses": _accesses(totals.stamped),
        "operations": {
            name: {"exits": totals.operations[name][0], **_latency(totals.operations[name][1], khz)}
            for name in _OPERATIONS
        },
        "models": {model.name: model.per_pmi(per, places, tallies) for model in models},
    }


def _tallies(reports: Sequence[PmiReport]) -> list[list[list[int]]]:
    return [report.stats.tallies for report in reports if report.stats is not None]


def _times(reports: Sequence[PmiReport]) -> CallTimes | None:
    total: CallTimes | None = None
    for report in reports:
        if report.stats is not None and report.stats.times is not None:
            total = total or CallTimes()
            total.add(report.stats.times)
    return total


def _lost(pmi: Counter[str], undelivered: int) -> int:
    came = pmi["raised"] + pmi["stray"]
    return came - pmi["delivered"] - pmi["coalesced"] - pmi["dropped"] - undelivered


def _kernel(reports: Sequence[PmiReport]) -> Json | str:
    told = [report.kernel for report in reports]
    for each in told:
        if isinstance(each, str):
            return each
    return dict(_sum(each for each in told if isinstance(each, dict)))


def _sum(counts: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        for name, count in each.items():
            total[name] += count
    return total


def _latency(cycles: Sequence[int], khz: int) -> Json:
    """TSC cycles, and ns by the TSC's frequency."""
    found = summarize(cycles)
    return {
        "cycles": found,
        "ns": {
            name: value if name == "count" else round(value * 1e6 / khz, 1)
            for name, value in found.items()
        },
    }


def _less(cycles: Sequence[int], gates: float) -> float:
    """The median handler in cycles without its ways through the gate."""
    return round(summarize(cycles)["p50"] - gates, 1)


def _accesses(report: PmiReport | None) -> list[Json]:
    if report is None:
        return []
    return [
        {
            "access": reason_name(reason)
            .replace("MSR_READ", "RDMSR")
            .replace("MSR_WRITE", "WRMSR"),
            "register": _register(reason, address),
            "per_pmi": round(len(cycles) / report.pmis, 4),
            "cycles": summarize(cycles),
        }
        for (reason, address), cycles in sorted(report.accesses.items())
    ]


def _register(reason: int, address: int) -> str:
    if reason == ExitReason.RDPMC:
        return f"{address:#x}"
    known = msr.BY_ADDRESS.get(address)
    return known.name if known is not None else f"{address:#x}"


def _ratios(measured: RealMeasured, designs: Sequence[Json]) -> list[Json]:
    """Of each design, trap's handler by its own, turn by turn, and the same of the model."""
    base = _BASELINE if _BASELINE in measured.designs else next(iter(measured.designs))
    modelled = {design["name"]: design["models"] for design in designs}
    found = []
    for name, totals in measured.designs.items():
        if name == base:
            continue
        entry: Json = {"of": base, "by": name}
        for kind in ("vpmu", "table"):
            mine = _medians(getattr(totals, kind))
            theirs = _medians(getattr(measured.designs[base], kind))
            entry[kind] = _interval(median_of(ratios(theirs, mine)))
        entry["models"] = {
            model: round(modelled[base][model]["handler_ns"] / mine["handler_ns"], 3)
            for model, mine in modelled[name].items()
            if mine["handler_ns"]
        }
        found.append(entry)
    return found


def _medians(reports: Sequence[PmiReport]) -> list[float]:
    return [float(summarize(report.cycles)["p50"]) for report in reports]


def _interval(median: Median | None) -> Json | None:
    if median is None:
        return None
    return {
        "value": round(median.value, 3),
        "low": round(median.low, 3),
        "high": round(median.high, 3),
        "coverage": round(median.coverage, 4),
        "turns": median.count,
    }


def _scaling(measured: RealMeasured) -> Json | None:
    if not measured.scaling:
        return None
    one, two, ratio = (sorted(values) for values in zip(*measured.scaling, strict=True))
    middle = len(one) // 2
    return {
        "pmis_per_s_one": round(one[middle], 1),
        "pmis_per_s_two": round(two[middle], 1),
        "ratio": round(ratio[middle], 3),
    }


def _checks(config: RealConfig, measured: RealMeasured) -> list[tuple[str, bool, str]]:
    reports = [
        (name, report) for name, totals in measured.designs.items() for report in totals.vpmu
    ]
    # Nobody knows what a clock should have counted, and what is refused counts nothing.
    modelled = [
        number for number, how in enumerate(_counted_by(config).values()) if how == MODELLED
    ]
    checks = [
        ("no PMI lost", [
            (name, report) for name, report in reports
            if report.stats is None
            or _lost(Counter(report.stats.pmi), report.stats.undelivered)
            or report.nmis != report.stats.pmi["delivered"]
        ]),
        ("every PMI is one sample", [
            (name, report) for name, report in reports if report.samples != report.pmis
        ]),
        ("count error 0", [
            (name, report) for name, report in reports
            if any(report.counted[each] != report.retired[each] for each in modelled)
        ]),
        ("no COMMIT refused", [(name, report) for name, report in reports if report.refusals]),
        (SAME_EXITS, [
            (name, report) for name, report in reports
            if isinstance(report.kernel, dict)
            and any(report.kernel[each] != count for each, count in report.exits.items())
        ]),
    ]  # fmt: skip
    if not any(isinstance(report.kernel, dict) for _, report in reports):
        # A note says so; a check that compares nothing would say ok.
        checks = [check for check in checks if check[0] != SAME_EXITS]
    if not modelled:
        checks = [check for check in checks if check[0] != "count error 0"]
    found = [
        (title, not wrong, ", ".join(sorted({name for name, _ in wrong})))
        for title, wrong in checks
    ]
    if measured.recording is not None:
        wrong = measured.recording.wrong
        found.append((RECORDED_AS_COUNTED, not wrong, ", ".join(wrong)))
    return found


def _notes(config: RealConfig, measured: RealMeasured) -> list[str]:
    notes = [_AT_CPL_3] if measured.user else []
    notes += [*_ALWAYS, _OVERFLOWS[config.perf]]
    if all(
        isinstance(each.kernel, str) for total in measured.designs.values() for each in total.vpmu
    ):
        notes.append("No tracepoints of the kernel could be counted beside the loop's.")
    elif measured.execution.module == "kvm_pvm":
        notes.append(_NO_HARDWARE_EXITS)
    return notes


def _counted_by(config: RealConfig) -> dict[str, str]:
    kinds = {EVENTS[kind].name: kind for kind in KINDS_COUNTED}
    return counted_by(config.perf, kinds, config.missing_events, guest_runs=True)


def _nested() -> bool:
    """Whether this machine is itself a VM."""
    try:
        flags = next(
            line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
            if line.startswith("flags")
        )  # fmt: skip
    except (OSError, StopIteration):
        return _HYPERVISOR.exists() or platform.machine() == ""
    return "hypervisor" in flags.split()
