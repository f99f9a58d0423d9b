"""What a guest's side of one vCPU tells a tracer, by wrapping what it calls. Pure.

Nothing of this is there when nobody traces: callables are wrapped when a run is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pvpmu.guest.msr import MsrAccess
from pvpmu.guest.scenario import Scenario
from pvpmu.recording.format import OPERATIONS, Op, Path
from pvpmu.recording.tracer import Tracer
from pvpmu.shared import exits
from pvpmu.shared.errors import GeneralProtectionError
from pvpmu.shared.exits import ExitReason, SlotWords
from pvpmu.shared.units import Cycles, MsrAddress, Ns

_CONTROL, _FLOOR = int(ExitReason.CONTROL), int(ExitReason.FLOOR)
_RDMSR, _WRMSR, _RDPMC = int(Op.RDMSR), int(Op.WRMSR), int(Op.RDPMC)
_OPERATION_OF = {name: number for number, name in enumerate(OPERATIONS)}


def described(scenario: Scenario, seed: int) -> dict[str, Any]:
    """What a recording says of the program that ran (docs/recordings.md), as JSON values."""
    return {
        "scenario": scenario.name,
        "seed": seed,
        "cpu_hz": scenario.cpu_hz,
        "code": 0 if scenario.workload is None else scenario.workload.phases,
        "events": [
            {
                "name": label,
                "kind": config.event.kind,
                "selector": config.event.selector,
                "modes": config.modes,
                "frequency": config.frequency,
                "period": config.period,
            }
            for label, config in zip(scenario.labels, scenario.configs(scenario.cpuid), strict=True)
        ],
    }


class Handled(Protocol):
    """Counts of handlers that a run keeps (:class:`pvpmu.guest.runner.Counts`)."""

    acks: int
    second_bits: int
    spurious: int


class GuestTrace:
    """One run's tracing. ``times``: guest clock (ns) and cycles retired, once there are any."""

    def __init__(self, tracer: Tracer, slot: SlotWords) -> None:
        self._tracer = tracer
        self._slot = slot
        self._path = Path.PAGE
        self.times: Callable[[], tuple[Ns, Cycles]] = _at_boot

    def crossing(self, cross: Callable[[], object]) -> Callable[[], None]:
        """Wrap a vCPU's ``cross``: tell the host the guest clock, note that it was crossed."""
        slot, tracer = self._slot, self._tracer

        def crossed() -> None:
            reason = slot[exits.REQUEST] & exits.REASON_MASK
            self._path = Path.EXIT if reason < _FLOOR else Path.SILICON
            slot[exits.CLOCK] = self.times()[0]
            control = slot[exits.VALUE]
            cross()
            if reason == _CONTROL:
                self._pass_time()
                tracer.mark(control)

        return crossed

    def access(self, access: MsrAccess) -> MsrAccess:
        """Wrap what the driver's accesses go through."""
        return _TracedAccess(self, access)

    def handler(
        self, handler: Callable[[], None], ip: Callable[[], int], counts: Handled
    ) -> Callable[[], None]:
        """Wrap the NMI handler; ``ip``: what it interrupts; ``counts``: what it adds to."""
        tracer = self._tracer

        def traced() -> None:
            path = self._path
            bits, spurious = counts.acks + counts.second_bits, counts.spurious
            self._pass_time()
            start = tracer.handler_entry(ip())
            handler()
            self._pass_time()
            handled = counts.acks + counts.second_bits - bits
            tracer.handler_exit(handled, start, spurious=counts.spurious > spurious)
            # It came within the exit of an access, which goes on.
            self._path = path

        return traced

    def operation(self, name: str, run: Callable[[], None]) -> Callable[[], None]:
        """Wrap an operation of perf in the guest."""

        def traced() -> None:
            start = self._tracer.clock()
            run()
            self._pass_time()
            self._tracer.operation(_OPERATION_OF[name], start)

        return traced

    def sample(self, event: int, ip: int, period: int) -> None:
        """A sample was taken."""
        self._pass_time()
        self._tracer.sample(event, ip, period)

    def begin(self) -> Ns:
        """An access begins, which is answered by the page unless it crosses; wall ns."""
        self._path = Path.PAGE
        return self._tracer.clock()

    def end(self, op: int, address: int, value: int, start: Ns, *, fault: bool = False) -> None:
        """It ends."""
        self._pass_time()
        self._tracer.access(op, address, value, self._path, start, fault=fault)

    def _pass_time(self) -> None:
        self._tracer.pass_time(*self.times())


class _TracedAccess:
    """The driver's accesses, told on their way back."""

    __slots__ = ("_access", "_trace")

    def __init__(self, trace: GuestTrace, access: MsrAccess) -> None:
        self._trace = trace
        self._access = access

    def rdmsr(self, address: MsrAddress) -> int:
        return self._told(_RDMSR, address, self._access.rdmsr)

    def rdpmc(self, ecx: int) -> int:
        return self._told(_RDPMC, ecx, self._access.rdpmc)

    def wrmsr(self, address: MsrAddress, value: int) -> None:
        trace = self._trace
        start = trace.begin()
        try:
            self._access.wrmsr(address, value)
        except GeneralProtectionError:
            trace.end(_WRMSR, address, value, start, fault=True)
            raise
        trace.end(_WRMSR, address, value, start)

    def _told(self, op: int, address: int, read: Callable[[int], int]) -> int:
        trace = self._trace
        start = trace.begin()
        try:
            value = read(address)
        except GeneralProtectionError:
            trace.end(op, address, 0, start, fault=True)
            raise
        trace.end(op, address, value, start)
        return value


def _at_boot() -> tuple[Ns, Cycles]:
    return 0, 0
