"""What perf calls on the kernel's own events took, and the system calls that they are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from pvpmu.shared.tally import CALL_KINDS
from pvpmu.shared.units import Ns

SYSTEM_CALLS = ("DISABLE", "ENABLE", "RESET", "PERIOD", "read", "open", "close")
"""The first four are ioctls of an event's file descriptor (PERF_EVENT_IOC_*)."""


@dataclass(slots=True)
class CallTimes:
    """Counts, and wall ns.

    ``calls``, ``call_ns``: by kind of CALL_KINDS; ``system``, ``system_ns``: by kind of
    SYSTEM_CALLS. ``handler_ns``: of the calls for exits of the guest's NMI handler alone.
    """

    calls: list[int] = field(default_factory=lambda: [0] * len(CALL_KINDS))
    call_ns: list[Ns] = field(default_factory=lambda: [0] * len(CALL_KINDS))
    system: list[int] = field(default_factory=lambda: [0] * len(SYSTEM_CALLS))
    system_ns: list[Ns] = field(default_factory=lambda: [0] * len(SYSTEM_CALLS))
    handler_ns: Ns = 0

    def add(self, other: CallTimes) -> None:
        """Both together, here."""
        for name in ("calls", "call_ns", "system", "system_ns"):
            mine, theirs = getattr(self, name), getattr(other, name)
            mine[:] = [a + b for a, b in zip(mine, theirs, strict=True)]
        self.handler_ns += other.handler_ns
