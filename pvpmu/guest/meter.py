"""Charge a cost model's time to the guest clock: VM-exits, the host's work, the NMI handler's own.

The counters never see it: nothing retires meanwhile. Pure; all in whole ns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pvpmu.shared import exits
from pvpmu.shared.costs import Costs, Work
from pvpmu.shared.exits import ExitReason, SlotWords, load_words
from pvpmu.shared.units import Ns

_FLOOR = int(ExitReason.FLOOR)


class Clock(Protocol):
    """A guest clock that can be moved on."""

    def pass_time(self, elapsed: Ns) -> None: ...


class Meter:
    """Charges what one measured window costs.

    ``costs``: whole ns. ``slot``: the vCPU's exit slot, in which the host says what it did since
    START (:data:`pvpmu.shared.exits.WORK_AT`). ``charged``: ns so far, which is what the exits, the
    host's work and the handlers so far cost.
    """

    def __init__(self, costs: Costs, slot: SlotWords) -> None:
        self._costs = costs
        self._exit_ns, self._guest_ns = int(costs.exit_ns), int(costs.guest_ns)
        self._slot = slot
        self._clock: Clock | None = None
        self._work = [0] * exits.WORK_WORDS
        self._work_ns: Ns = 0
        self.charged: Ns = 0

    def open(self, clock: Clock) -> None:
        """The measured window begins: charge to ``clock`` from here on."""
        self._clock = clock

    def close(self) -> None:
        """It ends."""
        self._clock = None

    def crossing(self, cross: Callable[[], object]) -> Callable[[], None]:
        """Wrap a vCPU's ``cross`` so that each exit is charged at its VM-entry."""
        slot = self._slot

        def charged() -> None:
            cross()
            if self._clock is not None and slot[exits.REQUEST] & exits.REASON_MASK < _FLOOR:
                self._charge(self._clock, self._exit_ns + self._host_work())

        return charged

    def handled(self) -> None:
        """An NMI handler is about to return: charge its own work."""
        if self._clock is not None:
            self._charge(self._clock, self._guest_ns)

    def _host_work(self) -> Ns:
        """What the host did since the last exit takes, ns."""
        work = load_words(self._slot, exits.WORK_AT, exits.WORK_WORDS)
        if work == self._work:
            return 0
        self._work = work
        before, self._work_ns = self._work_ns, int(self._costs.of(Work(0, *work)))
        return self._work_ns - before

    def _charge(self, clock: Clock, ns: Ns) -> None:
        self.charged += ns
        clock.pass_time(ns)
