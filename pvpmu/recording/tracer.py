"""The object that a vCPU's loop, the host's or the guest's, tells what happens. Pure.

A loop keeps :attr:`Tracer.now` and :attr:`Tracer.cycles` true and calls one method for each thing
that happens; nothing here knows what kind of loop it is. Which words mean what is
:mod:`pvpmu.recording.format`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pvpmu.recording.format import (
    EXIT_NMI_BLOCKED,
    FAULT,
    MODES_SHIFT,
    NO_KIND,
    SPURIOUS,
    Kind,
    Path,
    head_of,
)
from pvpmu.shared.units import U64_MASK, Cycles, MsrAddress, Ns

_EXIT, _MSR, _ENTRY, _PERF_CALL = map(int, (Kind.EXIT, Kind.MSR, Kind.ENTRY, Kind.PERF_CALL))
_PMI, _STATE, _MARK, _ACCESS = map(int, (Kind.PMI, Kind.STATE, Kind.MARK, Kind.ACCESS))
_HANDLER_ENTRY, _HANDLER_EXIT = int(Kind.HANDLER_ENTRY), int(Kind.HANDLER_EXIT)
_SAMPLE, _OPERATION = int(Kind.SAMPLE), int(Kind.OPERATION)


class Put(Protocol):
    """What takes a record: :meth:`pvpmu.recording.ring.RingWriter.put`."""

    def __call__(
        self, wall: int, now: int, cycles: int, head: int, a: int, b: int, /
    ) -> object: ...


class Tracer:
    """Makes records of what one side of one vCPU does.

    ``clock``: wall ns, CLOCK_MONOTONIC. ``now``: the guest clock, ns, 0 if unknown; ``cycles``:
    core cycles that the vCPU has retired since its RESET. Both are cut to 64 bits.
    """

    __slots__ = ("_put", "clock", "cycles", "now")

    def __init__(self, put: Put, clock: Callable[[], Ns]) -> None:
        self._put = put
        self.clock = clock
        self.now: Ns = 0
        self.cycles: Cycles = 0

    def pass_time(self, now: Ns, cycles: Cycles) -> None:
        """Set the virtual time of what follows."""
        self.now = now & U64_MASK
        self.cycles = cycles & U64_MASK

    # The host's side ---------------------------------------------------------------------------

    def exit(self, reason: int, address: int, value: int, *, nmi_blocked: bool = False) -> None:
        """VM-exit: ``reason`` is VMX's; ``address``: MSR, ECX or leaf; ``value``: written."""
        flags = EXIT_NMI_BLOCKED if nmi_blocked else 0
        self._record(head_of(_EXIT, reason, flags, address), value)

    def msr(self, op: int, address: MsrAddress, value: int, *, fault: bool) -> None:
        """A trapped RDMSR or WRMSR was served; ``op`` is of :class:`pvpmu.recording.format.Op`."""
        self._record(head_of(_MSR, op, FAULT if fault else 0, address), value)

    def entry(self, reason: int, reply: int, result: int, vector: int = 0) -> None:
        """VM-entry after an exit of that reason; ``reply``: the exit slot's reply flags."""
        self._record(head_of(_ENTRY, reason, reply & 0xFF, vector), result)

    def perf_call(
        self, call: int, event: int, kind: int | None, modes: int, value: int, start: Ns
    ) -> None:
        """A perf call that began at ``start`` ended.

        Its kind, the host event's number and what that counts; the count or period.
        """
        counted = NO_KIND if kind is None else kind
        head = head_of(_PERF_CALL, call, counted | modes << MODES_SHIFT, event)
        self._ended(head, value, start)

    def pmi(self, what: int) -> None:
        """``what``: of :class:`pvpmu.recording.format.Pmi`."""
        self._record(head_of(_PMI, what))

    def state(self, change: int, state: int, generation: int) -> None:
        """The page's state changed; ``generation``: the page's, 0 for none."""
        self._record(head_of(_STATE, change, state), generation)

    def mark(self, control: int) -> None:
        """A CONTROL exit was served."""
        self._record(head_of(_MARK, control))

    # The guest's side --------------------------------------------------------------------------

    def access(
        self, op: int, address: int, value: int, path: Path, start: Ns, *, fault: bool = False
    ) -> None:
        """An access of the driver that began at ``start`` ended."""
        self._ended(head_of(_ACCESS, op, path | (FAULT if fault else 0), address), value, start)

    def handler_entry(self, ip: int) -> Ns:
        """The NMI handler begins; ``ip``: what it interrupts. Returns when."""
        return self._record(head_of(_HANDLER_ENTRY), ip)

    def handler_exit(self, bits: int, start: Ns, *, spurious: bool) -> None:
        """The one that began at ``start`` is about to return; it handled so many status bits."""
        self._ended(head_of(_HANDLER_EXIT, 0, SPURIOUS if spurious else 0, bits), 0, start)

    def sample(self, event: int, ip: int, period: int) -> None:
        """A sample of the guest's perf event of that number; ``period``: counts."""
        self._record(head_of(_SAMPLE, event), ip, period)

    def operation(self, which: int, start: Ns) -> None:
        """One of :data:`pvpmu.recording.format.OPERATIONS` that began at ``start`` ended."""
        self._ended(head_of(_OPERATION, which), 0, start)

    def _record(self, head: int, a: int = 0, b: int = 0) -> Ns:
        wall = self.clock()
        self._put(wall, self.now, self.cycles, head, a & U64_MASK, b & U64_MASK)
        return wall

    def _ended(self, head: int, a: int, start: Ns) -> None:
        # One reading of the clock: what lies within something else must do so in the file too.
        wall = self.clock()
        self._put(wall, self.now, self.cycles, head, a & U64_MASK, wall - start & U64_MASK)
