"""Feed a trace's PMU accesses through host and guest, once for each design, and count."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pvpmu.bench.vm import VmConfig, open_vm
from pvpmu.guest.machine import Machine, Progress
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design, GuestDesign
from pvpmu.shared.errors import UsageError
from pvpmu.shared.exits import Control
from pvpmu.shared.units import Ns
from pvpmu.trace.events import EventReader, Thread
from pvpmu.trace.player import MEASURE, Played, Player, Step
from pvpmu.trace.spool import RECORD, Kept, Spool, SpooledThread, read_spool
from pvpmu.trace.tracker import Sink

_PROGRESS_RECORDS = 20_000

OnReplay = Callable[[float, str], None]
"""Told the share of the whole that is done, 0 to 1, and what is being done."""


@dataclass(slots=True)
class ReplayReport:
    """What one vCPU's replay gave; ``run_ns``: wall time of it."""

    played: Played
    run_ns: Ns


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """A job for a guest's vCPU: play a spooled thread.

    ``clock`` returns wall ns; ``guest``: the guest's side of a design.
    """

    thread: SpooledThread
    clock: Callable[[], Ns]
    guest: GuestDesign

    def do(self, machine: Machine, progress: Progress) -> ReplayReport:
        """Return a :class:`ReplayReport`."""
        player = Player(machine, self.guest)
        player.play(self.thread.preamble)
        # What was played so far only made the vCPU what it was when the trace began.
        player.played = Played(page_registered=player.played.page_registered)
        start = self.clock()
        player.play(
            itertools.chain(
                [Step(MEASURE, 0, Control.START)],
                self._records(progress),
                [Step(MEASURE, 0, Control.STOP)],
            )
        )
        return ReplayReport(player.played, self.clock() - start)

    def _records(self, progress: Progress) -> Iterator[tuple[int, int, int]]:
        total = max(self.thread.path.stat().st_size // RECORD.size, 1)
        for number, record in enumerate(read_spool(self.thread.path)):
            if not number % _PROGRESS_RECORDS:
                progress(number / total)
            yield record


class Spools:
    """One spool for each thread that accesses the PMU, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spools: dict[int, Spool] = {}
        self._kept = Kept()

    def sink_of(self, thread: Thread) -> Sink:
        """The spool of a thread."""
        spool = Spool(self._folder / f"{thread.tid}.spool", self._kept)
        self._spools[thread.tid] = spool
        return spool

    def threads(self, events: EventReader, cpuid: PmuCpuid) -> list[SpooledThread]:
        """Those with operations, by vCPU number; raises :class:`UsageError` if there is none."""
        found = []
        for tid, spool in self._spools.items():
            spool.close()
            if spool.operations:
                found.append(
                    SpooledThread(
                        tid,
                        events.threads[tid].vcpu,
                        spool.path,
                        spool.accesses,
                        tuple(spool.preamble(cpuid)),
                    )
                )
        if not found:
            raise UsageError(
                "no operation of a PMU driver in the trace, so that there is nothing to replay"
            )
        return sorted(found, key=lambda t: (t.vcpu is None, t.vcpu, t.tid))


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """What to replay and on what; ``transport`` and ``pin`` as in the bench."""

    threads: Sequence[SpooledThread]
    designs: Sequence[Design]
    transport: str
    pin: str
    cpuid: PmuCpuid
    clock: Callable[[], Ns]


@dataclass(slots=True)
class Replayed:
    """One design. ``stats``: the host's counts; both by vCPU as in the config."""

    design: Design
    reports: list[ReplayReport] = field(default_factory=list)
    stats: list[VcpuStats] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Sum of one of :class:`Played`'s numbers."""
        return sum(getattr(report.played, name) for report in self.reports)

    @property
    def refused(self) -> Counter[tuple[int, int]]:
        """Accesses that ended in #GP."""
        return sum((report.played.refused for report in self.reports), Counter())

    @property
    def exits(self) -> Counter[int]:
        """Exits by VMX reason number."""
        return sum((Counter(stats.exits) for stats in self.stats), Counter())


def replay(config: ReplayConfig, on_replay: OnReplay | None = None) -> list[Replayed]:
    """Replay every thread on a vCPU of its own, all at once; the designs one after another."""
    found = []
    for number, design in enumerate(config.designs):
        vm_config = VmConfig(
            design=design, cpuid=config.cpuid, vcpus=len(config.threads), pin=config.pin
        )
        jobs = [ReplayJob(thread, config.clock, design.guest) for thread in config.threads]

        def on_progress(share: float, number: int = number, name: str = design.name) -> None:
            if on_replay is not None:
                on_replay((number + share) / len(config.designs), f"replay on {name}")

        with open_vm(vm_config, config.transport) as vm:
            reports = vm.run(jobs, on_progress)
            found.append(Replayed(design, reports, vm.stats()))
    return found
