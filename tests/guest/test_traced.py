"""What a guest tells: accesses and where they went, handlers, samples, operations."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from pvpmu.guest.traced import GuestTrace
from pvpmu.recording.format import FAULT, PATH_MASK, SPURIOUS, Kind, Path, Record, record_of
from pvpmu.recording.tracer import Tracer
from pvpmu.shared import exits
from pvpmu.shared.errors import GeneralProtectionError
from pvpmu.shared.exits import Control, ExitReason


@dataclass
class Counts:
    acks: int = 0
    second_bits: int = 0
    spurious: int = 0


class Rig:
    """A seam whose odd addresses exit, and a trace around it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.tracer = Tracer(lambda *w: self.records.append(record_of(w)), count().__next__)
        self.trace = GuestTrace(self.tracer, self.slot)
        self.clocks: list[int] = []
        self.at_entry: Any = lambda: None
        self._cross = self.trace.crossing(self._serve)
        self.access = self.trace.access(self)

    def _serve(self) -> None:
        self.clocks.append(self.slot[exits.CLOCK])

    def exit(self, reason: int, value: int = 0) -> None:
        self.slot[exits.REQUEST] = reason
        self.slot[exits.VALUE] = value
        self._cross()
        self.at_entry()

    def rdmsr(self, address: int) -> int:
        if address & 1:
            self.exit(ExitReason.MSR_READ)
        if address > 100:
            raise GeneralProtectionError("rdmsr", address)
        return address * 10

    def rdpmc(self, ecx: int) -> int:
        self.exit(ExitReason.PASSED_RDPMC)
        return ecx

    def wrmsr(self, address: int, value: int) -> None:
        self.slot[exits.VALUE] = value
        self.rdmsr(address)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_an_access_tells_where_it_went(rig: Rig) -> None:
    assert rig.access.rdmsr(4) == 40
    rig.access.wrmsr(5, 6)
    rig.access.rdpmc(7)
    rig.access.rdmsr(2)
    assert [(r.code, r.detail, r.a, r.flags) for r in rig.records] == [
        (0, 4, 40, Path.PAGE),
        (1, 5, 6, Path.EXIT),
        (2, 7, 7, Path.SILICON),
        (0, 2, 20, Path.PAGE),
    ]


def test_an_access_that_faults_is_told_and_faults(rig: Rig) -> None:
    with pytest.raises(GeneralProtectionError):
        rig.access.rdmsr(101)
    with pytest.raises(GeneralProtectionError):
        rig.access.wrmsr(102, 3)
    assert [(r.flags, r.a) for r in rig.records] == [(Path.EXIT | FAULT, 0), (FAULT, 3)]


def test_the_host_is_told_the_guest_clock_at_every_exit(rig: Rig) -> None:
    rig.trace.times = iter([(5, 1)] * 2 + [(9, 2)] * 2).__next__
    rig.access.rdmsr(1)
    rig.access.rdmsr(3)
    assert rig.clocks == [5, 9]
    assert [(r.now, r.cycles) for r in rig.records] == [(5, 1), (9, 2)]


def test_a_handler_within_an_access_leaves_its_path_alone(rig: Rig) -> None:
    counts = Counts()

    def handle() -> None:
        rig.at_entry = lambda: None
        rig.access.rdmsr(4)
        counts.acks += 1
        counts.second_bits += 1

    rig.at_entry = rig.trace.handler(handle, lambda: 0x40_1000, counts)
    rig.access.rdmsr(1)
    kinds = [Kind(r.kind) for r in rig.records]
    assert kinds == [Kind.HANDLER_ENTRY, Kind.ACCESS, Kind.HANDLER_EXIT, Kind.ACCESS]
    entry, inner, leaving, outer = rig.records
    assert entry.a == 0x40_1000
    assert (leaving.detail, leaving.flags) == (2, 0)
    assert (inner.flags & PATH_MASK, outer.flags & PATH_MASK) == (Path.PAGE, Path.EXIT)
    assert outer.b > leaving.b > inner.b > 0


def test_a_spurious_handler_is_marked(rig: Rig) -> None:
    counts = Counts()

    def handle() -> None:
        counts.spurious += 1

    rig.trace.handler(handle, lambda: 0, counts)()
    assert (rig.records[-1].flags, rig.records[-1].detail) == (SPURIOUS, 0)


def test_operations_samples_and_marks(rig: Rig) -> None:
    rig.trace.operation("sched_out", lambda: rig.trace.sample(3, 4, 5))()
    rig.exit(ExitReason.CONTROL, Control.START)
    rig.exit(ExitReason.FLOOR)
    assert [(r.kind, r.code, r.a, r.b) for r in rig.records] == [
        (Kind.SAMPLE, 3, 4, 5),
        (Kind.OPERATION, 2, 0, rig.records[1].b),
        (Kind.MARK, Control.START, 0, 0),
    ]
