"""Jobs that measure: bare floors, page accesses and exits in interleaved batches; exits per second.

A page access costs about as much as reading the clock, so single ones cannot be timed: batches
are, kinds take turns within a round, and the cost of an empty loop is subtracted from each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import repeat

from pvpmu.guest.cpu import Vcpu
from pvpmu.guest.machine import Machine, Progress
from pvpmu.guest.pvpage import GuestPage
from pvpmu.guest.scenario import Races
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import EVTSEL_EN, EVTSEL_INT, FIXED_EN, LVT_NMI, PmuCpuid
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.registers import BY_ADDRESS, Role
from pvpmu.shared.units import Ns

Probe = Callable[[int], object]
"""Does its access so many times."""

ROUND_TRIP, WORD_READ, WORD_WRITE = "round_trip", "word_read", "word_write"
_EMPTY = "empty"
_SCRATCH = page.PAGE_SIZE // 8 - 1
"""The page's last word: in the tail, which stays the guest's."""

_WRITE_VALUES = {
    Role.PERFCTR: 0xFFFF_0000,
    Role.PMC: 0xFFFF_0000,
    Role.FIXED_CTR: 0xFFFF_0000,
    Role.EVTSEL: EVTSEL_EN | EVTSEL_INT | 0xC4,
    Role.FIXED_CTR_CTRL: FIXED_EN,
    Role.GLOBAL_CTRL: 0,
    Role.LVTPC: LVT_NMI,
}


@dataclass(slots=True)
class LatencyReport:
    """Mean ns per access of each batch, loop cost subtracted.

    ``floors``: by ROUND_TRIP (absent inline), WORD_READ, WORD_WRITE. ``page_read`` and
    ``page_write``: by register name, FROZEN; ``plain``: those that are one load and one store.
    ``exit``: the trapped accesses, without a page.
    """

    floors: dict[str, list[float]] = field(default_factory=dict)
    page_read: dict[str, list[float]] = field(default_factory=dict)
    page_write: dict[str, list[float]] = field(default_factory=dict)
    exit: dict[str, list[float]] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class LatencyJob:
    """Measure floors, page accesses (where the host offers the page) and exits.

    ``clock`` returns ns. ``rounds``: batches of each kind; ``batch`` and ``exit_batch``: accesses
    in a batch.
    """

    clock: Callable[[], Ns]
    rounds: int = 40
    batch: int = 250
    exit_batch: int = 40

    def do(self, machine: Machine, progress: Progress) -> LatencyReport:
        """Return a :class:`LatencyReport`."""
        report = LatencyReport()
        vcpu = machine.vcpu(Races())
        vcpu.exit(ExitReason.CONTROL, value=Control.RESET)
        cpuid = vcpu.pmu_cpuid()
        words = machine.memory
        scratch = machine.page_address // 8 + _SCRATCH
        for number in range(self.rounds):
            self._measure(
                self.batch,
                [
                    (report.floors, WORD_READ, _word_read(words, scratch)),
                    (report.floors, WORD_WRITE, _word_write(words, scratch)),
                ],
            )
            self._round_trip(machine, report)
            self._measure(
                self.exit_batch,
                [
                    (report.exit, name, _read(vcpu, address))
                    for name, address in _readable(BY_ADDRESS, cpuid)
                ],
            )
            self._page_accesses(machine, vcpu, cpuid, report)
            progress((number + 1) / self.rounds)
        vcpu.exit(ExitReason.CONTROL, value=Control.RESET)
        return report

    def _page_accesses(
        self, machine: Machine, vcpu: Vcpu, cpuid: PmuCpuid, report: LatencyReport
    ) -> None:
        if not vcpu.register_page(machine.memory, machine.page_address):
            return
        guest_page = vcpu.seam.page
        assert guest_page is not None
        vcpu.seam.wrmsr(msr.GLOBAL_CTRL, 0)
        frozen = guest_page.frozen
        reads = _readable((*frozen.read_word, *frozen.read), cpuid)
        writes = [
            (BY_ADDRESS[address].name, address)
            for address in (*frozen.write_word, *frozen.write, msr.OVF_CTRL)
        ]
        writes = [(name, address) for name, address in writes if not BY_ADDRESS[address].index]
        report.plain = {name for name, address in writes if address in frozen.write_word}
        self._measure(
            self.batch,
            [(report.page_read, name, _read(vcpu, address)) for name, address in reads]
            + [(report.page_read, "RDPMC", _rdpmc(vcpu))]
            + [
                (report.page_write, name, _write(vcpu, guest_page, address))
                for name, address in writes
            ],
        )
        # An acknowledgement needs a status bit to clear, which a bare store sets again each time.
        restore = report.floors[WORD_WRITE][-1]
        acks = report.page_write[BY_ADDRESS[msr.OVF_CTRL].name]
        acks[-1] -= restore
        vcpu.unregister_page()

    def _measure(self, batch: int, probes: list[tuple[dict[str, list[float]], str, Probe]]) -> None:
        clock = self.clock
        for results, name, probe in probes:
            start = clock()
            _empty(batch)
            middle = clock()
            probe(batch)
            spent = clock() - middle
            results.setdefault(name, []).append((spent - (middle - start)) / batch)

    def _round_trip(self, machine: Machine, report: LatencyReport) -> None:
        trips = machine.round_trips(self.exit_batch)
        if trips is not None:
            self._measure(self.exit_batch, [(report.floors, ROUND_TRIP, trips)])


@dataclass(frozen=True, slots=True)
class ThroughputReport:
    """So many exits in so many ns."""

    exits: int
    ns: Ns


@dataclass(frozen=True, slots=True)
class ThroughputJob:
    """Exit (a trapped read of GLOBAL_STATUS) as often as possible for ``ns`` of ``clock``."""

    clock: Callable[[], Ns]
    ns: Ns = 400_000_000
    batch: int = 100

    def do(self, machine: Machine, progress: Progress) -> ThroughputReport:
        """Return a :class:`ThroughputReport`."""
        vcpu = machine.vcpu(Races())
        vcpu.exit(ExitReason.CONTROL, value=Control.RESET)
        probe = _read(vcpu, msr.GLOBAL_STATUS)
        done, start = 0, self.clock()
        while (spent := self.clock() - start) < self.ns:
            probe(self.batch)
            done += self.batch
        progress(1.0)
        return ThroughputReport(done, spent)


def _readable(addresses: Iterable[int], cpuid: PmuCpuid) -> list[tuple[str, int]]:
    """Name and address of the first register of each kind that this guest may read."""
    registers = [BY_ADDRESS[address] for address in addresses]
    return [
        (register.name, register.address)
        for register in registers
        if register.pmu and not register.index and register.exists(cpuid)
    ]


def _empty(batch: int) -> None:
    for _ in repeat(None, batch):
        pass


def _word_read(words: memoryview[int], index: int) -> Probe:
    def probe(batch: int) -> None:
        for _ in repeat(None, batch):
            words[index]

    return probe


def _word_write(words: memoryview[int], index: int) -> Probe:
    def probe(batch: int) -> None:
        for _ in repeat(None, batch):
            words[index] = 0xFFFF_0000

    return probe


def _read(vcpu: Vcpu, address: int) -> Probe:
    rdmsr = vcpu.seam.rdmsr

    def probe(batch: int) -> None:
        for _ in repeat(None, batch):
            rdmsr(address)

    return probe


def _rdpmc(vcpu: Vcpu) -> Probe:
    rdpmc = vcpu.seam.rdpmc

    def probe(batch: int) -> None:
        for _ in repeat(None, batch):
            rdpmc(0)

    return probe


def _write(vcpu: Vcpu, guest_page: GuestPage, address: int) -> Probe:
    wrmsr = vcpu.seam.wrmsr
    if address == msr.OVF_CTRL:
        words, at = guest_page.words, page.ACKED
        acked = words[at]
        raised = acked ^ 1

        def acknowledge(batch: int) -> None:
            for _ in repeat(None, batch):
                words[at] = raised
                wrmsr(address, 1)
            words[at] = acked

        return acknowledge
    value = _WRITE_VALUES[BY_ADDRESS[address].role]

    def probe(batch: int) -> None:
        for _ in repeat(None, batch):
            wrmsr(address, value)

    return probe
