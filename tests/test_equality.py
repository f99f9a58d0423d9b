"""The designs side by side: the trace's numbers, and the same samples from every design."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pvpmu.guest.scenario import load_scenario

DESIGNS = ("trap-5.14", "trap", "page")
NMI, NMI_WINDOW = 0, 8

# (op, addresses) to the number that the script's operations must give.
ROWS = {
    "GLOBAL_CTRL": ("wrmsr", (0x38F,), 15_824),
    "GLOBAL_STATUS": ("rdmsr", (0x38E,), 14_558),
    "LVT_PMI": ("wrmsr", (0x834,), 7_315),
    "OVF_CTRL": ("wrmsr", (0x390,), 7_250),
    "PMC0": ("wrmsr", (0x4C1,), 2_922),
    "FIXED0": ("wrmsr", (0x309,), 2_912),
    "FIXED1": ("wrmsr", (0x30A,), 2_904),
    "PMC1": ("wrmsr", (0x4C2,), 976),
    "WR FIXED_CTR_CTRL": ("wrmsr", (0x38D,), 2_390),
    "RD FIXED_CTR_CTRL": ("rdmsr", (0x38D,), 2_390),
    "EVNTSEL0": ("wrmsr", (0x186,), 1_195),
    "EVNTSEL1": ("wrmsr", (0x187,), 1_195),
    "RDPMC": ("rdpmc", (), 9_710),
}
# The mail's own rows, of which GLOBAL_CTRL is 2 below the script's; EXCEPTION_NMI was 7,295.
MAIL_NMI = 7_295
MAIL = {
    "GLOBAL_CTRL": ("wrmsr", (0x38F,), 15_822),
    "GLOBAL_STATUS": ("rdmsr", (0x38E,), 14_558),
    "LVT_PMI": ("wrmsr", (0x834,), 7_315),
    "OVF_CTRL": ("wrmsr", (0x390,), 7_250),
    "counters": ("wrmsr", (0x4C1, 0x4C2, 0x309, 0x30A), 2922 + 2912 + 2904 + 976),
    "RDPMC": ("rdpmc", (), 9_710),
    "FIXED_CTR_CTRL": ("wrmsr", (0x38D,), 2_390),
    "EVNTSEL": ("wrmsr", (0x186, 0x187), 2 * 1_195),
}


@pytest.fixture(scope="module")
def plain_runs(inline: Callable[..., Any]) -> dict[str, Any]:
    """A tenth of a second of the workload, with one context switch, in each design."""
    scenario = replace(load_scenario("br_instr"), duration_us=100_000, switch_us=40_000)
    return {name: inline(name, scenario, seed=3) for name in DESIGNS}


@pytest.fixture(scope="module")
def race_runs(inline: Callable[..., Any]) -> dict[str, Any]:
    """The whole workload with race windows, at seed 1."""
    return {name: inline(name, "br_instr-races") for name in DESIGNS}


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("row", ROWS)
def test_the_script_gives_every_row_of_the_trace(
    script_runs: dict[str, Any], design: str, row: str
) -> None:
    op, addresses, expected = ROWS[row]
    assert script_runs[design].accesses(op, *addresses) == expected


@pytest.mark.parametrize("design", DESIGNS)
def test_the_script_makes_no_access_outside_the_table(
    script_runs: dict[str, Any], design: str
) -> None:
    total = sum(expected for _, _, expected in ROWS.values())
    assert sum(script_runs[design].recorder.accesses.values()) == total == 71_541


@pytest.mark.parametrize(
    ("design", "pmu_exits", "calls"),
    [("trap-5.14", 71_541, 182_404), ("trap", 71_541, 116_830), ("page", 8_503, 94_864)],
)
def test_the_script_costs_the_exits_and_perf_calls_of_its_design(
    script_runs: dict[str, Any], design: str, pmu_exits: int, calls: int
) -> None:
    run = script_runs[design]
    assert run.pmu_exits == pmu_exits
    assert run.calls == calls
    # The host counts its exits on its own.
    assert sum(run.host.accesses.values()) == pmu_exits


@pytest.mark.parametrize("design", DESIGNS)
def test_the_script_has_the_handlers_of_the_trace(script_runs: dict[str, Any], design: str) -> None:
    run = script_runs[design]
    counts = run.counts
    assert (counts.handlers, counts.spurious, counts.second_bits) == (7_308, 58, 72)
    assert (counts.acks, counts.ticks) == (7_250, 591)
    assert (counts.sched_in, counts.sched_out) == (7, 6)
    assert run.host.exits[NMI] == 7_250


@pytest.mark.parametrize("design", DESIGNS)
def test_the_script_loses_nothing_and_counts_exactly(
    script_runs: dict[str, Any], design: str
) -> None:
    run = script_runs[design]
    assert run.counts.count_error == [0, 0, 0, 0]
    assert _lost(run) == 0
    assert run.host.pmi.raised == 7_322
    assert run.counts.samples == 7_322


def _lost(run: Any) -> int:
    """PMIs raised, plus strays, that were neither delivered nor coalesced nor on their way."""
    pmi = run.host.pmi
    delivered = pmi.delivered + pmi.coalesced + run.host.undelivered
    return int(pmi.raised + pmi.stray - delivered)


@pytest.mark.parametrize(
    ("operation", "trap", "page"),
    [("pmi_spurious", 4, 1), ("tick", 22, 2), ("sched_in", 13, 1), ("sched_out", 12, 1)],
)
def test_each_operation_costs_the_exits_of_its_design(
    script_runs: dict[str, Any], operation: str, trap: int, page: int
) -> None:
    assert script_runs["trap-5.14"].exits_per(operation) == trap
    assert script_runs["trap"].exits_per(operation) == trap
    assert script_runs["page"].exits_per(operation) == page


def test_a_pmi_costs_one_exit_with_the_page_and_six_and_two_k_without(
    script_runs: dict[str, Any],
) -> None:
    assert script_runs["page"].exits_per("pmi") == 1
    for design in ("trap-5.14", "trap"):
        done = script_runs[design].recorder.operations["pmi"]
        assert done.count == 7_250
        assert done.exits == 6 * 7_250 + 2 * 7_322


@pytest.mark.rule("FEA-9")
@pytest.mark.parametrize("runs", ["script_runs", "plain_runs"])
def test_the_designs_give_the_same_samples_and_the_same_accesses(
    runs: str, request: pytest.FixtureRequest
) -> None:
    made = request.getfixturevalue(runs).values()
    assert len({run.counts.samples_digest for run in made}) == 1
    assert len({run.recorder.digest for run in made}) == 1
    assert all(run.counts.samples > 1000 for run in made)


@pytest.mark.parametrize("design", DESIGNS)
def test_the_workload_loses_nothing_and_counts_exactly(
    plain_runs: dict[str, Any], design: str
) -> None:
    run = plain_runs[design]
    assert run.counts.count_error == [0, 0, 0, 0]
    assert _lost(run) == 0
    # The window ends between overflows: each raised one became a sample.
    assert run.counts.samples == run.host.pmi.raised


def test_two_seeds_give_two_programs(inline: Callable[..., Any]) -> None:
    scenario = replace(load_scenario("br_instr"), duration_us=20_000)
    one, again, two = (inline("page", scenario, seed=seed) for seed in (1, 1, 2))
    assert one.counts == again.counts
    assert one.recorder.digest == again.recorder.digest
    assert one.counts.samples_digest != two.counts.samples_digest


@pytest.fixture(scope="module")
def full_run(inline: Callable[..., Any]) -> Any:
    """The whole workload once."""
    return inline("trap", "br_instr")


@pytest.mark.parametrize("row", MAIL)
def test_the_workload_has_the_mix_of_the_mail(full_run: Any, row: str) -> None:
    op, addresses, number = MAIL[row]
    per_nmi = full_run.accesses(op, *addresses) / full_run.host.exits[NMI]
    assert per_nmi == pytest.approx(number / MAIL_NMI, rel=0.05)


@pytest.mark.parametrize("design", DESIGNS)
def test_with_race_windows_nothing_is_lost_and_counts_stay_exact(
    race_runs: dict[str, Any], design: str
) -> None:
    run = race_runs[design]
    assert run.counts.count_error == [0, 0, 0, 0]
    assert _lost(run) == 0


@pytest.mark.parametrize(("what", "mail"), [("spurious", 58), ("second_bits", 72)])
def test_race_windows_give_about_as_many_odd_handlers_as_the_mail(
    race_runs: dict[str, Any], what: str, mail: int
) -> None:
    assert mail / 2 <= getattr(race_runs["trap-5.14"].counts, what) <= mail * 2


def test_race_windows_give_about_as_many_nmi_window_exits_as_the_mail(
    race_runs: dict[str, Any],
) -> None:
    assert 107 / 2 <= race_runs["trap-5.14"].host.exits[NMI_WINDOW] <= 107 * 2


def test_the_page_takes_no_more_pmis_than_the_trap_path_has_overflows(
    race_runs: dict[str, Any],
) -> None:
    assert race_runs["page"].counts.handlers <= race_runs["trap"].host.pmi.raised


def test_frozen_counters_leave_no_spurious_handlers(race_runs: dict[str, Any]) -> None:
    assert race_runs["page"].counts.spurious == 0
    assert race_runs["page"].host.pmi.late == 0


def test_what_was_held_is_counted_apart(race_runs: dict[str, Any]) -> None:
    # 2500 cycles between injection and the first access, for every PMI.
    held = race_runs["page"].counts.held
    assert held[0] == 2500 * race_runs["page"].host.pmi.delivered
    assert race_runs["trap"].counts.held == [0, 0, 0, 0]
