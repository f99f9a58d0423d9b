"""What perf calls on the kernel's own events took, in a result document and in its table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pvpmu.host.perf_linux import sources_here
from pvpmu.shared.calltimes import SYSTEM_CALLS, CallTimes
from pvpmu.shared.tally import CALL_KINDS

Json = dict[str, Any]
_MISSING = "-"


def perf_described(perf: str, *, guest_runs: bool = False) -> str:
    """Whose perf the host's is. ``guest_runs``: guest code runs on the events' thread."""
    if perf == "model":
        return "the model's: calls, locks and placements are counted"
    if guest_runs:
        return sources_here().described
    return (
        "the model's, and each call made on an event of the kernel's as well, for its time: no "
        f"guest code runs on the host's thread ({sources_here().described})"
    )


def perf_times(times: CallTimes | None, handlers: int) -> Json | None:
    """Calls and system calls per handler entry, ns of each, and ns per handler entry; None of none.

    ``handler_ns``: of the calls within the handler alone.
    """
    if times is None:
        return None
    per = max(handlers, 1)
    return {
        "calls": _kinds(CALL_KINDS, times.calls, times.call_ns, per),
        "system_calls": _kinds(SYSTEM_CALLS, times.system, times.system_ns, per),
        "ns": round(sum(times.call_ns) / per, 1),
        "handler_ns": round(times.handler_ns / per, 1),
    }


def _kinds(names: tuple[str, ...], counts: list[int], ns: list[int], per: int) -> Json:
    return {
        name: {"per_pmi": round(count / per, 4), "ns": round(took / count, 1)}
        for name, count, took in zip(names, counts, ns, strict=True)
        if count
    }


def perf_time_rows(designs: list[Json]) -> Iterator[tuple[str, Callable[[Json], str]]]:
    """Rows of label and cell; none where no design has real calls."""
    told = [design["real_perf"] for design in designs if design.get("real_perf")]
    if not told:
        return
    yield "us per PMI, in the handler", _total("handler_ns")
    yield "us per PMI, all", _total("ns")
    for part, label in (("calls", ""), ("system_calls", "system call ")):
        for name in dict.fromkeys(name for each in told for name in each[part]):
            yield f"{label}{name}: per PMI", _cell(part, name, "per_pmi")
            yield f"{label}{name}: ns each", _cell(part, name, "ns")


def _total(name: str) -> Callable[[Json], str]:
    def cell(design: Json) -> str:
        told = design.get("real_perf")
        return f"{told[name] / 1000:,.1f}" if told else _MISSING

    return cell


def _cell(part: str, name: str, what: str) -> Callable[[Json], str]:
    def cell(design: Json) -> str:
        told = design.get("real_perf")
        if not told or name not in told[part]:
            return _MISSING
        value = told[part][name][what]
        return f"{value:,.0f}" if what == "ns" else f"{value:.2f}"

    return cell
