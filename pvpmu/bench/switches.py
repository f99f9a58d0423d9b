"""What a mediated PMU pays for being put and loaded again, at made exits and at given ones. Pure.

Source: ``kvm_mediated_pmu_load`` and ``_put`` around the inner run loop of ``vcpu_enter_guest``;
``kvm_pmu_is_fastpath_emulation_allowed``: while a counter of instructions is enabled, what the
fastpath would have to emulate leaves the loop as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pvpmu.bench.totals import Totals
from pvpmu.cost.model import CostModel
from pvpmu.guest.scenario import Scenario
from pvpmu.shared.costs import Work
from pvpmu.shared.tally import ELIDED_WRMSRS, PLACES, PMU_SWITCHES, SWITCH_WRMSRS

Json = dict[str, Any]
Value = Callable[[Json], str]
Row = tuple[str, Value, str]

_MISSING = "-"
_NO_INSTRUCTION = ("PREEMPTION_TIMER", "EXTERNAL_INTERRUPT")
"""Exits with no instruction to emulate: their fastpath stays one."""
_INSTRUCTIONS = "instructions"


def switches(totals: Totals) -> Json:
    """The counted fields of a design in ``docs/bench-json.md``, "PMU switches"."""
    sums = [sum(words) for words in zip(*totals.tallies, strict=True)]
    by = [tally[PMU_SWITCHES] for tally in totals.tallies]
    return {
        "pmu_switches": sums[PMU_SWITCHES],
        "pmu_switches_by": dict(zip(PLACES, by, strict=True)),
        "pmu_switch_wrmsrs": sums[SWITCH_WRMSRS],
        "pmu_switch_wrmsrs_elided": sums[ELIDED_WRMSRS],
    }


def given_switches(
    scenario: Scenario, design: Json, background: list[Json], models: Iterable[CostModel]
) -> Json | None:
    """The field ``given_switches`` of a design; None where nothing is given or switched."""
    if not background or not design["pmu_switches"]:
        return None
    counts_instructions = any(event.name == _INSTRUCTIONS for event in scenario.events)
    leave = sum(row["exits"] for row in background if not row["fastpath"])
    lost = 0
    if counts_instructions:
        rows = [row for row in background if row["fastpath"]]
        lost = sum(row["exits"] for row in rows if row["reason"] not in _NO_INSTRUCTION)
    work = Work(0, 0, 0, 0, 0, switches=leave + lost)
    return {
        "switches": leave + lost,
        "fastpath_lost": lost,
        "model": {
            model.name: {
                "ns": round(model.costs.of(work), 1),
                "interval": [round(ns, 1) for ns in model.interval(work)],
            }
            for model in models
        },
    }


def switch_rows(result: Json) -> Iterator[Row]:
    """The section of the table; nothing where no design's PMU is switched."""
    if not any(design["pmu_switches"] for design in result["designs"]):
        return
    yield "in all", _if_any(lambda d: f"{d['pmu_switches']:,}"), ""
    yield "  per PMI", _if_any(_per_pmi), ""
    yield "WRMSRs of a switch", _if_any(lambda d: _per_switch(d, "pmu_switch_wrmsrs")), ""
    yield "  left out, 0 already", _if_any(lambda d: _per_switch(d, "pmu_switch_wrmsrs_elided")), ""
    yield "at given exits", _given(lambda given: f"{given['switches']:,}"), ""
    yield "  fastpath but for instructions", _given(lambda g: f"{g['fastpath_lost']:,}"), ""
    for name in result["models"]:

        def cost(given: Json, name: str = name) -> str:
            return f"{given['model'][name]['ns'] / 1_000_000:,.2f}"

        def interval(given: Json, name: str = name) -> str:
            low, high = (f"{ns / 1_000_000:,.2f}" for ns in given["model"][name]["interval"])
            return f"{low}..{high}"

        yield f"  ms, {name}", _given(cost), ""
        yield "    from .. to", _given(interval), ""


def _if_any(text: Value) -> Value:
    return lambda design: text(design) if design["pmu_switches"] else _MISSING


def _given(text: Value) -> Value:
    def value(design: Json) -> str:
        given = design["given_switches"]
        return _MISSING if given is None else text(given)

    return value


def _per_pmi(design: Json) -> str:
    if not design["handlers"]:
        return _MISSING
    brought = design["pmu_switches_by"]
    return f"{(brought['handler'] + brought['delivery']) / design['handlers']:.2f}"


def _per_switch(design: Json, key: str) -> str:
    return f"{design[key] / design['pmu_switches']:.1f}"
