"""What a design would leave of a trace's exits: every operation played, the rest bounded.

Operations that were recognised (or that a fit of a table explains) are played under each design.
Accesses outside any operation are bounded: at least and at most the share of such accesses that
exits in an operation of the driver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import FIXED_OS, FIXED_PMI, FIXED_USR, PmuCpuid
from pvpmu.shared.design import DRIVERS, Design
from pvpmu.shared.registers import BY_ADDRESS, Role
from pvpmu.shared.tally import PLACES, TALLY_WORDS
from pvpmu.trace.counts import Access
from pvpmu.trace.driver import accesses_of, driver_operations
from pvpmu.trace.evaluate import Evaluator, Outcome
from pvpmu.trace.fit import Fit, fit
from pvpmu.trace.names import ANY_COUNTER, RDPMC, WRITE
from pvpmu.trace.operations import HANDLERS, Context, Operation
from pvpmu.trace.reading import Trace
from pvpmu.trace.tokens import DETAIL_OF, RDPMC_TOKEN, token_of

_USUAL_GP, _USUAL_FIXED = 2, (0, 1)
"""Events of the driver's run that gives the bounds; what an access costs depends on its kind."""
_GP_ROLES = (Role.PERFCTR, Role.PMC, Role.EVTSEL)
_ONE_FIXED = FIXED_PMI | FIXED_USR | FIXED_OS
_ALL_ONES = (1 << 64) - 1

Kind = tuple[int, Role | None]
"""An instruction, and what the register is (None for RDPMC)."""
Bounds = tuple[int, int]
"""At least, at most."""


@dataclass(slots=True)
class OperationTotal:
    """All operations of one kind under one design; ``exits``: of their PMU accesses."""

    count: int = 0
    accesses: int = 0
    exits: int = 0


@dataclass(slots=True)
class Answer:
    """One design.

    ``operations``: by kind. ``exits``: of PMU accesses in operations that remain, by access.
    ``left_over``: exits that remain of the accesses in no operation. ``exits_by`` and ``tallies``:
    by place, of all operations, the exits that bring PMIs among them. ``unfaithful``: operations
    that the model could not play as the trace has them.
    """

    design: Design
    operations: dict[str, OperationTotal] = field(default_factory=dict)
    exits: Counter[Access] = field(default_factory=Counter)
    left_over: Bounds = (0, 0)
    exits_by: list[int] = field(default_factory=lambda: [0] * len(PLACES))
    tallies: list[list[int]] = field(default_factory=lambda: [[0] * TALLY_WORDS for _ in PLACES])
    unfaithful: int = 0

    @property
    def attributed(self) -> int:
        """Exits that remain of the accesses in operations."""
        return sum(self.exits.values())

    def add(self, operation: Operation, number: int, outcome: Outcome) -> None:
        """Add one operation that came ``number`` times."""
        total = self.operations.setdefault(operation.kind, OperationTotal())
        total.count += number
        total.accesses += number * len(operation.tokens)
        total.exits += number * sum(outcome.exits.values())
        for access, count in outcome.exits.items():
            self.exits[access] += number * count
        for place, exits in enumerate(outcome.exits_by):
            self.exits_by[place] += number * exits
            mine, its = self.tallies[place], outcome.tallies[place]
            self.tallies[place] = [m + number * i for m, i in zip(mine, its, strict=True)]
        self.unfaithful += number * (not outcome.faithful)


@dataclass(slots=True)
class Analysis:
    """What was found out. ``baseline``: the answer of the design that time is saved against.

    ``pmu``: PMU accesses of the trace. ``attributed``: those in operations, as the operations make
    them; ``left_over``: those in none. ``unknown``: MSR exits of which nothing says the MSR, in an
    input that lists none. ``fit``: of a table; None for events.
    """

    trace: Trace
    operations: list[tuple[Operation, int]]
    pmu: Counter[Access]
    attributed: Counter[Access]
    left_over: Counter[Access]
    unknown: int
    fit: Fit | None
    answers: list[Answer]
    baseline: Answer

    @property
    def handlers(self) -> int:
        """NMI handlers among the operations."""
        return sum(number for operation, number in self.operations if operation.kind in HANDLERS)

    @property
    def implied(self) -> int:
        """RDPMC exits that the fit finds in the operations and the input cannot show."""
        fitted = self.fit
        return fitted.implied or 0 if fitted is not None and fitted.accepted else 0

    def avoided(self, answer: Answer) -> Bounds:
        """Exits that a design saves of the trace's."""
        saved = sum(self.attributed.values()) - answer.attributed
        left = sum(self.left_over.values())
        low, high = answer.left_over
        return saved + left - high, saved + left - low + self.unknown_avoidable(answer)

    def remaining(self, answer: Answer) -> Bounds:
        """Exits of any reason that remain, those that the fit implies among them."""
        total = self.trace.counts.total + self.implied
        low, high = (total - avoided for avoided in reversed(self.avoided(answer)))
        # A fit may explain a few accesses more than there are, and a design avoid those too.
        least, most = (answer.attributed + left for left in answer.left_over)
        return max(low, least), max(high, most)

    def unknown_avoidable(self, answer: Answer) -> int:
        """MSR exits of unknown registers that a design might save: all, if it saves any."""
        return self.unknown if answer.design.name != self.baseline.design.name else 0


OnDesign = Callable[[str], None]
"""Told the design that is being played."""


def analyse(
    trace: Trace, designs: Sequence[Design], baseline: Design, on_design: OnDesign | None = None
) -> Analysis:
    """Play the trace's operations under each design and bound what is in none."""
    pmu = trace.counts.pmu
    fitted: Fit | None = None
    if trace.events is not None:
        operations = trace.events.shapes.operations()
    else:
        fitted = fit(trace.counts)
        operations = fitted.operations
    attributed: Counter[Access] = Counter()
    for operation, number in operations:
        for access, count in accesses_of(operation).items():
            attributed[access] += number * count
    # A fit may explain a few more than there are; its residuals say so.
    left_over = pmu - attributed
    known: dict[str, Answer] = {}
    for design in (*designs, baseline):
        if design.name not in known:
            if on_design is not None:
                on_design(design.name)
            known[design.name] = _answer(design, operations, left_over)
    msr_exits = trace.counts.msr_exits
    return Analysis(
        trace,
        operations,
        pmu,
        attributed,
        left_over,
        0 if trace.counts.listed else msr_exits,
        fitted,
        [known[design.name] for design in designs],
        known[baseline.name],
    )


def _answer(
    design: Design, operations: Iterable[tuple[Operation, int]], left_over: Counter[Access]
) -> Answer:
    evaluator = Evaluator(design, PmuCpuid())
    answer = Answer(design)
    for operation, number in operations:
        answer.add(operation, number, evaluator.outcome(operation))
    if left_over:
        answer.left_over = bounds(evaluator, left_over)
    return answer


def bounds(evaluator: Evaluator, accesses: Counter[Access]) -> Bounds:
    """Exits that remain of these accesses, wherever in the driver's operations they may stand."""
    shares = _shares(evaluator, accesses)
    low = high = 0.0
    for access, count in accesses.items():
        least, most = shares[_kind(access)]
        low += count * least
        high += count * most
    return int(low), -int(-high // 1)


def _shares(evaluator: Evaluator, kinds: Iterable[Access]) -> dict[Kind, tuple[float, float]]:
    """By kind of access: the smallest and largest share that exits.

    Over the driver's operations, and over such an access alone: while counters run, and while
    they are disabled.
    """
    found: dict[Kind, tuple[float, float]] = {}
    usual = [
        operation
        for driver in DRIVERS
        for operation in driver_operations(_USUAL_GP, _USUAL_FIXED, driver).operations
    ]
    for operation in (*usual, *(probe for access in kinds for probe in _probes(access))):
        made, exited = Counter[Kind](), Counter[Kind]()
        for access, count in accesses_of(operation).items():
            made[_kind(access)] += count
        for access, count in evaluator.outcome(operation).exits.items():
            exited[_kind(access)] += count
        for kind, count in made.items():
            share = exited[kind] / count
            low, high = found.get(kind, (share, share))
            found[kind] = min(low, share), max(high, share)
    return found


def _probes(access: Access) -> Iterator[Operation]:
    """The access alone, with either of a control register's values, in either state."""
    op, address = access
    off = token_of(WRITE, msr.GLOBAL_CTRL, 0)
    register = None if op == RDPMC else BY_ADDRESS[address]
    bit = 1 << register.index if register is not None and register.role in _GP_ROLES else 1
    running = Context(bit, _ONE_FIXED)
    values = (0, _ALL_ONES) if register is not None and register.role in DETAIL_OF else (0,)
    for value in values:
        token = RDPMC_TOKEN if register is None else token_of(op, address, value)
        yield Operation("probe", (token,), running, running)
        yield Operation("probe", (off, token), running, running)


def _kind(access: Access) -> Kind:
    op, address = access
    if op == RDPMC or address == ANY_COUNTER:
        return RDPMC, None
    role = BY_ADDRESS[address].role
    return op, Role.PMC if role is Role.PERFCTR else role
