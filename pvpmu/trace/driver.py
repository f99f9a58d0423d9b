"""The operations of the driver here, as a trace would show them: from a short scripted run.

The script of a scenario makes the driver do each thing, every access traps, and the accesses go
through the same recognition as a trace's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

from pvpmu.bench.vm import InlineVm, VmConfig
from pvpmu.guest.machine import Machine, Progress, RunJob
from pvpmu.guest.scenario import Scenario, ScenarioEvent
from pvpmu.guest.script import ScriptCounts
from pvpmu.shared import exits
from pvpmu.shared.cpuid import MAX_FIXED, MAX_GP
from pvpmu.shared.design import DRIVERS, DriverName, GuestDesign, design_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import EVENTS, FIXED_KIND
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.trace.counts import Access
from pvpmu.trace.names import ANY_COUNTER, READ, WRITE
from pvpmu.trace.operations import Operation
from pvpmu.trace.tokens import RDPMC_TOKEN, Token, control_of, fields_of, token_of
from pvpmu.trace.tokens import Control as Border
from pvpmu.trace.tracker import Shapes, Tracker

_TRAPPING = "trap"
_OVERFLOWS = 8
_DURATION_US = 20_000
_GENERAL = tuple(event.name for event in EVENTS if event.fixed is None)
MOST_GP = len(_GENERAL)
"""Events on GP counters that a script can tell apart."""


@dataclass(frozen=True, slots=True)
class DriverOperations:
    """What ``driver`` does with ``gp`` events on GP counters and one on each of ``fixed``."""

    driver: str
    gp: int
    fixed: tuple[int, ...]
    operations: tuple[Operation, ...]

    def of_kind(self, kind: str) -> list[Operation]:
        """Its different operations of a kind."""
        return [operation for operation in self.operations if operation.kind == kind]


def accesses_of(operation: Operation) -> Counter[Access]:
    """How often an operation accesses what."""
    return Counter(
        (op, ANY_COUNTER if token == RDPMC_TOKEN else address)
        for token in operation.tokens
        for op, address, _ in [fields_of(token)]
    )


@cache
def driver_operations(
    gp: int, fixed: tuple[int, ...], driver: DriverName = DRIVERS[0]
) -> DriverOperations:
    """Run the script; raises :class:`UsageError` for more events than it can tell apart."""
    if not (0 <= gp <= MOST_GP and gp + len(fixed) >= 1):
        raise UsageError(f"{gp} events on GP counters, expected 0..{MOST_GP}, one event at least")
    # Counter j counts its own event: with too few fixed counters it would go to a GP one.
    names = [EVENTS[FIXED_KIND[j]].name for j in fixed] + list(_GENERAL[:gp])
    many = len(names)
    scenario = Scenario(
        name="driver-operations",
        summary="each operation of the driver",
        duration_us=_DURATION_US,
        events=tuple(
            ScenarioEvent(name=name, frequency=4000, initial_period=100_000) for name in names
        ),
        gp=MAX_GP,
        fixed=MAX_FIXED,
        script=ScriptCounts(
            ticks=4,
            sched_in=2,
            sched_out=2,
            overflows=(_OVERFLOWS,) * many,
            coincident=2 if many > 1 else 0,
            stray=0,
        ),
    )
    vm = InlineVm(VmConfig(design=design_named(_TRAPPING), cpuid=scenario.cpuid))
    (shapes,) = vm.run([_Tapped(scenario, GuestDesign(driver=driver))])
    found = [operation for operation, _ in shapes.operations()]
    return DriverOperations(driver, gp, fixed, (*found, _spurious(found)))


def _spurious(found: list[Operation]) -> Operation:
    """The handler without anything to handle: what a PMI's makes in any case."""
    pmi = next(operation for operation in found if operation.kind == "pmi")
    tokens = tuple(
        token
        for token in pmi.tokens
        if _border(token) is not Border.PLAIN
        and not (_border(token) is Border.STATUS and fields_of(token).detail)
    )
    return Operation("pmi_spurious", tokens, pmi.before, pmi.after)


def _border(token: Token) -> Border:
    op, address, detail = fields_of(token)
    return Border.PLAIN if token == RDPMC_TOKEN else control_of(op, BY_ADDRESS[address], detail)


@dataclass(frozen=True, slots=True)
class _Tapped:
    """A job: run a scenario once and cut its exits into operations."""

    scenario: Scenario
    guest: GuestDesign

    def do(self, machine: Machine, progress: Progress) -> Shapes:
        """Return the operations of the measured window."""
        shapes = Shapes()
        tracker = Tracker(shapes, lambda _start, _end: None)
        slot, cross = machine.slot, machine.cross
        measuring = False

        def tapped() -> None:
            nonlocal measuring
            reason, address = slot[exits.REQUEST] & exits.REASON_MASK, slot[exits.ADDRESS]
            value = slot[exits.VALUE]
            cross()
            if reason == ExitReason.CONTROL:
                measuring = value == Control.START
            elif not measuring:
                return
            elif reason == ExitReason.RDPMC:
                tracker.access(RDPMC_TOKEN, Border.PLAIN, b"", b"")
            elif reason in (ExitReason.MSR_READ, ExitReason.MSR_WRITE):
                op = READ if reason == ExitReason.MSR_READ else WRITE
                token = token_of(op, address, slot[exits.RESULT] if op == READ else value)
                border = control_of(op, BY_ADDRESS[address], fields_of(token).detail)
                tracker.access(token, border, b"", b"")

        RunJob(self.scenario, seed=1, guest=self.guest).do(replace(machine, cross=tapped), progress)
        tracker.finish()
        return shapes
