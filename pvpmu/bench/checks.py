"""What must hold for the numbers to be believed, and which of it does not apply, and why. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pvpmu.bench.charged import charged_as_counted
from pvpmu.bench.competition import accounts_for_errors, of_refused_alone
from pvpmu.bench.counted import is_pmu
from pvpmu.bench.measure import BenchConfig, Measured
from pvpmu.bench.realperf import refused_events
from pvpmu.bench.recorded import RECORDED_AS_COUNTED, as_counted
from pvpmu.bench.totals import Totals
from pvpmu.guest.script import ScriptCounts

Json = dict[str, Any]

_NOT_THIS = "-"
"""A check of something that this run does not have: nobody would miss it."""


@dataclass(frozen=True, slots=True)
class _Check:
    """``left_out``: why it does not apply; empty if it does."""

    name: str
    holds: Callable[[], bool]
    left_out: str = ""


def outcomes(config: BenchConfig, measured: Measured, designs: list[Json]) -> Json:
    """The fields ``checks`` and ``checks_left_out`` of ``docs/bench-json.md``."""
    made = _checks(config, measured, designs)
    return {
        "checks": [
            {"name": check.name, "ok": check.holds()} for check in made if not check.left_out
        ],
        "checks_left_out": [
            {"name": check.name, "why": check.left_out}
            for check in made
            if check.left_out not in ("", _NOT_THIS)
        ],
    }


def _checks(config: BenchConfig, measured: Measured, designs: list[Json]) -> list[_Check]:
    scenario, charge = config.scenario, config.charge
    competes = bool(scenario.host_load.events)
    # Whose PMU no event of the host competes for, counts what others cannot.
    equivalent = {
        design.name
        for design in config.designs
        if design.equivalent and not (competes and design.vpmu == "mediated")
    }
    alike = [entry for entry in designs if entry["name"] in equivalent]
    every = list(measured.totals.values())
    # The others say what they change; what it comes to is in the table.
    true = [totals for name, totals in measured.totals.items() if name in equivalent]
    exact = [measured.totals[design.name] for design in config.designs if design.equivalent]
    out_of_step = _out_of_step(config, len(alike))
    lacks = refused_events(config.counted_by)
    refused = f"real perf refuses {', '.join(lacks)} on this machine" if lacks else ""

    def same_by_driver(key: str) -> bool:
        drivers = {name: config.guest(name).driver for name in equivalent}
        seen = {(drivers[entry["name"]], entry[key]) for entry in alike}
        return len(seen) == len(set(drivers.values()))

    return [
        _Check("no PMI lost", lambda: not any(totals.lost for totals in every)),
        _Check(
            "count error 0",
            lambda: not any(sum(totals.error.values()) for totals in true),
            "the host's own events may leave a guest counter without one" if competes else refused,
        ),
        _Check(
            "count errors are what guest counters without an event missed, and a page says so",
            lambda: all(accounts_for_errors(scenario, totals) for totals in exact),
            "" if competes else _NOT_THIS,
        ),
        _Check(
            "count errors are those of refused events, and a page says so",
            lambda: all(of_refused_alone(scenario, totals, lacks) for totals in exact),
            "" if lacks and not competes else _NOT_THIS,
        ),
        _Check(
            "host and guest count the same PMU exits",
            lambda: all(_host_view(totals) == +totals.exits_guest for totals in every),
        ),
        _Check(
            "timed and counted passes take the same samples",
            lambda: not any(totals.unequal for totals in every),
        ),
        _Check(
            "equivalent designs take the same samples",
            lambda: same_by_driver("samples_digest"),
            out_of_step,
        ),
        _Check(
            "equivalent designs make the same accesses",
            lambda: same_by_driver("access_digest"),
            out_of_step,
        ),
        _Check(
            "the guest clock was charged what the counted work costs",
            lambda: charge is not None and all(charged_as_counted(charge, t) for t in every),
            "" if charge is not None else _NOT_THIS,
        ),
        _Check(
            "the script was played as it is written",
            lambda: all(_as_written(scenario.script, totals) for totals in true),
            refused if scenario.script is not None else _NOT_THIS,
        ),
        _Check(
            RECORDED_AS_COUNTED,
            lambda: all(
                name in measured.recorded and as_counted(measured.recorded[name], totals)
                for name, totals in measured.totals.items()
            ),
            "" if config.record_to is not None else _NOT_THIS,
        ),
    ]


def _out_of_step(config: BenchConfig, alike: int) -> str:
    """Why equivalent designs need not do the same; empty if they must."""
    races = config.scenario.races
    if alike < 2:
        return "fewer than two designs of this run are equivalent"
    if config.charge is not None:
        return "designs are charged different times, so that they do not stay in step"
    if races.pmi_skid or races.injection_latency or races.handler_tail:
        return "with race windows designs may differ in what falls into them"
    return ""


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
    return {key: count for key, count in totals.exits_host.items() if count and is_pmu(*key)}
