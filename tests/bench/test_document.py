"""The result document: what the numbers mean, checked against each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pvpmu.bench.document import SCHEMA, Json
from pvpmu.bench.measure import BenchConfig, Measured
from pvpmu.shared.registers import BY_ADDRESS, REGISTERS

from .conftest import made

DOCS = Path(__file__).parents[2] / "docs" / "bench-json.md"
_DATA_KEYS = {"exits", "all_exits", "count_error", "missed", "not_counting", "held", "held_share",
              "scaled", "period_error", "msr_write", "msr_read", "registers", "model", "models",
              "cost_models", "figures", "perf_events"}  # fmt: skip
"""Objects whose keys are names of exits, events, registers, models: data, not fields."""


def design(result: Json, name: str) -> Json:
    (found,) = [entry for entry in result["designs"] if entry["name"] == name]
    return dict(found)


def test_the_document_is_plain_json(result: Json) -> None:
    assert json.loads(json.dumps(result)) == result
    assert result["schema"] == SCHEMA


def test_every_check_passes(result: Json) -> None:
    assert [check["name"] for check in result["checks"] if not check["ok"]] == []
    assert len(result["checks"]) == 6


def test_without_a_page_every_access_exits(result: Json) -> None:
    for name in ("trap-5.14", "trap"):
        for row in design(result, name)["msr"]:
            assert row["accesses"] == row["exits"] > 0
        assert not design(result, name)["page_registered"]


def test_the_page_makes_the_same_accesses_with_fewer_exits(result: Json) -> None:
    trap, page = design(result, "trap"), design(result, "page")
    assert [row["accesses"] for row in trap["msr"]] == [row["accesses"] for row in page["msr"]]
    assert page["pmu_exits"] * 5 < trap["pmu_exits"]
    assert page["exits_per_pmi"] == 1
    assert page["exits_per_tick"] == 2
    assert page["exits_per_sched_in"] == 1


def test_exits_by_register_add_up_to_exits_by_reason(result: Json) -> None:
    for entry in result["designs"]:
        exits = entry["exits"]
        by_reason = sum(exits.get(reason, 0) for reason in ("MSR_READ", "MSR_WRITE", "RDPMC"))
        assert sum(row["exits"] for row in entry["msr"]) == entry["pmu_exits"] == by_reason
        assert entry["pmu_exits_with_nmi"] == by_reason + exits["EXCEPTION_NMI"]


def test_calls_by_place_add_up_and_each_takes_the_lock_once(result: Json) -> None:
    for entry in result["designs"]:
        places = [entry[f"perf_calls_{place}"] for place in ("handler", "delivery", "other")]
        for kind, count in entry["perf_calls"].items():
            assert count == sum(place[kind] for place in places)
        assert entry["context_locks"] == sum(entry["perf_calls"].values())
        assert entry["context_locks"] == sum(entry["context_locks_by"].values())
        assert entry["placements"] == sum(entry["placements_by"].values())


def test_only_the_host_before_is_paused_makes_redundant_calls(result: Json) -> None:
    assert sum(design(result, "trap-5.14")["perf_calls_redundant"].values()) > 0
    assert sum(design(result, "trap")["perf_calls_redundant"].values()) == 0


def test_modelled_time_is_what_the_counts_cost(result: Json) -> None:
    for name, described in result["cost_models"].items():
        costs = {cost: entry["value"] for cost, entry in described["costs"].items()}
        for entry in result["designs"]:
            ns = 0.0
            for place in ("handler", "delivery"):
                calls = sum(entry[f"perf_calls_{place}"].values())
                redundant = entry["perf_calls_redundant"][place]
                ns += entry["exits_by"][place] * costs["exit_ns"]
                ns += (calls - redundant) * costs["call_ns"]
                ns += redundant * costs["redundant_call_ns"]
            per_pmi = ns / entry["handlers"] + costs["guest_ns"]
            figures = entry["model"][name]
            assert figures["total_ns"] == pytest.approx(per_pmi, rel=1e-4)
            low, high = figures["interval"]["total_ns"]
            assert low <= figures["total_ns"] <= high


def test_the_split_that_the_figures_leave_open_is_shown_for_every_design(result: Json) -> None:
    (family,) = result["sensitivity"]
    assert family["model"] == "icx-2021-3p"
    names = [entry["name"] for entry in result["designs"]]
    for point in family["points"]:
        assert list(point["figures"]) == names


def test_every_pmi_is_accounted_for(result: Json) -> None:
    for entry in result["designs"]:
        pmi = entry["pmi"]
        assert pmi["raised"] + pmi["stray"] == (
            pmi["delivered"] + pmi["coalesced"] + pmi["undelivered"] + pmi["lost"]
        )
        assert entry["handlers"] == pmi["delivered"]


def test_names_and_addresses_agree_with_the_register_table(result: Json) -> None:
    for row in result["designs"][0]["msr"]:
        if row["op"] != "rdpmc":
            register = BY_ADDRESS[row["address"]]
            assert (row["name"], row["linux_name"]) == (register.trace_name, register.name)
    assert {register.trace_name for register in REGISTERS} >= set(result["reference"]["msr_write"])


def test_inline_has_no_round_trip(result: Json) -> None:
    assert result["floors"]["round_trip_ns"] is None
    assert result["scaling"] is None
    assert design(result, "page")["ratios"]["exit_to_round_trip"] is None


def test_accesses_are_compared_with_the_floors(result: Json) -> None:
    page, trap = design(result, "page"), design(result, "trap")
    assert trap["access_ns"]["page_read"] is None
    assert trap["ratios"]["any_page_read_to_word"] is None
    registers = page["access_ns"]["page_read"]["registers"]
    assert "MSR_CORE_PERF_GLOBAL_STATUS" in registers
    assert "MSR_CORE_PERF_GLOBAL_OVF_CTRL" in page["access_ns"]["page_write"]["registers"]
    assert set(page["access_ns"]["page_read"]["plain"]) == {
        "MSR_CORE_PERF_FIXED_CTR0", "MSR_IA32_PMC0", "APIC_LVTPC",
    }  # fmt: skip


def spoiled(name: str, measured: Measured) -> Measured:
    """A measurement in which one thing went wrong."""
    bad = deepcopy(measured)
    totals = bad.totals["page"]
    if name == "no PMI lost":
        totals.lost += 1
    elif name == "count error 0":
        totals.error[0] += 1
    elif name == "host and guest count the same PMU exits":
        totals.exits_host["wrmsr", 0x38F] += 1
    elif name == "timed and counted passes take the same samples":
        totals.unequal += 1
    elif name == "equivalent designs take the same samples":
        totals._samples[0] = "0" * 64
    elif name == "equivalent designs make the same accesses":
        totals._sequence[0] = "0" * 64
    return bad


@pytest.mark.parametrize("number", range(6))
def test_each_check_fails_when_its_subject_is_wrong(
    config: BenchConfig, measured: Measured, result: Json, number: int
) -> None:
    name = result["checks"][number]["name"]
    checks = made(config, spoiled(name, measured))["checks"]
    assert [check["name"] for check in checks if not check["ok"]] == [name]


def fields(value: Any, inside: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            if inside not in _DATA_KEYS:
                yield key
            yield from fields(child, key if inside not in _DATA_KEYS else "")
    elif isinstance(value, list):
        for child in value:
            yield from fields(child, inside)


def test_every_field_is_documented(result: Json) -> None:
    documented = set(re.findall(r"`([A-Za-z0-9_.-]+)`", DOCS.read_text("utf-8")))
    # "a.b" documents b; names of models and calls are listed as they are.
    documented |= {part for name in documented for part in name.split(".")}
    assert {name for name in fields(result) if name not in documented} == set()
