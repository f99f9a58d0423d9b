"""Which exits a design leaves: of operations exactly, of the rest within bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.trace.analysis import Analysis, Answer, analyse, bounds
from pvpmu.trace.evaluate import Evaluator
from pvpmu.trace.names import ANY_COUNTER, RDPMC, READ, WRITE
from pvpmu.trace.operations import LABELS
from pvpmu.trace.reading import Trace

Reading = Callable[..., Trace]
Sample = Callable[[str], bytes]
TRAP, PAGE = design_named("trap"), design_named("page")


def answers(trace: Trace) -> tuple[Analysis, Answer, Answer]:
    found = analyse(trace, [TRAP, PAGE], TRAP)
    return found, *found.answers


def test_the_whole_script_leaves_what_a_run_of_each_design_leaves(
    mail_run: Any, render: Callable[..., bytes], reading: Reading
) -> None:
    found, trap, page = answers(reading(render([mail_run])))
    assert {kind: one.count for kind, one in page.operations.items()} == {
        "sched_in": 7, "sched_out": 6, "tick": 591, "pmi": 7250, "pmi_spurious": 58,
    }  # fmt: skip
    assert (sum(found.pmu.values()), trap.attributed, page.attributed) == (71541, 71541, 8503)
    assert found.avoided(page) == (63038, 63038)
    assert found.handlers == 7308
    assert not found.left_over
    # As the bench counts of a run: calls in handlers, bringing PMIs; all but a cold first sched-in.
    assert [sum(tally[:7]) for tally in trap.tallies][:2] == [87696, 21966]
    assert [sum(tally[:7]) for tally in page.tallies][:2] == [58464, 29232]


def test_the_2021_table_leaves_the_same_by_its_fit(reading: Reading, sample: Sample) -> None:
    found, trap, page = answers(reading(sample("mail_2021.txt")))
    assert (trap.attributed, page.attributed) == (71541, 8503)
    assert page.exits == {(WRITE, 0x38F): 8503}
    assert trap.exits[RDPMC, ANY_COUNTER] == 9710
    assert [sum(tally[:7]) for tally in page.tallies][:2] == [58464, 29232]
    assert found.avoided(trap) == (0, 0)


@pytest.mark.parametrize(
    ("name", "exits"),
    [("trap-lean", 71541), ("page-lean", 8503), ("page-reload", 1195), ("xen-style", 20473),
     ("sbi-style", 20591)],
)  # fmt: skip
def test_other_designs_leave_of_the_2021_table_what_a_run_of_its_script_makes(
    name: str, exits: int, reading: Reading, sample: Sample
) -> None:
    (answer,) = analyse(reading(sample("mail_2021.txt")), [design_named(name)], TRAP).answers
    assert (answer.attributed, answer.unfaithful) == (exits, 0)


@pytest.mark.parametrize("style", ["ftrace", "trace-cmd-R"])
def test_the_answer_does_not_depend_on_the_tool(
    style: str, short_runs: list[Any], render: Callable[..., bytes], reading: Reading
) -> None:
    perf, other = (
        analyse(reading(render(short_runs, one)), [PAGE], TRAP) for one in ("perf-script", style)
    )
    assert other.answers[0].exits == perf.answers[0].exits
    assert other.answers[0].tallies == perf.answers[0].tallies
    assert other.baseline.attributed == sum(perf.pmu.values())


def test_the_driver_of_6_12_makes_fewer_accesses_and_a_page_leaves_as_many(
    short_runs: list[Any], later_runs: list[Any], render: Callable[..., bytes], reading: Reading
) -> None:
    _, trap, page = answers(reading(render(short_runs)))
    _, later_trap, later_page = answers(reading(render(later_runs)))
    # A tick 14 for 22, a sched-in 10 for 13, a sched-out 9 for 12; of two vCPUs.
    assert (trap.attributed, later_trap.attributed) == (806, 806 - 2 * (5 * 8 + 3 * 3 + 2 * 3))
    assert page.attributed == later_page.attributed == 88
    assert later_trap.unfaithful == later_page.unfaithful == 0


def test_operations_of_every_kind_have_a_label(
    short_runs: list[Any], render: Callable[..., bytes], reading: Reading
) -> None:
    _, trap, _ = answers(reading(render(short_runs)))
    assert set(trap.operations) <= set(LABELS)


def shares(design: Any, *accesses: tuple[int, int]) -> tuple[int, int]:
    evaluator = Evaluator(design, PmuCpuid())
    return bounds(evaluator, Counter(dict.fromkeys(accesses, 1000)))


@pytest.mark.parametrize(
    "access",
    [(WRITE, 0x38F), (READ, 0x38E), (READ, 0x4C1), (WRITE, 0x187), (RDPMC, ANY_COUNTER),
     (READ, 0x345), (WRITE, 0xC3), (READ, 0x38F), (WRITE, 0x834)],
)  # fmt: skip
def test_trapping_leaves_every_access_wherever_it_stands(access: tuple[int, int]) -> None:
    assert shares(TRAP, access) == (1000, 1000)


@pytest.mark.parametrize(
    ("access", "left"),
    [
        ((READ, 0x38E), (0, 0)),
        ((READ, 0x38D), (0, 0)),
        ((WRITE, 0x390), (0, 0)),
        # A running counter's value is in no page.
        ((RDPMC, ANY_COUNTER), (0, 1000)),
        ((READ, 0x4C1), (0, 1000)),
        ((WRITE, 0x38F), (0, 1000)),
        ((WRITE, 0x186), (0, 1000)),
    ],
)
def test_a_page_leaves_between_none_and_all_of_some_accesses(
    access: tuple[int, int], left: tuple[int, int]
) -> None:
    assert shares(PAGE, access) == left


def test_bounds_add_up() -> None:
    assert shares(PAGE, (READ, 0x38E), (WRITE, 0x38F), (RDPMC, ANY_COUNTER)) == (0, 2000)


def test_exits_of_which_nothing_says_the_msr_may_all_be_saved_or_none(
    reading: Reading, sample: Sample
) -> None:
    found, trap, page = answers(reading(sample("perf_kvm_stat_vmexit_synthetic.txt")))
    assert found.unknown == 45499 + 16948
    assert found.avoided(trap) == (0, 0)
    assert found.avoided(page) == (0, 9710 + 45499 + 16948)


def test_each_design_is_told_once_also_the_baseline(reading: Reading, sample: Sample) -> None:
    told: list[str] = []
    trace = reading(sample("tracecmd_report_real.txt"))
    analyse(trace, [PAGE, PAGE], TRAP, told.append)
    assert told == ["page", "trap"]
