"""The host's own events: who keeps a counter, who makes room, and what is counted."""

from __future__ import annotations

from pvpmu.host.hardware import PhysicalPmu
from pvpmu.host.hostevents import CpuContext
from pvpmu.host.perf import Attr, PerfContext, PerfEvent
from pvpmu.shared.events import BRANCHES, CYCLES, KINDS
from pvpmu.shared.exits import MODE_USER
from pvpmu.shared.hostload import HostEvent, HostEventStats, HostLoad
from pvpmu.shared.tally import PLACEMENTS

MUX = 1000


def host_event(name: str = "branch-instructions", **changes: object) -> HostEvent:
    return HostEvent(name=name, **changes)  # type: ignore[arg-type]


class Machine:
    """Two GP counters and no fixed one, the host's events, and KVM's context beside them."""

    def __init__(self, *events: HostEvent, gp: int = 2) -> None:
        self.pmu = PhysicalPmu(gp, 0)
        load = HostLoad(gp=gp, fixed=0, mux_cycles=MUX, events=events)
        self.cpu = CpuContext(self.pmu, load)
        self.kvm = PerfContext(self.pmu)
        self.kvm.beside = self.cpu
        self.overflows = 0

    def guest_event(self, kind: int = BRANCHES, period: int = 1 << 40) -> PerfEvent:
        def overflow() -> None:
            self.overflows += 1

        event = self.kvm.create(Attr(kind, MODE_USER, pinned=True), period, overflow)
        assert event is not None
        return event

    def retire(self, branches: int = 0, cycles: int = 0) -> None:
        user = [0] * KINDS
        user[CYCLES], user[BRANCHES] = cycles, branches
        self.cpu.retired(user, None)
        self.pmu.retire(user, None)
        if self.pmu.status:
            self.kvm.handle_nmi()

    def on(self) -> list[bool]:
        """Which of the host's events have a counter."""
        return [own.event.counter is not None for own in self.cpu.load]


def test_pinned_events_of_the_host_keep_their_counters() -> None:
    machine = Machine(host_event(pinned=True))
    first, second = machine.guest_event(), machine.guest_event()
    assert machine.on() == [True]
    assert (first.counting, second.counting) == (True, False)
    assert second.failed
    assert machine.kvm.refused == 1


def test_flexible_ones_make_room_and_come_back_where_there_is_some() -> None:
    machine = Machine(host_event(), host_event())
    assert machine.on() == [True, True]
    guest = machine.guest_event()
    assert guest.counting
    assert machine.on() == [True, False]
    machine.guest_event()
    assert machine.on() == [False, False]
    machine.kvm.pause(guest)
    # Nobody reschedules the CPU when a task's event stops; its timer does.
    assert machine.on() == [False, False]
    machine.retire(cycles=MUX)
    assert machine.on() == [False, True]
    machine.retire(cycles=MUX)
    assert machine.on() == [True, False]


def test_flexible_events_that_are_put_on_again_are_placements_of_the_enable() -> None:
    machine = Machine(host_event(), host_event(), gp=4)
    for guests in (1, 2):
        before = machine.kvm.tally[PLACEMENTS]
        machine.guest_event()
        assert machine.kvm.tally[PLACEMENTS] - before == guests + 2


def test_the_host_samples_the_guest_and_the_guest_gets_no_pmi_of_it() -> None:
    machine = Machine(host_event(period=100, pinned=True))
    guest = machine.guest_event(period=250)
    for _ in range(50):
        machine.retire(branches=10)
    assert machine.cpu.load[0].samples == 5
    assert machine.overflows == 2
    assert machine.kvm.read_value(guest) == 500


def test_overflows_of_both_in_one_nmi_are_both_taken() -> None:
    machine = Machine(host_event(period=100, pinned=True))
    machine.guest_event(period=100)
    machine.retire(branches=100)
    assert (machine.cpu.load[0].samples, machine.overflows) == (1, 1)


def test_an_event_that_only_counts_takes_no_sample() -> None:
    machine = Machine(host_event(pinned=True))
    machine.retire(branches=(1 << 47) + 5)
    (stats,) = machine.cpu.stats(0).events
    assert (stats.samples, stats.count) == (0, (1 << 47) + 5)


def test_an_event_that_excludes_the_guest_only_keeps_its_counter() -> None:
    machine = Machine(host_event(period=10, pinned=True, guest=False))
    machine.retire(branches=100, cycles=100)
    assert machine.cpu.stats(0).events == [HostEventStats(0, 0, 100, 100)]


def test_a_flexible_event_counts_and_samples_on_where_it_left_off() -> None:
    machine = Machine(host_event(period=100), gp=1)
    machine.retire(branches=60, cycles=60)
    guest = machine.guest_event()
    machine.retire(branches=500, cycles=500)
    machine.kvm.release(guest)
    machine.retire(cycles=MUX)
    machine.retire(branches=40, cycles=40)
    assert machine.cpu.stats(0).events == [HostEventStats(1, 100, 100, 1600)]


def test_statistics_are_of_one_window() -> None:
    machine = Machine(host_event(period=100, pinned=True))
    machine.retire(branches=150, cycles=150)
    machine.cpu.miss(BRANCHES, MODE_USER, [7] * KINDS, None)
    machine.cpu.restart()
    machine.retire(branches=60, cycles=60)
    machine.cpu.miss(BRANCHES, MODE_USER, [7] * KINDS, [9] * KINDS)
    stats = machine.cpu.stats(3)
    assert stats.events == [HostEventStats(1, 60, 60, 60)]
    assert (stats.refused, stats.missed[BRANCHES], sum(stats.missed)) == (3, 7, 7)
