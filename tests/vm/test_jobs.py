"""The VM's PMIs: real exits, real NMIs, nothing lost, and the kernel counts the same."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pvpmu.host.perf_open import has_pmu
from pvpmu.host.perf_sources import why_not
from pvpmu.host.worker import stats_message
from pvpmu.shared.cpuid import FIXED_BASE
from pvpmu.shared.events import BRANCHES, EVENTS, REFUSED
from pvpmu.shared.exits import Control
from pvpmu.vm import layout
from pvpmu.vm.cpu import LOOP, ProgrammedEvent, VmCpu
from pvpmu.vm.jobs import BlockedJob, FloorJob, OperationsJob, PmiJob, PmiReport
from pvpmu.vm.layout import Command
from pvpmu.vm.session import VmSession

from .conftest import Open

pytestmark = pytest.mark.process
PMIS, PERIOD = 200, 120
_CLOCK = 5_000_000
"""ns: what a handler takes on a busy machine, and more, so that the guest gets on."""


def chunk(vm: VmSession, **more: bool) -> PmiReport:
    (report,) = vm.run([PmiJob(PMIS, PERIOD, **more)])
    return report


@pytest.mark.parametrize(
    ("design", "reads", "writes"),
    [
        ("trap-5.14", 3, 5),
        ("trap", 3, 5),
        ("trap-lean", 3, 5),
        ("page", 0, 1),
        ("page-direct", 0, 1),
        ("page-reload", 0, 0),
    ],
)
def test_a_pmi_costs_the_exits_that_the_model_says(
    open_vm: Open, design: str, reads: int, writes: int
) -> None:
    report = chunk(open_vm(design))
    assert report.registered == design.startswith("page")
    assert (report.pmis, report.empty, report.nmis, report.samples) == (PMIS, 0, PMIS, PMIS)
    assert report.exits["to_user_rdmsr"] == reads * PMIS
    assert report.exits["to_user_wrmsr"] == writes * PMIS
    assert report.counted == report.retired
    assert report.stats is not None
    pmi = report.stats.pmi
    assert pmi["raised"] == pmi["delivered"] == PMIS
    assert len(report.cycles) == PMIS


def test_the_kernel_counts_the_same_exits(open_vm: Open) -> None:
    report = chunk(open_vm("trap"))
    if isinstance(report.kernel, str):
        pytest.skip(f"needs the kernel's tracepoints: {report.kernel}")
    assert {name: report.kernel[name] for name in report.exits} == report.exits


@pytest.mark.parametrize("design", ["trap", "page", "page-reload"])
def test_a_host_that_answers_from_a_table_has_the_same_exits(open_vm: Open, design: str) -> None:
    vm = open_vm(design)
    by_vpmu, by_table = chunk(vm), chunk(vm, table=True)
    assert by_table.exits == by_vpmu.exits
    assert (by_table.pmis, by_table.stats) == (PMIS, None)
    again = chunk(vm)
    assert again.counted == again.retired


def test_each_access_of_the_handler_is_stamped(open_vm: Open) -> None:
    report = chunk(open_vm("page"), stamps=True)
    assert {(reason, address): len(spans) // PMIS for (reason, address), spans in
            report.accesses.items()} == {
        (32, 0x38F): 2, (31, 0x38E): 2, (32, 0x390): 1, (15, 0): 1, (32, 0x4C1): 1, (32, 0x834): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("design", "tick", "sched_in", "sched_out"), [("trap", 22, 13, 12), ("page", 2, 1, 1)]
)
def test_tick_and_task_switch_cost_the_exits_that_the_model_says(
    open_vm: Open, design: str, tick: int, sched_in: int, sched_out: int
) -> None:
    (found,) = open_vm(design).run([OperationsJob(5)])
    assert {name: exits for name, (exits, _) in found.items()} == {
        "tick": tick, "sched_in": sched_in, "sched_out": sched_out,
    }  # fmt: skip


def test_floors_are_measured(open_vm: Open) -> None:
    (floors,) = open_vm("trap").run([FloorJob(20)])
    assert set(floors) == {"stamps", "gate", "empty_exit", "msr_exit", "page_word"}
    assert all(len(spans) == 20 for spans in floors.values())


def test_two_vcpus_share_the_memory_and_nothing_else(open_vm: Open) -> None:
    vm = open_vm("page", vcpus=2)
    reports = vm.run([PmiJob(PMIS, PERIOD), PmiJob(PMIS, 3 * PERIOD)])
    for report, period in zip(reports, (PERIOD, 3 * PERIOD), strict=True):
        assert report.registered
        assert report.counted[0] == report.retired[0] == PMIS * period
        assert report.exits["to_user_wrmsr"] == PMIS


@pytest.fixture
def needs_perf() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"needs perf_event_open: {reason}")


@pytest.mark.parametrize(("design", "exits", "calls"), [("trap-5.14", 8, 19), ("trap", 8, 12),
                                                         ("page", 1, 8)])  # fmt: skip
def test_the_kernel_s_perf_interrupts_the_guest_wherever_it_is(
    open_vm: Open, needs_perf: None, design: str, exits: int, calls: int
) -> None:
    (report,) = open_vm(design, perf="linux").run([PmiJob(60, 2_000_000)])
    stats = report.stats
    assert stats is not None
    assert report.empty == 0
    assert stats.pmi["raised"] - stats.pmi["coalesced"] - stats.undelivered == report.nmis
    made = report.exits["to_user_rdmsr"] + report.exits["to_user_wrmsr"]
    # The last PMI can be under way when the run ends.
    assert abs(made - exits * report.nmis) <= exits
    assert abs(sum(stats.tallies[0][:7]) - calls * report.nmis) <= calls
    assert stats.times is not None
    assert stats.times.handler_ns > 0


@pytest.mark.skipif(has_pmu(), reason="there is a hardware PMU")
@pytest.mark.parametrize("design", ["trap-5.14", "trap", "trap-direct", "page", "page-direct"])
def test_what_no_clock_stands_for_is_modelled_to_the_last_count(
    open_vm: Open, needs_perf: None, design: str
) -> None:
    (report,) = open_vm(design, perf="linux").run([PmiJob(60, _CLOCK)])
    assert report.retired[0] > 0
    # Branches, cache misses, instructions; cycles are the clock's.
    assert report.counted[:3] == report.retired[:3]
    assert report.counted[3] > 0


@pytest.mark.skipif(has_pmu(), reason="there is a hardware PMU")
@pytest.mark.parametrize("design", ["trap", "page"])
def test_what_is_refused_counts_nothing_and_cycles_are_sampled_all_the_same(
    open_vm: Open, needs_perf: None, design: str
) -> None:
    vm = open_vm(design, perf="linux", missing_events=REFUSED)
    (report,) = vm.run([PmiJob(60, _CLOCK)])
    assert report.retired[0] > 0
    assert report.counted[:3] == [0, 0, 0]
    assert report.samples == report.pmis >= 60
    assert report.stats is not None
    assert report.stats.pmi["delivered"] == report.nmis


@dataclass(frozen=True)
class BothSampled:
    """Branches, which are modelled, and cycles, a clock's: count and samples of each, and loops."""

    branches: int
    cycles: int

    def do(self, cpu: VmCpu) -> tuple[list[int], int, dict[str, int]]:
        """So many of either, or more."""
        box = cpu.machine.box
        cpu.prepare(
            [
                ProgrammedEvent(0, EVENTS[BRANCHES].selector, 3, self.branches),
                ProgrammedEvent(FIXED_BASE + 1, 0, 3, self.cycles),
            ],
            loops=1000,
        )
        cpu.command(Command.SCHED_IN, value=1)
        cpu.control(Control.START)
        cpu.command(Command.PMIS, layout.RUN_LOOPS, 100)
        cpu.control(Control.STOP)
        assert cpu.host.result is not None
        pmi = stats_message(cpu.host.result).pmi
        cpu.command(Command.FINISH)
        return box[layout.ANSWERS_AT : layout.ANSWERS_AT + 4].tolist(), box[layout.LOOPS_DONE], pmi


@pytest.mark.skipif(has_pmu(), reason="there is a hardware PMU")
@pytest.mark.parametrize("design", ["trap", "page", "page-direct"])
def test_modelled_overflows_come_among_real_ones_and_none_is_lost(
    open_vm: Open, needs_perf: None, design: str
) -> None:
    period = 600_000
    ((answers, loops, pmi),) = open_vm(design, perf="linux").run([BothSampled(period, _CLOCK)])
    branches, sampled, _, by_the_clock = answers
    assert branches == loops * LOOP[BRANCHES]
    # Not a count is lost, so that it is known how many overflows there were.
    assert sampled == branches // period > 0
    assert by_the_clock > 0
    assert pmi["raised"] >= pmi["delivered"] > 0


def test_nmis_are_blocked_in_a_handler_and_kvm_agrees(open_vm: Open, needs_vm: None) -> None:
    (blocked,) = open_vm("trap").run([BlockedJob()])
    assert blocked
    assert all(told == held for told, held in blocked)
    assert {told for told, _ in blocked} == {True, False}
