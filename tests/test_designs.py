"""Every shipped design on the script of the 2021 trace: exits, perf calls, and the same samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pvpmu.conformance.inline import InlineTarget
from pvpmu.conformance.runner import RunConfig, Runner, select
from pvpmu.conformance.vector import Vector, load_vectors
from pvpmu.conformance.verdict import Verdict
from pvpmu.guest.scenario import load_scenario
from pvpmu.shared.design import design_named, design_names
from pvpmu.shared.tally import HANDLER, LOCAL_READS, PMU_SWITCHES, calls

# PMU exits, perf calls in the handler, in all, both over the whole script.
COSTS = {
    "trap-5.14": (71_541, 138_894, 182_404),
    "trap": (71_541, 87_696, 116_830),
    "trap-6.12": (66_774, 87_696, 116_830),
    "trap-direct": (71_541, 87_696, 94_864),
    "trap-lean": (71_541, 21_966, 51_100),
    "page": (8_503, 58_464, 94_864),
    "page-direct": (8_503, 58_464, 94_864),
    "page-lean": (8_503, 21_966, 22_465),
    "page-reload": (1_195, 0, 6_871),
    "xen-style": (20_473, 58_464, 94_864),
    "sbi-style": (20_591, 87_696, 116_830),
    "mediated": (9_718, 0, 0),
}


@pytest.fixture(scope="module")
def runs(inline: Callable[..., Any], script_runs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: script_runs[name] if name in script_runs else inline(name, "br_instr-trace")
        for name in design_names()
    }


@pytest.fixture(scope="module")
def later(inline: Callable[..., Any]) -> dict[str, Any]:
    """Designs of Linux 5.14's time with the driver of 6.12."""
    return {name: inline(name, "br_instr-trace", driver="linux-6.12") for name in ("trap", "page")}


@pytest.mark.parametrize("name", COSTS)
def test_a_design_costs_what_its_axes_say(runs: dict[str, Any], name: str) -> None:
    run = runs[name]
    tallies = run.host.tallies
    assert (run.pmu_exits, calls(tallies[HANDLER]), run.calls) == COSTS[name]


def test_a_lean_page_needs_three_calls_for_a_pmi_and_all_of_them_in_the_handler(
    runs: dict[str, Any],
) -> None:
    run = runs["page-lean"]
    in_handler, bringing, _ = run.host.tallies
    assert calls(in_handler) == 3 * 7_322
    assert calls(bringing) == 0
    # Every freeze and STOP reads the four counters by themselves.
    assert sum(tally[LOCAL_READS] for tally in run.host.tallies) == 4 * (7_308 + 591 + 6)


@pytest.mark.parametrize("name", design_names())
def test_every_design_loses_no_pmi_and_the_equivalent_ones_count_exactly(
    runs: dict[str, Any], name: str
) -> None:
    run = runs[name]
    if design_named(name).equivalent:
        assert run.counts.count_error == [0, 0, 0, 0]
    pmi = run.host.pmi
    assert pmi.raised + pmi.stray == pmi.delivered + pmi.coalesced + run.host.undelivered


def test_every_equivalent_design_takes_the_same_samples_as_others_of_its_driver(
    runs: dict[str, Any], later: dict[str, Any]
) -> None:
    equivalent = [design_named(name) for name in design_names() if design_named(name).equivalent]
    assert len(equivalent) >= 8
    digests: dict[str, set[str]] = {}
    for design in equivalent:
        digests.setdefault(design.driver, set()).add(runs[design.name].counts.samples_digest)
    counted = {driver: len(found) for driver, found in digests.items()}
    assert counted == {"linux-5.14": 1, "linux-6.12": 1}
    # And it is the driver that makes the difference.
    digest = later["trap"].counts.samples_digest
    assert digests["linux-6.12"] == {digest} != digests["linux-5.14"]


def test_a_mediated_pmu_exits_for_selectors_lvtpc_and_pmis_alone(runs: dict[str, Any]) -> None:
    run = runs["mediated"]
    assert run.exits_per("pmi") == run.exits_per("pmi_spurious") == 1
    assert [run.exits_per(each) for each in ("tick", "sched_in", "sched_out")] == [4, 4, 3]
    # Each of its exits leaves the inner loop: two for a PMI.
    assert [tally[PMU_SWITCHES] for tally in run.host.tallies] == run.host.exits_by
    assert run.host.exits_by[:2] == [7_308, 7_308]


@pytest.mark.parametrize(("name", "exits"), [("trap", 66_774), ("page", 8_503)])
def test_a_later_driver_saves_exits_where_there_is_no_page(
    later: dict[str, Any], name: str, exits: int
) -> None:
    assert later[name].pmu_exits == exits


# What the kit says of each -------------------------------------------------------------------

DIFFERENT = [name for name in design_names() if design_named(name).gives_up]


@pytest.fixture(scope="module")
def vectors() -> list[Vector]:
    return load_vectors()


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_design_fails_the_cases_that_it_gives_up_and_no_others(
    name: str, vectors: list[Vector]
) -> None:
    design = design_named(name)
    results = Runner(lambda: InlineTarget(design), RunConfig()).run(vectors).results
    failed = {case.id for case in results if case.verdict.bad}
    assert failed == set(design.gives_up)
    paths = {"page", "page+freeze"} if design.page else {"trap"}
    assert {case.path for case in results if case.verdict.bad} <= paths


def test_what_a_design_gives_up_is_skipped_with_its_reason(vectors: list[Vector]) -> None:
    design = design_named("xen-style")
    config = RunConfig(gives_up=design.gives_up)
    chosen = select(vectors, ["HOLD-01", "OVF-01"])
    results = Runner(lambda: InlineTarget(design), config).run(chosen).results
    (skipped,) = [case for case in results if case.verdict is Verdict.SKIP]
    assert (skipped.id, skipped.path) == ("HOLD-01", "page+freeze")
    assert skipped.reason.startswith("given up by the design: the hold lasts until")


# The peers -----------------------------------------------------------------------------------


def test_a_page_never_has_more_exits_than_xens_and_fewer_outside_a_pmi(
    runs: dict[str, Any],
) -> None:
    page, xen = runs["page"], runs["xen-style"]
    assert page.exits_per("pmi") == xen.exits_per("pmi") == 1
    for operation in ("tick", "sched_in", "sched_out"):
        assert page.exits_per(operation) < xen.exits_per(operation)
    assert xen.exits_per("tick") == runs["trap"].exits_per("tick")


def test_sbi_stops_and_starts_by_a_call_each_and_configures_by_another(
    runs: dict[str, Any],
) -> None:
    sbi = runs["sbi-style"]
    assert (sbi.exits_per("pmi"), sbi.exits_per("tick")) == (2, 2 + 4 * 2)
    assert (sbi.exits_per("sched_in"), sbi.exits_per("sched_out")) == (1 + 4, 1 + 4)


def test_a_lazy_page_has_no_exit_in_a_handler_and_loses_nearly_everything(
    inline: Callable[..., Any],
) -> None:
    scenario = replace(load_scenario("br_instr"), duration_us=50_000)
    lazy, page = (inline(name, scenario) for name in ("page-lazy", "page"))
    assert lazy.exits_per("pmi") == 0
    assert lazy.counts.samples < page.counts.samples / 2
    assert all(
        -error > due / 2
        for error, due in zip(lazy.counts.count_error[:3], lazy.counts.due[:3], strict=True)
    )


def test_reload_values_leave_a_handler_without_exit_and_every_count_exact(
    inline: Callable[..., Any],
) -> None:
    scenario = replace(load_scenario("br_instr"), duration_us=100_000)
    reload, page = (inline(name, scenario) for name in ("page-reload", "page"))
    assert reload.exits_per("pmi") == 0
    assert reload.exits_per("tick") == 2
    assert reload.counts.count_error == [0, 0, 0, 0]
    assert reload.counts.samples == pytest.approx(page.counts.samples, rel=0.01)
    assert reload.counts.samples_digest != page.counts.samples_digest
