"""What a vCPU of the VM is asked to do, as plain data, and what it answers."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pvpmu.host.worker import stats_message
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.cpuid import FIXED_BASE
from pvpmu.shared.errors import ResourceError
from pvpmu.shared.events import BRANCHES, CACHE_MISSES, CYCLES, EVENTS, INSTRUCTIONS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER, NMI_BLOCKED, REQUEST, Control
from pvpmu.shared.units import Ns
from pvpmu.vm import kvm, layout
from pvpmu.vm.cpu import LOOP, ProgrammedEvent, VmCpu
from pvpmu.vm.layout import Command
from pvpmu.vm.table_host import TableHost
from pvpmu.vm.tracepoints import TO_USER, ExitCounters

T_co = TypeVar("T_co", covariant=True)

_BOTH = MODE_USER | MODE_KERNEL
KINDS_COUNTED = (BRANCHES, CACHE_MISSES, INSTRUCTIONS, CYCLES)
"""In the order of the events."""
_MOST_LOOPS = 1000
"""Between two looks at the counters of a program that tells what it retires."""
_LOOPS_OF_A_CLOCK = 20_000
"""Likewise of one that tells nothing: the clock interrupts it anywhere."""
MOST_PMIS = 4000
"""In one chunk, whose log must hold them."""
MOST_STAMPED = 500
"""Likewise where each access is logged."""


class Job(Protocol[T_co]):
    """Something a vCPU's worker can do; what it returns crosses a pipe."""

    def do(self, cpu: VmCpu) -> T_co: ...


def four_events(period: int) -> list[ProgrammedEvent]:
    """Branches, sampled; cache misses, instructions and cycles, which only count.

    As in the 2021 mail two general and two fixed counters are in use, and one overflows at a time.
    """
    return [
        ProgrammedEvent(0, EVENTS[BRANCHES].selector, _BOTH, period),
        ProgrammedEvent(1, EVENTS[CACHE_MISSES].selector, _BOTH, 0),
        ProgrammedEvent(FIXED_BASE, 0, _BOTH, 0),
        ProgrammedEvent(FIXED_BASE + 1, 0, _BOTH, 0),
    ]


def timed_events(period: int) -> list[ProgrammedEvent]:
    """Cycles, sampled, where real perf has nothing but clocks; the same others, which only count.

    ``period`` is in ns then.
    """
    return [
        ProgrammedEvent(0, EVENTS[BRANCHES].selector, _BOTH, 0),
        ProgrammedEvent(1, EVENTS[CACHE_MISSES].selector, _BOTH, 0),
        ProgrammedEvent(FIXED_BASE, 0, _BOTH, 0),
        ProgrammedEvent(FIXED_BASE + 1, 0, _BOTH, period),
    ]


@dataclass(slots=True)
class PmiReport:
    """One chunk of PMIs.

    ``cycles``: TSC cycles of each handler; ``accesses``: or of each access, by (exit reason,
    address). ``exits``: to the loop, by name; ``kernel``: the same by the kernel's tracepoints, or
    why there are none. ``stats``: the vPMU's, None where a table answered. ``counted`` and
    ``retired``: each event's count and the truth. ``ns``: wall time of the chunk; ``tsc_khz``: the
    guest's TSC.
    """

    registered: bool
    pmis: int
    empty: int
    bits: int
    nmis: int
    refusals: int
    samples: int
    counted: list[int]
    retired: list[int]
    exits: dict[str, int]
    kernel: dict[str, int] | str
    stats: VcpuStats | None
    ns: Ns
    tsc_khz: int
    cycles: list[int] = field(default_factory=list)
    accesses: dict[tuple[int, int], list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PmiJob:
    """Handle so many PMIs of branches sampled every ``period``.

    ``table``: by a host that answers from a table; ``stamps``: log each access instead of each
    handler, which slows both.
    """

    pmis: int
    period: int
    table: bool = False
    stamps: bool = False

    def do(self, cpu: VmCpu) -> PmiReport:
        """Reset, prepare, run, stop."""
        box, loop, host = cpu.machine.box, cpu.loop, cpu.host
        events = timed_events if cpu.real_perf else four_events
        loops = _LOOPS_OF_A_CLOCK if cpu.real_perf and not cpu.models else _MOST_LOOPS
        cpu.prepare(events(self.period), loops=loops)
        registered = bool(box[layout.REGISTERED])
        cpu.command(Command.SCHED_IN, value=1)
        cpu.control(Control.START)
        if self.table:
            loop.serve = _table(cpu, self.period, paged=registered).serve
        flags = layout.RUN_STAMPS if self.stamps else layout.RUN_HANDLERS
        if self.table or not cpu.real_perf:
            flags |= layout.RUN_RETIRES
        elif cpu.models:
            flags |= layout.RUN_LOOPS
        before = box[layout.NMIS]
        kernel = _Kernel()
        loop.by_reason.clear()
        start = time.perf_counter_ns()
        try:
            cpu.command(Command.PMIS, flags, self.pmis)
        finally:
            ns = time.perf_counter_ns() - start
            loop.serve = cpu.serve
            told = kernel.end()
        exits = exit_names(loop.by_reason)
        logged = cpu.logged_pairs()
        nmis = box[layout.NMIS] - before
        retired = [box[layout.LOOPS_DONE] * LOOP[kind] for kind in KINDS_COUNTED]
        host_stats = None
        if not self.table:
            cpu.control(Control.STOP)
            assert host.result is not None
            host_stats = stats_message(host.result)
            host.result = None
        else:
            # The host's half has not seen what happened: it starts anew, and so does the guest.
            cpu.control(Control.RESET)
            cpu.command(Command.FORGET)
        cpu.command(Command.FINISH)
        answers = [box[layout.ANSWERS_AT + word] for word in range(8)]
        report = PmiReport(
            registered=registered,
            pmis=box[layout.PMIS],
            empty=box[layout.EMPTY],
            bits=box[layout.BITS],
            nmis=nmis,
            refusals=box[layout.REFUSALS],
            samples=sum(answers[1::2]),
            counted=answers[::2],
            retired=retired,
            exits=exits,
            kernel=told,
            stats=host_stats,
            ns=ns,
            tsc_khz=cpu.machine.tsc_khz,
        )
        if self.stamps:
            for key, cycles in logged:
                report.accesses.setdefault((key >> 32, key & 0xFFFF_FFFF), []).append(cycles)
        else:
            report.cycles = [end - begin for begin, end in logged]
        return report


@dataclass(frozen=True, slots=True)
class FloorJob:
    """What everything else stands on, TSC cycles of each: see the commands of the same names."""

    times: int = 200

    def do(self, cpu: VmCpu) -> dict[str, list[float]]:
        """By floor: an empty exit, one by RDMSR, the gate, a page word, a pair of stamps."""
        floors: dict[str, list[float]] = {}
        for name, command in (
            ("stamps", Command.STAMPS),
            ("gate", Command.GATES),
            ("empty_exit", Command.EMPTY),
        ):
            cpu.command(command, value=self.times)
            floors[name] = [float(cycles) for cycles in cpu.spans()]
        cpu.loop.serve = _table(cpu, 1, paged=False).serve
        try:
            cpu.command(Command.MSRS, value=self.times)
        finally:
            cpu.loop.serve = cpu.serve
        floors["msr_exit"] = [float(cycles) for cycles in cpu.spans()]
        cpu.command(Command.WORDS, value=self.times)
        floors["page_word"] = [cycles / layout.WORDS_BATCH for cycles in cpu.spans()]
        return floors


@dataclass(frozen=True, slots=True)
class OperationsJob:
    """The driver's other operations: exits of each, and cycles."""

    times: int
    period: int = 1 << 20

    def do(self, cpu: VmCpu) -> dict[str, tuple[float, list[int]]]:
        """By operation: exits each, cycles of each."""
        cpu.prepare(four_events(self.period), loops=_MOST_LOOPS)
        cpu.command(Command.SCHED_IN, value=1)
        found: dict[str, tuple[float, list[int]]] = {}
        cpu.loop.by_reason.clear()
        cpu.command(Command.TICK, value=self.times)
        found["tick"] = _msr_exits(cpu.loop.by_reason) / self.times, cpu.spans()
        counts = {"sched_out": 0, "sched_in": 0}
        spans: dict[str, list[int]] = {name: [] for name in counts}
        for _ in range(self.times):
            for name in counts:
                cpu.loop.by_reason.clear()
                cpu.command(Command[name.upper()], value=1)
                counts[name] += _msr_exits(cpu.loop.by_reason)
                spans[name] += cpu.spans()
        for name, count in counts.items():
            found[name] = count / self.times, spans[name]
        cpu.command(Command.FINISH)
        return found


@dataclass(frozen=True, slots=True)
class BlockedJob:
    """At each exit of a few PMIs: whether NMIs are blocked, as the guest says, and as KVM does.

    A look at KVM's state is a system call at each exit, so that nothing is timed here.
    """

    pmis: int = 5
    period: int = 300

    def do(self, cpu: VmCpu) -> list[tuple[bool, bool]]:
        """Pairs in the order of the exits."""
        cpu.prepare(four_events(self.period), loops=_MOST_LOOPS)
        cpu.command(Command.SCHED_IN, value=1)
        found: list[tuple[bool, bool]] = []
        serve = cpu.serve

        def look() -> None:
            told = bool(cpu.slot[REQUEST] & NMI_BLOCKED)
            found.append((told, bool(cpu.machine.vcpu.events.nmi_masked)))
            serve()

        cpu.loop.serve = look
        try:
            cpu.command(Command.PMIS, layout.RUN_RETIRES, self.pmis)
        finally:
            cpu.loop.serve = serve
        cpu.command(Command.FINISH)
        return found


@dataclass(frozen=True, slots=True)
class TscJob:
    """The guest's TSC, kHz."""

    def do(self, cpu: VmCpu) -> int:
        """Ask KVM."""
        return cpu.machine.tsc_khz


def _table(cpu: VmCpu, period: int, *, paged: bool) -> TableHost:
    return TableHost(
        cpu.slot,
        cpu.memory,
        cpu.host.cpuid,
        vcpu=cpu.number,
        kind=BRANCHES,
        period=period,
        paged=paged,
        freezes=not cpu.reloads,
    )


class _Kernel:
    """The kernel's counts from here to :meth:`end`, or why there are none."""

    def __init__(self) -> None:
        self._why = ""
        try:
            self._counters: ExitCounters | None = ExitCounters()
        except ResourceError as error:
            self._counters, self._why = None, str(error)

    def end(self) -> dict[str, int] | str:
        """Counts by name; the text of what stood in the way otherwise."""
        if self._counters is None:
            return self._why
        try:
            return self._counters.read()
        finally:
            self._counters.close()


def exit_names(by_reason: Counter[tuple[int, int]]) -> dict[str, int]:
    """The loop's counts under the names of :data:`TO_USER`, all ports together."""
    names = {reason: name for name, reason in TO_USER.items()}
    found = dict.fromkeys(TO_USER, 0)
    for (reason, _), count in by_reason.items():
        found[names[reason]] += count
    return found


def _msr_exits(by_reason: Counter[tuple[int, int]]) -> int:
    return by_reason[kvm.EXIT_RDMSR, 0] + by_reason[kvm.EXIT_WRMSR, 0]
