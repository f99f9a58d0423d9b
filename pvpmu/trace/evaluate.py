"""What an operation costs under a design: played on the model of that design, and counted.

Nothing here knows what a design does with an access. Each different operation is played on an
inline machine: the counters that were enabled before it are started, the statistics begin, its
accesses are made (a handler's after the PMI that brings it), the statistics end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pvpmu.bench.vm import InlineVm, VmConfig
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import (
    EVTSEL_EN,
    FIXED_BASE,
    FIXED_EN,
    FIXED_OS,
    FIXED_PMI,
    FIXED_USR,
    LVT_MASKED,
    LVT_NMI,
    MAX_FIXED,
    MAX_GP,
    PmuCpuid,
)
from pvpmu.shared.design import Design
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.registers import BY_ADDRESS, RDPMC_FIXED, Role, address_of
from pvpmu.shared.tally import PLACES, TALLY_WORDS
from pvpmu.trace.counts import Access
from pvpmu.trace.names import ANY_COUNTER, RDPMC, READ, WRITE
from pvpmu.trace.operations import Context, Operation, fixed_enabled
from pvpmu.trace.player import END, LATE, MEASURE, NATURAL, PMI, PlayJob, Step
from pvpmu.trace.tokens import COUNTER_ROLES, Fields, counter_of, fields_of, unpack_counters

_START = -1_000_000
"""What counters start from: far from an overflow."""
_FIXED_ON = FIXED_PMI | FIXED_USR | FIXED_OS
_OP_OF = {
    int(ExitReason.MSR_READ): READ,
    int(ExitReason.MSR_WRITE): WRITE,
    int(ExitReason.RDPMC): RDPMC,
}


@dataclass(slots=True)
class Outcome:
    """One operation under one design.

    ``exits``: of PMU accesses, by (op, address; ANY_COUNTER for RDPMC). ``reasons``: all exits by
    VMX reason number, those that bring the PMI among them. ``exits_by`` and ``tallies``: by place,
    see :mod:`pvpmu.shared.tally`. ``faithful``: the NMI came, nothing was refused, and every
    status read gave what the trace has.
    """

    exits: Counter[Access]
    reasons: Counter[int]
    exits_by: list[int] = field(default_factory=lambda: [0] * len(PLACES))
    tallies: list[list[int]] = field(default_factory=lambda: [[0] * TALLY_WORDS for _ in PLACES])
    faithful: bool = True


class Evaluator:
    """Plays operations under one design, each different one once."""

    def __init__(self, design: Design, cpuid: PmuCpuid) -> None:
        self._vm = InlineVm(VmConfig(design=design, cpuid=cpuid))
        self._guest = design.guest
        self._cpuid = cpuid
        self._known: dict[Operation, Outcome] = {}

    def outcome(self, operation: Operation) -> Outcome:
        """What it costs."""
        found = self._known.get(operation)
        if found is None:
            found = self._known[operation] = self._play(operation)
        return found

    def _play(self, operation: Operation) -> Outcome:
        steps = tuple(steps_of(operation, self._cpuid))
        (played,) = self._vm.run([PlayJob(steps, self._guest)])
        (stats,) = self._vm.stats()
        exits: Counter[Access] = Counter()
        for reason, address, count in stats.accesses:
            op = _OP_OF[reason]
            exits[op, ANY_COUNTER if op == RDPMC else address] += count
        faithful = not (played.refused or played.without_nmi or played.unscripted)
        return Outcome(
            exits,
            Counter(stats.exits),
            list(stats.exits_by),
            [list(tally) for tally in stats.tallies],
            faithful and played.status_equal == played.status_reads,
        )


def steps_of(operation: Operation, cpuid: PmuCpuid) -> Iterator[Step]:
    """The operation as steps, with what must come before it."""
    before = assumed_before(operation)
    yield from prepare(before, before.counters | started_by(operation), cpuid)
    body = list(_accesses(operation, before, cpuid))
    start, stop = Step(MEASURE, 0, Control.START), Step(MEASURE, 0, Control.STOP)
    status = first_status(operation)
    if operation.kind == "pmi_disabled":
        off = Step(WRITE, msr.GLOBAL_CTRL, 0)
        if status:
            # It overflowed just before the PMU was disabled: that exit finds it.
            yield from (Step(LATE, 0, status), off, start)
        else:
            yield from (off, Step(PMI, 0, 0), start)
        yield from (*body, Step(END), stop)
    elif operation.kind in ("pmi", "pmi_spurious"):
        yield from (start, Step(PMI, 0, status), *body, Step(END), stop)
    else:
        yield from (start, *body, stop)


def prepare(before: Context, all_of_them: int, cpuid: PmuCpuid) -> Iterator[Step]:
    """Steps after which the counters of ``before`` count, and ``all_of_them`` have counted once."""
    everything = Context(
        all_of_them & (1 << MAX_GP) - 1, _nibbles(all_of_them >> FIXED_BASE, before.fixed_ctrl)
    )
    yield Step(WRITE, msr.GLOBAL_CTRL, 0)
    for index in _bits(everything.counters):
        yield Step(WRITE, _counter_address(index), _start_value(index, cpuid))
    yield from _selectors(everything.selectors, on=True)
    yield Step(WRITE, msr.FIXED_CTR_CTRL, everything.fixed_ctrl)
    yield Step(WRITE, msr.LVTPC, LVT_NMI)
    yield Step(WRITE, msr.GLOBAL_CTRL, cpuid.counters)
    if everything.counters != before.counters:
        yield Step(WRITE, msr.GLOBAL_CTRL, 0)
        yield from _selectors(everything.selectors & ~before.selectors, on=False)
        yield Step(WRITE, msr.FIXED_CTR_CTRL, _nibbles(before.counters >> FIXED_BASE, 0))
        yield Step(WRITE, msr.GLOBAL_CTRL, cpuid.counters)
    # A guest that defers its commits makes them at the next exit.
    yield Step(NATURAL)


def _accesses(operation: Operation, before: Context, cpuid: PmuCpuid) -> Iterator[Step]:
    """The operation's accesses with values that fit."""
    indices = iter(rdpmc_counters(operation, before))
    for op, address, detail in map(fields_of, operation.tokens):
        if op == RDPMC:
            yield Step(RDPMC, ecx_of(next(indices)))
            continue
        register = BY_ADDRESS[address]
        value = 0
        if op == READ:
            value = unpack_counters(detail) if register.role is Role.GLOBAL_STATUS else 0
        elif register.role is Role.EVTSEL:
            value = EVTSEL_EN if detail else 0
        elif register.role is Role.GLOBAL_CTRL:
            value = cpuid.counters if detail else 0
        elif register.role is Role.OVF_CTRL:
            value = unpack_counters(detail)
        elif register.role is Role.FIXED_CTR_CTRL:
            value = detail
        elif register.role is Role.LVTPC:
            value = LVT_NMI | (LVT_MASKED if detail else 0)
        elif register.role in COUNTER_ROLES:
            index = counter_of(register)
            assert index is not None
            # Another value than before: a write that changes nothing might be left out.
            value = _start_value(index, cpuid) + 1
        yield Step(op, address, value)


def rdpmc_counters(operation: Operation, before: Context) -> list[int]:
    """The counter, by global index, that each RDPMC of an operation reads; no trace says it.

    It is the one that is reloaded next, or the one that was stopped just before; otherwise the
    first enabled one that has not been read, fixed counters first.
    """
    fields = [fields_of(token) for token in operation.tokens]
    left = [*_bits(before.counters >> FIXED_BASE << FIXED_BASE), *_bits(before.selectors)]
    fixed_ctrl = before.fixed_ctrl
    found: list[int] = []
    stopped: int | None = None
    for at, (op, address, detail) in enumerate(fields):
        if op == RDPMC:
            index = _reloaded_next(fields[at + 1 :])
            if index is None:
                index = stopped
            if index is None:
                index = left[0] if left else 0
            found.append(index)
            if index in left:
                left.remove(index)
            stopped = None
            continue
        register = BY_ADDRESS[address]
        stopped = None
        if op == WRITE and register.role is Role.EVTSEL and not detail:
            stopped = register.index
        elif register.role is Role.FIXED_CTR_CTRL:
            gone = fixed_enabled(fixed_ctrl) & ~fixed_enabled(detail)
            if op == WRITE and gone:
                stopped = FIXED_BASE + gone.bit_length() - 1
            fixed_ctrl = detail
    return found


def ecx_of(index: int) -> int:
    """RDPMC's operand for a counter by global index."""
    return RDPMC_FIXED | index - FIXED_BASE if index >= FIXED_BASE else index


def _reloaded_next(fields: list[Fields]) -> int | None:
    if not fields:
        return None
    op, address, _ = fields[0]
    if op != WRITE or BY_ADDRESS[address].role not in COUNTER_ROLES:
        return None
    return counter_of(BY_ADDRESS[address])


def first_status(operation: Operation) -> int:
    """The status bits that a handler found first, by global index."""
    for op, address, detail in map(fields_of, operation.tokens):
        if op == READ and address == msr.GLOBAL_STATUS:
            return unpack_counters(detail)
    return 0


def assumed_before(operation: Operation) -> Context:
    """What was enabled before, with what the operation itself shows of it."""
    selectors, fixed_ctrl = operation.before
    seen = 0
    fixed_seen = False
    for op, address, detail in map(fields_of, operation.tokens):
        if op == RDPMC:
            continue
        register = BY_ADDRESS[address]
        if op == WRITE and register.role is Role.EVTSEL and not seen >> register.index & 1:
            # What is stopped first was on.
            selectors = selectors & ~(1 << register.index) | (not detail) << register.index
            seen |= 1 << register.index
        elif register.role is Role.FIXED_CTR_CTRL and not fixed_seen:
            fixed_seen = True
            fixed_ctrl = detail if op == READ else fixed_ctrl
    status = first_status(operation)
    selectors |= status & (1 << MAX_GP) - 1
    return Context(
        selectors, _nibbles(fixed_enabled(fixed_ctrl) | status >> FIXED_BASE, fixed_ctrl)
    )


def started_by(operation: Operation) -> int:
    """Bitmap by global index of the counters that it starts."""
    started = 0
    for op, address, detail in map(fields_of, operation.tokens):
        if op != WRITE:
            continue
        register = BY_ADDRESS[address]
        if register.role is Role.EVTSEL and detail:
            started |= 1 << register.index
        elif register.role is Role.FIXED_CTR_CTRL:
            started |= fixed_enabled(detail) << FIXED_BASE
    return started


def _nibbles(enabled: int, known: int) -> int:
    """FIXED_CTR_CTRL with these counters enabled, each as it was or as Linux enables one."""
    value = 0
    for j in range(MAX_FIXED):
        if enabled >> j & 1:
            nibble = known >> 4 * j & 0xF
            value |= (nibble if nibble & FIXED_EN else _FIXED_ON) << 4 * j
    return value


def _selectors(bits: int, *, on: bool) -> Iterator[Step]:
    for index in _bits(bits):
        yield Step(WRITE, address_of(Role.EVTSEL, index), EVTSEL_EN if on else 0)


def _counter_address(index: int) -> int:
    if index >= FIXED_BASE:
        return address_of(Role.FIXED_CTR, index - FIXED_BASE)
    return address_of(Role.PMC, index)


def _start_value(index: int, cpuid: PmuCpuid) -> int:
    return _START & (cpuid.fixed_mask if index >= FIXED_BASE else cpuid.gp_mask)


def _bits(bitmap: int) -> Iterator[int]:
    while bitmap:
        yield (bitmap & -bitmap).bit_length() - 1
        bitmap &= bitmap - 1
