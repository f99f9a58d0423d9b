"""Real perf in a result document and its table: what counts each event, and what calls took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pvpmu.host.perf_sources import HARDWARE, INCLUDES_HOST, sources_here
from pvpmu.shared.calltimes import SYSTEM_CALLS, CallTimes
from pvpmu.shared.events import MISSING_EVENTS, MODELLED, REFUSED
from pvpmu.shared.tally import CALL_KINDS

Json = dict[str, Any]
_MISSING = "-"


def perf_described(perf: str, missing: str = MODELLED, *, guest_runs: bool = False) -> str:
    """Whose perf the host's is. ``guest_runs``: guest code runs on the events' thread.

    ``missing``: what becomes of events that the machine lacks.
    """
    if perf == "model":
        return "the model's: calls, locks and placements are counted"
    sources = sources_here(missing)
    if guest_runs:
        return sources.described
    refused = ", but for those that it refuses" if missing == REFUSED else ""
    return (
        f"the model's{refused}, and each call made on an event of the kernel's as well, for its "
        f"time: no guest code runs on the host's thread ({sources.described})"
    )


def counted_by(
    perf: str, kinds: Mapping[str, int], missing: str = MODELLED, *, guest_runs: bool = False
) -> dict[str, str]:
    """By event what counts it; ``kinds``: their kinds; the others as for :func:`perf_described`.

    "hardware", a clock, "modelled" or "refused"; of the model also on what its calls are made.
    """
    if perf == "model":
        return dict.fromkeys(kinds, MODELLED)
    sources = sources_here(missing)
    how = _by_itself if guest_runs else _beside_the_model
    return {name: how(sources.counted_by(kind)) for name, kind in kinds.items()}


def _by_itself(source: str) -> str:
    return source if source in (HARDWARE, *MISSING_EVENTS) else f"{source} ({INCLUDES_HOST})"


def _beside_the_model(source: str) -> str:
    if source == REFUSED:
        return REFUSED
    real = "a dummy event" if source == MODELLED else f"a {source} event"
    return f"{MODELLED}, timed on {real}"


def refused_events(told: Mapping[str, str]) -> list[str]:
    """Those that :func:`counted_by` says are refused."""
    return [name for name, how in told.items() if how == REFUSED]


def counted_by_line(told: Mapping[str, str]) -> str:
    """What :func:`counted_by` says, in a line."""
    by_how: dict[str, list[str]] = {}
    for name, how in told.items():
        by_how.setdefault(how, []).append(name)
    parts = (f"{', '.join(names)}: {how}" for how, names in by_how.items())
    return f"what counts each event: {'; '.join(parts)}"


def perf_lines(result: Json) -> Iterator[str]:
    """Whose perf it is, and what counts each event; nothing where all is the model's."""
    told = result["perf_events"]
    if set(told.values()) != {MODELLED}:
        yield f"perf: {result['perf']}"
        yield counted_by_line(told)


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
