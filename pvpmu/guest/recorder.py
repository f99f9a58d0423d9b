"""Count what the driver does: accesses, exits by operation, and a digest of the sequence.

Used in a pass of its own, untimed: counting an access costs more than the access.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pvpmu.guest.msr import MsrAccess
from pvpmu.shared import exits
from pvpmu.shared.exits import ExitReason, SlotWords
from pvpmu.shared.units import MsrAddress

_ACCESS = struct.Struct("<BQQ")
_OP_CODE = {"rdmsr": 1, "wrmsr": 2, "rdpmc": 3}
_PMU_EXITS = (ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC)

OPERATIONS = (
    "pmi",
    "pmi_spurious",
    "pmi_disabled",
    "tick",
    "sched_in",
    "sched_out",
    "rotation",
    "read",
)
"""``pmi``: a handler that found status bits with the PMU enabled; ``pmi_disabled``: entered with
the PMU disabled; ``pmi_spurious``: read status 0. ``read``: the counts of all events, once."""


@dataclass(slots=True)
class OperationCounts:
    """How often an operation ran and what it did: PMU accesses and PMU exits, by number."""

    count: int = 0
    accesses: int = 0
    exits: int = 0


@dataclass(slots=True)
class Recorder:
    """Counts of one run. ``accesses`` and ``exits``: (op, address or RDPMC index) to number.

    ``closed``: the measured window is over, nothing more is counted.
    """

    accesses: Counter[tuple[str, int]] = field(default_factory=Counter)
    exits: Counter[tuple[str, int]] = field(default_factory=Counter)
    operations: dict[str, OperationCounts] = field(
        default_factory=lambda: {name: OperationCounts() for name in OPERATIONS}
    )
    closed: bool = False
    _open: list[OperationCounts] = field(default_factory=lambda: [OperationCounts()])
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def digest(self) -> str:
        """SHA-256 over (op, address, value) of every access in order, hex."""
        return self._digest.hexdigest()

    def restart(self) -> None:
        """Forget everything so far (boot is over)."""
        self.accesses.clear()
        self.exits.clear()
        self._digest = hashlib.sha256()

    def access(self, op: str, address: int, value: int) -> None:
        """Note one access of the driver."""
        if self.closed:
            return
        self.accesses[op, address] += 1
        self._open[-1].accesses += 1
        self._digest.update(_ACCESS.pack(_OP_CODE[op], address, value))

    def begin(self) -> None:
        """An operation starts; a handler inside a tick counts as itself, not as the tick."""
        self._open.append(OperationCounts())

    def end(self, operation: str) -> None:
        """The innermost operation ends and turns out to be ``operation``."""
        done = self._open.pop()
        if self.closed:
            return
        total = self.operations[operation]
        total.count += 1
        total.accesses += done.accesses
        total.exits += done.exits

    def crossing(self, slot: SlotWords, cross: Callable[[], object]) -> Callable[[], None]:
        """Wrap a vCPU's ``cross`` so that PMU exits are counted."""

        def counted() -> None:
            reason = slot[exits.REQUEST] & exits.REASON_MASK
            if reason in _PMU_EXITS and not self.closed:
                self.exits[_OP_OF[reason], slot[exits.ADDRESS]] += 1
                self._open[-1].exits += 1
            cross()

        return counted


_OP_OF = {
    int(ExitReason.MSR_READ): "rdmsr",
    int(ExitReason.MSR_WRITE): "wrmsr",
    int(ExitReason.RDPMC): "rdpmc",
}


class RecordedAccess:
    """The driver's accesses, noted on their way to the seam."""

    def __init__(self, access: MsrAccess, recorder: Recorder) -> None:
        self._access = access
        self._recorder = recorder

    def rdmsr(self, address: MsrAddress) -> int:
        value = self._access.rdmsr(address)
        self._recorder.access("rdmsr", address, value)
        return value

    def wrmsr(self, address: MsrAddress, value: int) -> None:
        self._recorder.access("wrmsr", address, value)
        self._access.wrmsr(address, value)

    def rdpmc(self, ecx: int) -> int:
        value = self._access.rdpmc(ecx)
        self._recorder.access("rdpmc", ecx, value)
        return value
