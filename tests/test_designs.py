"""Every shipped design on the script of the 2021 trace: exits, perf calls, and the same samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.shared.design import design_named, design_names
from pvpmu.shared.tally import HANDLER, LOCAL_READS, calls

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
}


@pytest.fixture(scope="module")
def runs(inline: Callable[..., Any], script_runs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: script_runs[name] if name in script_runs else inline(name, "br_instr-trace")
        for name in design_names()
    }


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
def test_every_design_loses_nothing_and_counts_exactly(runs: dict[str, Any], name: str) -> None:
    run = runs[name]
    assert run.counts.count_error == [0, 0, 0, 0]
    pmi = run.host.pmi
    assert pmi.raised + pmi.stray == pmi.delivered + pmi.coalesced + run.host.undelivered


def test_every_equivalent_design_takes_the_same_samples(runs: dict[str, Any]) -> None:
    equivalent = [name for name in design_names() if design_named(name).equivalent]
    assert len(equivalent) >= 8
    assert len({runs[name].counts.samples_digest for name in equivalent}) == 1


@pytest.mark.parametrize(("name", "exits"), [("trap", 66_774), ("page", 8_503)])
def test_a_later_driver_saves_exits_where_there_is_no_page(
    inline: Callable[..., Any], name: str, exits: int
) -> None:
    assert inline(name, "br_instr-trace", driver="linux-6.12").pmu_exits == exits
