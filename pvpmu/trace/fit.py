"""How often a driver did each thing, from the counts of its MSR accesses alone.

Each operation of the driver accesses each register a known number of times (measured on the driver
here), so that a table of counts is a system of linear equations. With g events on GP counters and
f on fixed ones all of them active all the time, there are more rows than unknowns, and what the
rows do not agree on is the residual.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import FIXED_BASE
from pvpmu.shared.design import DRIVERS, DriverName
from pvpmu.shared.registers import BY_ADDRESS, Role, address_of
from pvpmu.trace.counts import Access, Counts
from pvpmu.trace.driver import MOST_GP, accesses_of, driver_operations
from pvpmu.trace.names import ANY_COUNTER, RDPMC, READ, WRITE
from pvpmu.trace.operations import Context, Operation
from pvpmu.trace.tokens import COUNTER_ROLES, Token, fields_of, token_of, unpack_counters

_ACCEPTED = 0.01
"""Largest sum of residuals, as a share of the rows' sum, at which the driver explains a table."""
_NEIGHBOURS = 3
_ONE_AT_MOST = 1
"""Sched-ins less sched-outs of one traced task: it was on the CPU at the end, or it was not."""

_STATUS = (READ, msr.GLOBAL_STATUS)
_LVTPC = (WRITE, msr.LVTPC)
_OVF_CTRL = (WRITE, msr.OVF_CTRL)
_RDPMC = (RDPMC, ANY_COUNTER)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: what the operations come to, and what was counted."""

    access: Access
    model: int
    counted: int

    @property
    def residual(self) -> int:
        """What the model has too many."""
        return self.model - self.counted


@dataclass(slots=True)
class Fit:
    """A fit, or why there is none (``reason``; then ``operations`` is empty).

    ``driver``: the generation that fits best. ``unknowns``: handlers, acks, spurious, sched_in,
    sched_out, ticks, second_bits. ``overflows``: by counter (global index). ``operations``: how
    often each of the driver's came. ``implied``: RDPMC exits that the model implies where the
    input counts no exits by reason, else None.
    """

    reason: str = ""
    driver: str = ""
    unknowns: dict[str, int] = field(default_factory=dict)
    overflows: dict[int, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    operations: list[tuple[Operation, int]] = field(default_factory=list)
    implied: int | None = None

    @property
    def accepted(self) -> bool:
        """Whether the driver explains the table."""
        return not self.reason


def fit(counts: Counts) -> Fit:
    """Explain the PMU accesses of one input by the driver's operations."""
    # Exits by reason with no RDPMC among them say that there was none.
    table = _Table.of(counts.pmu, counts.rdpmc if counts.exits else None)
    if table.missing:
        return Fit(reason=f"the table has no {', '.join(table.missing)}")
    if len(table.gp) > MOST_GP:
        return Fit(
            reason=f"the table has {len(table.gp)} GP counters, the fit takes up to {MOST_GP}"
        )
    best: Fit | None = None
    for name in DRIVERS:
        driver = _Driver(table, name)
        for sched_out, ticks in _candidates(table, driver):
            found = _solve(table, driver, sched_out, ticks)
            if found is not None and (best is None or _badness(found) < _badness(best)):
                best = found
    if best is None:
        none = ", which counts exits and no RDPMC" if table.rdpmc == 0 else ""
        return Fit(reason=f"no number of operations is consistent with the table{none}")
    residual, total = _badness(best), sum(row.counted for row in best.rows)
    if residual > _ACCEPTED * total:
        best.reason = (
            f"the driver's operations miss the table by {residual:,} of {total:,} accesses "
            f"(more than {_ACCEPTED:.0%})"
        )
        best.operations = []
    return best


@dataclass(frozen=True, slots=True)
class _Table:
    """The rows.

    ``gp``: the GP counters in use; ``legacy``: those written by their legacy names; ``fixed``: the
    fixed counters in use; ``rdpmc``: RDPMC exits, None if the input does not count exits.
    """

    pmu: Counter[Access]
    gp: tuple[int, ...]
    legacy: frozenset[int]
    fixed: tuple[int, ...]
    rdpmc: int | None

    @classmethod
    def of(cls, pmu: Counter[Access], rdpmc: int | None) -> _Table:
        """Take the rows of one input."""
        used: dict[Role, set[int]] = {role: set() for role in COUNTER_ROLES}
        for op, address in pmu:
            register = None if op == RDPMC else BY_ADDRESS[address]
            if register is not None and op == WRITE and register.role in used:
                used[register.role].add(register.index)
        legacy = used[Role.PERFCTR] - used[Role.PMC]
        rows: Counter[Access] = Counter()
        for (op, address), count in pmu.items():
            register = None if op == RDPMC else BY_ADDRESS[address]
            both = register is not None and register.role is Role.PERFCTR and op == WRITE
            if register is not None and both and register.index not in legacy:
                rows[op, address_of(Role.PMC, register.index)] += count
            else:
                rows[op, address] += count
        return cls(
            rows,
            tuple(sorted(used[Role.PERFCTR] | used[Role.PMC])),
            frozenset(legacy),
            tuple(sorted(used[Role.FIXED_CTR])),
            rdpmc,
        )

    @property
    def missing(self) -> list[str]:
        """What the fit needs and the table lacks."""
        needed = {
            "writes of GLOBAL_OVF_CTRL": self.pmu[_OVF_CTRL],
            "reads of GLOBAL_STATUS": self.pmu[_STATUS],
            "writes of LVTPC": self.pmu[_LVTPC],
            "writes of counters": len(self.counters),
        }
        return [what for what, there in needed.items() if not there]

    @property
    def counters(self) -> list[int]:
        """The counters in use by global index."""
        return [*self.gp, *(FIXED_BASE + j for j in self.fixed)]

    def writes_of(self, counter: int) -> int:
        """Writes of one counter, given by global index."""
        if counter >= FIXED_BASE:
            return self.pmu[WRITE, address_of(Role.FIXED_CTR, counter - FIXED_BASE)]
        role = Role.PERFCTR if counter in self.legacy else Role.PMC
        return self.pmu[WRITE, address_of(role, counter)]

    @property
    def handlers(self) -> int:
        """Handlers: each reads status once more than it acknowledges."""
        return self.pmu[_STATUS] - self.pmu[_OVF_CTRL]

    @property
    def sched_in(self) -> int:
        """Sched-ins: LVTPC is written once by each handler and each of them."""
        return self.pmu[_LVTPC] - self.handlers

    # The driver's i-th GP counter is the table's gp[i] -----------------------------------------

    def operation(self, operation: Operation) -> Operation:
        """One of the driver's operations, on the counters of this table."""
        return Operation(
            operation.kind,
            tuple(map(self._token, operation.tokens)),
            self._context(operation.before),
            self._context(operation.after),
        )

    def _token(self, token: Token) -> Token:
        op, address, detail = fields_of(token)
        if op == RDPMC:
            return token
        register = BY_ADDRESS[address]
        role = register.role
        if role in (Role.GLOBAL_STATUS, Role.OVF_CTRL):
            bits = unpack_counters(detail)
            fixed = bits >> FIXED_BASE << FIXED_BASE
            return token_of(op, address, self._bitmap(bits) | fixed)
        if role in (Role.EVTSEL, Role.PMC):
            index = self.gp[register.index]
            if role is Role.PMC and index in self.legacy:
                role = Role.PERFCTR
            return token - address + address_of(role, index)
        return token

    def _bitmap(self, bits: int) -> int:
        return sum(1 << index for i, index in enumerate(self.gp) if bits >> i & 1)

    def _context(self, context: Context) -> Context:
        return Context(self._bitmap(context.selectors), context.fixed_ctrl)


class _Driver:
    """The driver's operations on a table's counters, and what each accesses."""

    def __init__(self, table: _Table, name: DriverName) -> None:
        self.name = name
        found = driver_operations(len(table.gp), table.fixed, name)
        self._all = [table.operation(operation) for operation in found.operations]
        # The longest: a tick in which everything had counted, a sched-in of everything.
        self.tick, self.sched_in, self.sched_out, self.spurious = (
            max(self._of(kind), key=lambda operation: len(operation.tokens))
            for kind in ("tick", "sched_in", "sched_out", "pmi_spurious")
        )
        self.pmi_of = {_status(operation): operation for operation in self._of("pmi")}

    def _of(self, kind: str) -> list[Operation]:
        return [operation for operation in self._all if operation.kind == kind]


def _candidates(table: _Table, driver: _Driver) -> Iterator[tuple[int, int]]:
    """Pairs of sched-outs and ticks that may be: near what single rows say.

    With RDPMC counted, counter writes less RDPMCs are events x (sched-ins - sched-outs). Without,
    sched-ins and sched-outs of one task differ by one at most.
    """
    sched_in = table.sched_in
    outs: Iterable[int]
    if table.rdpmc is None:
        outs = range(sched_in - _ONE_AT_MOST, sched_in + 1)
    else:
        writes = sum(map(table.writes_of, table.counters))
        middle = sched_in - round((writes - table.rdpmc) / len(table.counters))
        outs = range(middle - _NEIGHBOURS, middle + _NEIGHBOURS + 1)
    tick, into, out_of = map(accesses_of, (driver.tick, driver.sched_in, driver.sched_out))
    # A driver that keeps FIXED_CTR_CTRL in memory may write none in a tick.
    row = next(
        (
            (op, address)
            for op, address in tick
            if op == WRITE and BY_ADDRESS[address].role in (Role.EVTSEL, Role.FIXED_CTR_CTRL)
        ),
        (WRITE, msr.GLOBAL_CTRL),
    )
    handlers = accesses_of(driver.spurious)[row] * table.handlers
    for out in outs:
        rest = table.pmu[row] - handlers - into[row] * sched_in - out_of[row] * out
        middle = rest // tick[row]
        for ticks in range(middle - _NEIGHBOURS, middle + _NEIGHBOURS + 1):
            if out >= 0 and ticks >= 0:
                yield out, ticks


def _solve(table: _Table, driver: _Driver, sched_out: int, ticks: int) -> Fit | None:
    """Everything else follows from these two; None: something would be negative."""
    acks = table.pmu[_OVF_CTRL]
    handlers = table.handlers
    sched_in = table.sched_in
    overflows = {counter: table.writes_of(counter) - ticks - sched_in for counter in table.counters}
    second = sum(overflows.values()) - acks
    spurious = handlers - acks
    if min(sched_in, spurious, second, *overflows.values()) < 0:
        return None
    handled = _handled(driver, overflows, second)
    if handled is None:
        return None
    operations = [
        *handled,
        (driver.spurious, spurious),
        (driver.tick, ticks),
        (driver.sched_in, sched_in),
        (driver.sched_out, sched_out),
    ]
    model: Counter[Access] = Counter()
    for operation, number in operations:
        for access, count in accesses_of(operation).items():
            model[access] += number * count
    rows = [
        Row(access, model[access], table.pmu[access])
        for access in sorted(model | table.pmu, key=lambda a: -max(model[a], table.pmu[a]))
        if access != _RDPMC or table.rdpmc is not None
    ]
    return Fit(
        driver=driver.name,
        unknowns={
            "handlers": handlers,
            "acks": acks,
            "spurious": spurious,
            "second_bits": second,
            "sched_in": sched_in,
            "sched_out": sched_out,
            "ticks": ticks,
        },
        overflows=overflows,
        rows=rows,
        operations=[(operation, number) for operation, number in operations if number],
        implied=model[_RDPMC] if table.rdpmc is None else None,
    )


def _handled(
    driver: _Driver, overflows: dict[int, int], second: int
) -> list[tuple[Operation, int]] | None:
    """Handlers of one overflow each, and ``second`` of two, of those that the driver's run has.

    What a handler of two costs does not depend on which they are. None: there are not enough.
    """
    left = dict(overflows)
    found: list[tuple[Operation, int]] = []
    for status, operation in driver.pmi_of.items():
        if status.bit_count() == 2 and second:
            one, other = _bits(status)
            number = min(second, left[one], left[other])
            found.append((operation, number))
            left[one] -= number
            left[other] -= number
            second -= number
    if second:
        return None
    return [*found, *((driver.pmi_of[1 << counter], count) for counter, count in left.items())]


def _badness(fitted: Fit) -> int:
    return sum(abs(row.residual) for row in fitted.rows)


def _status(operation: Operation) -> int:
    """The status bits that a handler found, by global index."""
    return next(
        unpack_counters(detail)
        for op, address, detail in map(fields_of, operation.tokens)
        if (op, address) == _STATUS
    )


def _bits(bitmap: int) -> list[int]:
    return [index for index in range(bitmap.bit_length()) if bitmap >> index & 1]
