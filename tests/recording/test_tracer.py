"""A tracer makes one record for each thing it is told."""

from itertools import count

from pvpmu.recording.format import (
    FAULT,
    NO_KIND,
    SPURIOUS,
    Change,
    Kind,
    Op,
    Path,
    Pmi,
    Record,
    State,
    record_of,
)
from pvpmu.recording.tracer import Tracer
from pvpmu.shared.exits import INJECT_NMI, ExitReason


class Told:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.tracer = Tracer(self.put, count(100).__next__)

    def put(self, *words: int) -> None:
        self.records.append(record_of(words))


def test_every_record_has_wall_time_guest_clock_and_cycles() -> None:
    told = Told()
    told.tracer.pass_time(7, 8)
    told.tracer.mark(1)
    told.tracer.mark(2)
    assert [record[:4] for record in told.records] == [
        (100, 7, 8, Kind.MARK),
        (101, 7, 8, Kind.MARK),
    ]


def test_an_exit_its_access_and_its_entry() -> None:
    told = Told()
    told.tracer.exit(ExitReason.MSR_WRITE, 0x38F, 5, nmi_blocked=True)
    told.tracer.msr(Op.WRMSR, 0x38F, 5, fault=True)
    told.tracer.entry(ExitReason.MSR_WRITE, INJECT_NMI, 9, vector=0x50)
    assert [record[3:] for record in told.records] == [
        (Kind.EXIT, 32, 1, 0x38F, 5, 0),
        (Kind.MSR, Op.WRMSR, FAULT, 0x38F, 5, 0),
        (Kind.ENTRY, 32, INJECT_NMI, 0x50, 9, 0),
    ]


def test_what_the_host_does_within_an_exit() -> None:
    told = Told()
    told.tracer.perf_call(2, 3, 4, 0b11, 1000, 90)
    told.tracer.perf_call(6, 3, None, 0, 1, 99)
    told.tracer.pmi(Pmi.INJECTED)
    told.tracer.state(Change.COMMIT, State.RUNNING, 12)
    assert [record[3:] for record in told.records] == [
        (Kind.PERF_CALL, 2, 0b11 << 8 | 4, 3, 1000, 10),
        (Kind.PERF_CALL, 6, NO_KIND, 3, 1, 2),
        (Kind.PMI, Pmi.INJECTED, 0, 0, 0, 0),
        (Kind.STATE, Change.COMMIT, State.RUNNING, 0, 12, 0),
    ]


def test_what_the_guest_does() -> None:
    told = Told()
    told.tracer.access(Op.RDPMC, 1 << 30, 77, Path.PAGE, 90)
    told.tracer.access(Op.RDMSR, 0x10, 0, Path.EXIT, 91, fault=True)
    assert told.tracer.handler_entry(0x40_1000) == 102
    told.tracer.handler_exit(0, 102, spurious=True)
    told.tracer.sample(3, 0x40_1004, 2000)
    told.tracer.operation(0, 95)
    assert [record[3:] for record in told.records] == [
        (Kind.ACCESS, Op.RDPMC, Path.PAGE, 1 << 30, 77, 10),
        (Kind.ACCESS, Op.RDMSR, Path.EXIT | FAULT, 0x10, 0, 10),
        (Kind.HANDLER_ENTRY, 0, 0, 0, 0x40_1000, 0),
        (Kind.HANDLER_EXIT, 0, SPURIOUS, 0, 0, 1),
        (Kind.SAMPLE, 3, 0, 0, 0x40_1004, 2000),
        (Kind.OPERATION, 0, 0, 0, 0, 10),
    ]


def test_numbers_of_a_hostile_guest_are_cut_to_their_words() -> None:
    told = Told()
    told.tracer.pass_time(1 << 70, 1 << 65)
    told.tracer.exit(0x1FF, 1 << 63, 1 << 64)
    assert told.records == [(100, 0, 0, Kind.EXIT, 0xFF, 0, 0, 0, 0)]
