"""Print a real VM's result document for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pvpmu.bench.realperf import counted_by_line, perf_time_rows
from pvpmu.bench.table import fitted

if TYPE_CHECKING:
    from rich.console import Console

Json = dict[str, Any]
_MISSING = "-"
_FATES = ("raised", "delivered", "coalesced", "dropped", "spurious", "lost")
_QUANTILES = ("p50", "p90", "p99")


def print_real(result: Json, console: Console, fit: int | None = None) -> None:
    """Every section, then floors, ratios, notes and checks. ``fit``: how wide it may be."""
    where = result["environment"]
    kind = "a VM" if where["nested"] else "bare metal"
    console.print(
        f"pvpmu bench on a real VM: {where['cpu']}, {kind}, {where['execution']}; guest at CPL "
        f"{where['guest_cpl']}; perf {where['perf']}",
        **_AS_IS,
    )
    console.print(counted_by_line(where["perf_events"]), **_AS_IS)
    names = [design["name"] for design in result["designs"]]
    for title, rows in real_sections(result):
        console.print()
        for part in fitted(title, names, [[label, *map(cell, result["designs"])]
                                          for label, cell in rows], fit):  # fmt: skip
            console.print(part)
    console.print()
    for line in (
        *floor_lines(result),
        *ratio_lines(result),
        *scaling_lines(result),
        *_ends(result),
    ):
        console.print(line, **_AS_IS)


_AS_IS: Any = {"highlight": False, "soft_wrap": True, "markup": False}
Row = tuple[str, Callable[[Json], str]]
"""Label, and what a design's cell says."""
_SAMPLES: Row = ("samples", lambda design: f"{design['samples']:,}")


def real_sections(result: Json) -> Iterator[tuple[str, list[Row]]]:
    """Title, and rows of label and cell, of each table."""
    yield (
        "VM-exits to the loop",
        [
            ("MSR exits per PMI", _at("msr_exits_per_pmi", form=".2f")),
            *((f"{name} exits", _at("exits", name)) for name in ("RDMSR", "WRMSR", "IO")),
            ("by the kernel: RDMSR", _kernel("to_user_rdmsr")),
            ("by the kernel: WRMSR", _kernel("to_user_wrmsr")),
            ("instructions KVM emulated per PMI", _kernel("kvm_emulate_insn", per_pmi=True)),
        ],
    )
    yield "PMIs and samples", [(name, _at("pmi", name)) for name in _FATES] + [_SAMPLES]
    yield (
        "host perf calls per PMI",
        [
            ("in the handler", _at("perf_calls_per_pmi", "handler", form=".2f")),
            ("bringing PMIs", _at("perf_calls_per_pmi", "delivery", form=".2f")),
        ],
    )
    times = list(perf_time_rows(result["designs"]))
    if times:
        yield "real perf calls, per PMI", times
    for kind, what in (("vpmu", "the vPMU answers"), ("table", "a table answers")):
        rows = [(f"TSC cycles {q}", _quantile(kind, "cycles", q)) for q in _QUANTILES]
        rows += [(f"us {q}", _quantile(kind, "ns", q)) for q in _QUANTILES]
        rows.append(("cycles p50 less the gates", _at("handler_less_gates", kind, form=",.0f")))
        yield f"handler, {what}", rows
    yield (
        "exits of the driver's other operations",
        [
            (name.replace("_", "-"), _at("operations", name, "exits", form=".2f"))
            for name in ("tick", "sched_in", "sched_out")
        ],
    )
    yield (
        "accesses of a handler, cycles p50 (stamped, so slower)",
        [
            (f"{access} {register}", _access(access, register))
            for access, register in _access_names(result)
        ],
    )
    for model in result["models"]:
        yield (
            f"modelled ns per handler, {model}",
            [
                ("inside", _at("models", model, "handler_ns", form=",.0f")),
                ("with what brings it", _at("models", model, "total_ns", form=",.0f")),
            ],
        )


def _quantile(kind: str, unit: str, quantile: str) -> Callable[[Json], str]:
    def cell(design: Json) -> str:
        value = design["handler"][kind][unit][quantile]
        return f"{value:,.0f}" if unit == "cycles" else f"{value / 1000:,.1f}"

    return cell


def _at(*path: str, form: str = ",") -> Callable[[Json], str]:
    """The value behind some keys."""

    def cell(design: Json) -> str:
        value: Any = design
        for key in path:
            value = value[key]
        return format(value, form)

    return cell


def _kernel(name: str, *, per_pmi: bool = False) -> Callable[[Json], str]:
    def cell(design: Json) -> str:
        counts = design["kernel"]
        if isinstance(counts, str) or name not in counts:
            return _MISSING
        return f"{counts[name] / design['pmis']:,.1f}" if per_pmi else f"{counts[name]:,}"

    return cell


def _access_names(result: Json) -> list[tuple[str, str]]:
    return list(
        dict.fromkeys(
            (entry["access"], entry["register"])
            for design in result["designs"]
            for entry in design["accesses"]
        )
    )


def _access(access: str, register: str) -> Callable[[Json], str]:
    def cell(design: Json) -> str:
        for entry in design["accesses"]:
            if (entry["access"], entry["register"]) == (access, register):
                return f"{entry['cycles']['p50']:,.0f}"
        return _MISSING

    return cell


def floor_lines(result: Json) -> Iterator[str]:
    """What everything else stands on."""
    floors = result["floors"]
    parts = [
        f"{name.replace('_', ' ')} {floors[name]['p50']:,.1f}"
        for name in ("empty_exit", "msr_exit", "gate", "page_word", "stamps")
    ]
    yield f"floors, TSC cycles p50: {', '.join(parts)}"
    groups = result["event_group_ns"]
    if groups:
        yield (
            "four events of the kernel's stopped and started: one by one "
            f"{groups['apart']['p50']:,.0f} ns, as one group {groups['group']['p50']:,.0f} ns"
        )


def ratio_lines(result: Json) -> Iterator[str]:
    """Handlers of the baseline by those of each other design."""
    for ratio in result["ratios"]:
        models = ", ".join(f"{value:.2f} by {name}" for name, value in ratio["models"].items())
        yield (
            f"handler {ratio['of']} / {ratio['by']}: {_interval(ratio['vpmu'])} with the vPMU, "
            f"{_interval(ratio['table'])} with a table; modelled {models}"
        )


def _interval(found: Json | None) -> str:
    if found is None:
        return _MISSING
    return f"{found['value']:.2f} ({found['low']:.2f}..{found['high']:.2f})"


def scaling_lines(result: Json) -> Iterator[str]:
    """One vCPU and two at once, where there are two CPUs."""
    scaling = result["scaling"]
    if scaling is not None:
        yield (
            f"PMIs per second: one vCPU {scaling['pmis_per_s_one']:,.0f}, two at once "
            f"{scaling['pmis_per_s_two']:,.0f}, {scaling['ratio']:.2f} times as many"
        )


def _ends(result: Json) -> Iterator[str]:
    for note in result["notes"]:
        yield f"note: {note}"
    for check in result["checks"]:
        yield f"{'ok' if check['ok'] else 'FAIL'}: {check['name']}" + (
            f" ({check['detail']})" if not check["ok"] else ""
        )
