"""What a traced vCPU tells: exits, accesses, entries, perf calls, PMIs and the page's state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import pytest

from pvpmu.host.traced import TracedVcpu
from pvpmu.recording.format import (
    EXIT_NMI_BLOCKED,
    FAULT,
    Change,
    Kind,
    Op,
    Pmi,
    Record,
    State,
    record_of,
)
from pvpmu.recording.tracer import Tracer
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.tally import CALL_KINDS

New = Callable[..., Any]
ALL_ON = 0x7_0000_00FF
NMI_MODE = 0x400


class Told:
    """The records since the last look."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.tracer = Tracer(self.put, count().__next__)

    def put(self, *words: int) -> None:
        self.records.append(record_of(words))

    def take(self, *kinds: Kind) -> list[Record]:
        found = [record for record in self.records if record.kind in kinds]
        self.records.clear()
        return found


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def traced(new_machine: New, told: Told) -> New:
    def make(**options: Any) -> Any:
        machine = new_machine(host=partial(TracedVcpu, tracer=told.tracer), **options)
        machine.run_four()
        return machine

    return make


def states(told: Told) -> list[tuple[Change, State]]:
    return [(Change(r.code), State(r.flags)) for r in told.take(Kind.STATE)]


def pmis(told: Told) -> list[Pmi]:
    return [Pmi(r.code) for r in told.take(Kind.PMI)]


def test_an_exit_is_followed_by_its_access_and_its_entry(traced: New, told: Told) -> None:
    machine = traced(paged=False)
    told.records.clear()
    machine.write(0x4C1, 77, blocked=True)
    assert machine.read(0x4C1) == 77
    assert machine.rdpmc(0) == 77
    seen = [(r.kind, r.code, r.flags, r.detail) for r in told.records if r.kind != Kind.PERF_CALL]
    assert seen == [
        (Kind.EXIT, 32, EXIT_NMI_BLOCKED, 0x4C1),
        (Kind.MSR, Op.WRMSR, 0, 0x4C1),
        (Kind.ENTRY, 32, 0, 0),
        (Kind.EXIT, 31, 0, 0x4C1),
        (Kind.MSR, Op.RDMSR, 0, 0x4C1),
        (Kind.ENTRY, 31, 0, 0),
        (Kind.EXIT, 15, 0, 0),
        (Kind.ENTRY, 15, 0, 0),
    ]
    assert [r.a for r in told.take(Kind.MSR)] == [77, 77]


def test_an_access_that_faults_is_marked(traced: New, told: Told) -> None:
    machine = traced(paged=False)
    told.records.clear()
    assert machine.read(0x1234) is None
    machine.write(msr.GLOBAL_CTRL, 1 << 60)
    machine.read(1 << 40 | 0x38F)
    assert [(r.code, r.flags, r.detail, r.a) for r in told.take(Kind.MSR)] == [
        (Op.RDMSR, FAULT, 0x1234, 0),
        (Op.WRMSR, FAULT, msr.GLOBAL_CTRL, 1 << 60),
        (Op.RDMSR, FAULT, 0x38F, 0),
    ]


def test_virtual_time_is_the_guests_clock_and_its_cycles_since_reset(
    traced: New, told: Told
) -> None:
    machine = traced(paged=False)
    machine.slot[exits.CLOCK] = 5000
    machine.exit(ExitReason.HLT, user=[7, 0, 0, 0, 0, 0, 0], kernel=[3, 0, 0, 0, 0, 0, 0])
    machine.slot[exits.CLOCK] = 6000
    machine.exit(ExitReason.HLT)
    assert [(r.now, r.cycles) for r in told.take(Kind.EXIT)][-2:] == [(5000, 10), (6000, 10)]
    machine.exit(ExitReason.CONTROL, value=Control.RESET)
    machine.exit(ExitReason.HLT, user=[1, 0, 0, 0, 0, 0, 0])
    assert [(r.kind, r.cycles) for r in told.take(Kind.MARK, Kind.EXIT)] == [
        (Kind.MARK, 0),
        (Kind.EXIT, 1),
    ]


def test_every_perf_call_is_told_with_its_event(traced: New, told: Told) -> None:
    machine = traced(paged=False)
    made = {
        r.detail: r.flags & 0xFF
        for r in told.take(Kind.PERF_CALL)
        if CALL_KINDS[r.code] == "create"
    }
    assert sorted(made.values()) == [0, 1, 4, 5]
    machine.no_calls()
    machine.write(msr.GLOBAL_CTRL, 0)
    calls = told.take(Kind.PERF_CALL)
    assert [CALL_KINDS[r.code] for r in calls] == ["pause"] * 4
    assert {r.detail: r.flags & 0xFF for r in calls} == made
    counted = [sum(tally[kind] for tally in machine.host.stats.tallies) for kind in range(7)]
    assert counted == [4, 0, 0, 0, 0, 0, 0]


def test_a_pmi_is_raised_injected_and_coalesced(traced: New, told: Told) -> None:
    machine = traced(paged=False)
    told.records.clear()
    machine.nmi(branches=1000)
    assert pmis(told) == [Pmi.RAISED, Pmi.INJECTED]
    machine.write(msr.GLOBAL_CTRL, 0, blocked=True)
    machine.nmi(stray=True, blocked=True)
    assert pmis(told)[0] == Pmi.STRAY


def test_the_counts_of_pmis_are_the_hosts_own(traced: New, told: Told) -> None:
    machine = traced(paged=False)
    machine.exit(ExitReason.CONTROL, value=Control.START)
    told.records.clear()
    for stray in (False, True, False):
        machine.nmi(branches=1000, misses=1000, stray=stray)
        machine.exit(ExitReason.NMI_WINDOW)
    machine.exit(ExitReason.CONTROL, value=Control.STOP)
    counts = machine.host.result.pmi
    seen = pmis(told)
    names = {"INJECTED": "delivered"}
    assert counts.raised
    assert counts.stray
    for what in Pmi:
        assert seen.count(what) == getattr(counts, names.get(what.name, what.name.lower()))


def test_a_page_is_registered_frozen_committed_stopped_and_given_up(
    traced: New, told: Told
) -> None:
    machine = traced()
    assert states(told) == []
    words = machine.register()
    assert states(told) == [(Change.REGISTER, State.RUNNING)]
    machine.nmi(branches=1000)
    assert states(told) == [(Change.FREEZE, State.FROZEN)]
    words[page.RELEASE_SEQ] = words[page.FREEZE_SEQ]
    machine.write(msr.GLOBAL_CTRL, ALL_ON, blocked=True)
    machine.exit(ExitReason.NMI_WINDOW)
    assert states(told) == [(Change.COMMIT, State.RUNNING)]
    machine.write(msr.GLOBAL_CTRL, 0)
    assert states(told) == [(Change.STOP, State.FROZEN)]
    machine.write(msr.PV_PAGE, 0)
    assert states(told) == [(Change.UNREGISTER, State.TRAP_ONLY)]


def test_a_refused_commit_is_told(traced: New, told: Told) -> None:
    machine = traced()
    words = machine.register()
    machine.write(msr.GLOBAL_CTRL, 0)
    told.records.clear()
    words[page.EVTSEL] = 1 << 40
    assert machine.write(msr.GLOBAL_CTRL, ALL_ON) == exits.FAULT_GP
    assert states(told) == [(Change.REFUSE, State.FROZEN)]
    assert machine.write(msr.GLOBAL_CTRL, ALL_ON) == 0
    assert states(told) == [(Change.COMMIT, State.RUNNING)]


def test_a_vector_that_is_injected_stands_in_the_entry(traced: New, told: Told) -> None:
    machine = traced(paged=False)
    machine.write(msr.LVTPC, 0x51)
    told.records.clear()
    machine.exit(ExitReason.EXCEPTION_NMI, flags=exits.INTERRUPTIBLE, user=[0, 0, 0, 0, 0, 1000, 0])
    (entry,) = told.take(Kind.ENTRY)
    assert (entry.flags, entry.detail) == (exits.INJECT_IRQ, 0x51)


def test_measurement_exits_are_marks_and_no_exits(traced: New, told: Told) -> None:
    machine = traced(paged=False)
    told.records.clear()
    machine.exit(ExitReason.CONTROL, value=Control.START)
    machine.exit(ExitReason.FLOOR, value=0)
    machine.exit(ExitReason.CONTROL, value=Control.STOP)
    assert [(r.kind, r.code) for r in told.records] == [
        (Kind.MARK, Control.START),
        (Kind.MARK, Control.STOP),
    ]


def test_whatever_a_hostile_guest_stores_is_recorded_without_harm(traced: New, told: Told) -> None:
    machine = traced(paged=False)
    most = (1 << 64) - 1
    machine.slot[exits.CLOCK] = most
    for reason in (ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC, 77, 0xFF):
        machine.exit(reason, most, most, user=[most] * 7)
    assert told.take(Kind.EXIT)[-1].code == 77


def test_a_traced_vcpu_is_looked_up_by_slot_as_another(traced: New, new_machine: New) -> None:
    assert not vars(traced().host)
    assert not vars(new_machine().host)
