"""The host axes of a design: less work than KVM's, and nothing that a guest could tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.conformance import fuzz
from pvpmu.conformance.inline import InlineTarget
from pvpmu.conformance.runner import RunConfig, Runner, select
from pvpmu.conformance.vector import Vector, load_vectors
from pvpmu.conformance.verdict import Verdict
from pvpmu.host.hardware import PHYSICAL_GP
from pvpmu.host.perf import Attr
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.design import Design, design_named
from pvpmu.shared.events import BRANCHES
from pvpmu.shared.exits import INJECT_NMI, MODE_USER
from pvpmu.shared.tally import CALL_KINDS, ENABLE, LOCAL_READS, PAUSE, PERIOD, PLACEMENTS

SEED = 20261125
DISTANCE = 1000
START = (1 << 48) - DISTANCE
ALL_ON = 0x7_0000_00FF
BIT_BRANCHES = 1 << 0
LEAN = {"pmi_path": "direct", "host_freeze": "entry-mask", "rearm": "changed"}
NewMachine = Callable[..., Any]


def calls(machine: Any) -> dict[str, int]:
    """Perf calls since the last look, by kind, those that were made."""
    tallies = machine.host.stats.tallies
    made = {kind: sum(tally[n] for tally in tallies) for n, kind in enumerate(CALL_KINDS)}
    machine.no_calls()
    return {kind: count for kind, count in made.items() if count}


def running(new_machine: NewMachine, **axes: Any) -> Any:
    """A machine without a page whose four events run, 1000 before overflow."""
    machine = new_machine(paged=False, **axes)
    machine.run_four()
    machine.no_calls()
    return machine


# Direct PMIs -------------------------------------------------------------------------------------


def test_a_direct_pmi_costs_no_perf_call_and_cancels_no_entry(new_machine: NewMachine) -> None:
    machine = running(new_machine, pmi_path="direct")
    assert machine.nmi(branches=DISTANCE) & INJECT_NMI
    assert calls(machine) == {}
    assert machine.host.delivery.counts.extra_loops == 0
    assert machine.read(msr.GLOBAL_STATUS) == BIT_BRANCHES


def test_the_callback_path_costs_three_calls_and_an_entry(new_machine: NewMachine) -> None:
    machine = running(new_machine)
    assert machine.nmi(branches=DISTANCE) & INJECT_NMI
    assert calls(machine) == {"pause": 1, "period": 1, "enable": 1}
    assert machine.host.delivery.counts.extra_loops == 1


def test_the_hosts_handler_still_places_what_overflowed(new_machine: NewMachine) -> None:
    machine = running(new_machine, pmi_path="direct")
    machine.nmi(branches=DISTANCE)
    # Once by the host's own handler, once for the distance to the guest counter's next wrap.
    assert sum(tally[PLACEMENTS] for tally in machine.host.stats.tallies) == 2


def test_a_counter_that_nobody_reloads_overflows_at_its_next_wrap(new_machine: NewMachine) -> None:
    machine = running(new_machine, pmi_path="direct")
    machine.nmi(branches=DISTANCE + 5)
    assert machine.rdpmc(0) == 5
    machine.write(msr.OVF_CTRL, BIT_BRANCHES)
    machine.nmi(branches=(1 << 48) - 6)
    assert machine.read(msr.GLOBAL_STATUS) == 0
    assert machine.nmi(branches=1) & INJECT_NMI
    assert machine.read(msr.GLOBAL_STATUS) == BIT_BRANCHES


def test_the_hosts_own_event_in_the_same_nmi_is_counted(new_machine: NewMachine) -> None:
    machine = running(new_machine, pmi_path="direct")
    host_overflows = []
    machine.host.perf.create(Attr(BRANCHES, MODE_USER), DISTANCE, lambda: host_overflows.append(1))
    assert machine.nmi(branches=DISTANCE) & INJECT_NMI
    assert host_overflows == [1]
    assert machine.nmi(branches=DISTANCE) == 0
    assert host_overflows == [1, 1]


def test_status_without_a_pmi_reaches_a_page(new_machine: NewMachine) -> None:
    machine = new_machine(pmi_path="direct")
    machine.run_four()
    machine.write(msr.LVTPC, 1 << 16)
    words = machine.register()
    machine.nmi(branches=DISTANCE)
    assert words[page.RAISED] ^ words[page.ACKED] == BIT_BRANCHES


# Masked at VM-entry ------------------------------------------------------------------------------


def test_a_mask_stops_every_counter_without_a_call(new_machine: NewMachine) -> None:
    machine = running(new_machine, host_freeze="entry-mask")
    machine.write(msr.GLOBAL_CTRL, 0, branches=7)
    assert machine.host.hardware.started == []
    assert sum(tally[LOCAL_READS] for tally in machine.host.stats.tallies) == 4
    assert calls(machine) == {}
    machine.write(msr.OVF_CTRL, 0, branches=9)
    assert machine.rdpmc(0) == START + 7
    assert calls(machine) == {}


def test_only_what_changed_is_armed_again(new_machine: NewMachine) -> None:
    machine = running(new_machine, host_freeze="entry-mask", rearm="changed")
    machine.write(msr.GLOBAL_CTRL, 0, branches=7)
    machine.write(0x4C2, START)
    machine.write(msr.GLOBAL_CTRL, ALL_ON)
    assert calls(machine) == {"pause": 1, "period": 1, "enable": 1}
    assert machine.nmi(branches=DISTANCE - 8) == 0
    assert machine.nmi(branches=1) & INJECT_NMI
    assert machine.read(msr.GLOBAL_STATUS) == BIT_BRANCHES


def test_a_masked_counter_that_is_armed_in_any_case_costs_as_much_as_kvms(
    new_machine: NewMachine,
) -> None:
    machine = running(new_machine, host_freeze="entry-mask")
    machine.write(msr.GLOBAL_CTRL, 0)
    machine.write(msr.GLOBAL_CTRL, ALL_ON)
    assert calls(machine) == {"pause": 4, "period": 4, "enable": 4}


def test_a_paused_counter_goes_on_where_it_was(new_machine: NewMachine) -> None:
    machine = running(new_machine, rearm="changed")
    machine.write(msr.GLOBAL_CTRL, 0, branches=7)
    machine.write(msr.GLOBAL_CTRL, ALL_ON)
    assert calls(machine) == {"pause": 4, "enable": 4}
    assert machine.nmi(branches=DISTANCE - 8) == 0
    assert machine.nmi(branches=1) & INJECT_NMI


def test_a_counter_that_is_disabled_gives_its_hardware_counter_back(
    new_machine: NewMachine,
) -> None:
    machine = running(new_machine, host_freeze="entry-mask")
    machine.write(msr.GLOBAL_CTRL, 0)
    machine.write(0x186, 0)
    assert calls(machine) == {"pause": 1}
    assert sum(counter.taken for counter in machine.host.hardware.counters) == 3


def test_a_masked_counter_does_not_count_when_the_host_moves_its_event(
    new_machine: NewMachine,
) -> None:
    machine = running(new_machine, host_freeze="entry-mask")
    machine.write(0x188, 0x5300C0)
    machine.write(msr.GLOBAL_CTRL, 0, instructions=3)
    perf = machine.host.perf
    for _ in range(PHYSICAL_GP - 3):
        assert perf.create(Attr(BRANCHES, 0, pinned=True), DISTANCE, lambda: None).counting
    # No general counter is left: one is vacated, if only by an event that a fixed one can take.
    machine.write(msr.FIXED_CTR_CTRL, 0)
    assert perf.create(Attr(BRANCHES, 0, pinned=True), DISTANCE, lambda: None).counting
    machine.write(msr.OVF_CTRL, 0, instructions=50)
    assert machine.rdpmc(2) == 3


def test_a_lean_host_gives_three_calls_to_a_pmi_and_none_outside_the_handler(
    new_machine: NewMachine,
) -> None:
    machine = new_machine(**LEAN)
    machine.run_four()
    words = machine.register()
    machine.no_calls()
    assert machine.nmi(branches=DISTANCE) & INJECT_NMI
    assert calls(machine) == {}
    assert words[page.LIVE] == 0
    assert words[page.PMC] == 0
    words[page.PMC] = START
    words[page.RELEASE_SEQ] = words[page.FREEZE_SEQ]
    machine.write(msr.GLOBAL_CTRL, ALL_ON, blocked=True)
    handler = machine.host.stats.tallies[0]
    assert (handler[PAUSE], handler[PERIOD], handler[ENABLE]) == (1, 1, 1)


# One lock for an exit ----------------------------------------------------------------------------


def test_an_exit_takes_the_lock_once_and_places_each_event_once(new_machine: NewMachine) -> None:
    each, shared = (
        running(new_machine, context_lock=axis, pmi_path="direct")
        for axis in ("per-call", "per-exit")
    )
    for machine in (each, shared):
        machine.write(msr.GLOBAL_CTRL, 0)
        machine.write(msr.GLOBAL_CTRL, ALL_ON)
    assert (sum(each.locks()), sum(shared.locks())) == (12, 2)
    placed = [sum(t[PLACEMENTS] for t in m.host.stats.tallies) for m in (each, shared)]
    assert placed == [1 + 2 + 3 + 4, 4]
    assert calls(each) == calls(shared)


# Nothing that a guest could tell -----------------------------------------------------------------

AXES = [
    {"pmi_path": "direct"},
    {"host_freeze": "entry-mask"},
    {"rearm": "changed"},
    {"host_freeze": "entry-mask", "rearm": "changed"},
    {**LEAN, "context_lock": "per-exit"},
]
AREAS = ("FLT", "HOLD", "MIG", "OVF", "PMI", "RPM", "RUN", "TURN")


@pytest.fixture(scope="module")
def vectors() -> list[Vector]:
    return select(load_vectors(), AREAS)


def lean(axes: dict[str, str]) -> InlineTarget:
    named: dict[str, Any] = axes
    return InlineTarget(Design(name="lean", summary="", is_paused=True, page=True, **named))


@pytest.mark.parametrize("axes", AXES, ids=lambda axes: "+".join(axes.values()))
def test_the_conformance_vectors_see_no_difference(
    axes: dict[str, str], vectors: list[Vector]
) -> None:
    results = Runner(lambda: lean(axes), RunConfig()).run(vectors).results
    assert len(results) > 250
    assert [case for case in results if case.verdict.bad] == []
    skipped = {case.id for case in results if case.verdict is Verdict.SKIP}
    assert len(skipped) < 20


@pytest.mark.parametrize("axes", AXES, ids=lambda axes: "+".join(axes.values()))
def test_random_programs_see_no_difference(axes: dict[str, str]) -> None:
    print(f"seed {SEED}")
    outcome = fuzz.run(lean(axes), operations=3_000, seed=SEED)
    assert outcome.found is None, outcome.found


def test_the_shipped_designs_are_the_axes_that_their_names_say() -> None:
    assert design_named("page-lean").host_axes == ("direct", "entry-mask", "changed")
    assert design_named("trap-lean").host_axes == ("callback", "entry-mask", "changed")
    assert design_named("trap-direct").host_axes == ("direct", "pause", "all")
    assert design_named("page-direct").host_axes == ("direct", "pause", "all")
