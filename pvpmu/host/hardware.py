"""The physical PMU: counters that count what the guest retired and raise overflow status.

**Invariants**: a counter holds at most its width; it counts only while started; overflow status
bits stay until the driver takes them. Source: SDM vol. 3B, "Performance Monitoring".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pvpmu.shared.events import FIXED_KIND
from pvpmu.shared.exits import LIVE_MODE_SHIFT, MODE_KERNEL, MODE_USER

PHYSICAL_GP = 8
PHYSICAL_FIXED = 3
PHYSICAL_WIDTH = 48


_MODE_HOST = 1 << (MODE_USER | MODE_KERNEL).bit_length()
"""Beside the guest's two: what is retired outside it."""


class Placed(Protocol):
    """A driver's event: the counter that it is on."""

    @property
    def counter(self) -> Counter | None: ...


class Counter:
    """One hardware counter.

    ``fixed_kind`` is the one kind it can count, None for a GP counter. It wraps at ``top``;
    ``left``: counts until it does, which are few where its value is large. ``running``: it counts;
    ``modes``: a bitmap of what it counts, of the guest and outside it. ``descriptor``: kind and the
    guest's modes as a live entry has them. The driver's mark: ``owner``, the event that it was last
    programmed for.
    """

    __slots__ = (
        "bit",
        "descriptor",
        "fixed_kind",
        "kind",
        "left",
        "modes",
        "owner",
        "running",
        "top",
    )

    def __init__(self, index: int, fixed_kind: int | None, width: int) -> None:
        self.top = 1 << width
        self.bit = 1 << index
        self.fixed_kind = fixed_kind
        self.kind = -1
        self.modes = 0
        self.descriptor = 0
        self.left = self.top
        self.owner: Placed | None = None
        self.running = False

    @property
    def value(self) -> int:
        """What it holds, below ``top``."""
        return self.top - self.left

    @value.setter
    def value(self, value: int) -> None:
        self.left = self.top - value

    @property
    def taken(self) -> bool:
        """Whether an event is on it."""
        return self.owner is not None and self.owner.counter is self


class PhysicalPmu:
    """One physical CPU's: ``gp`` general and ``fixed`` fixed counters of ``width`` bits.

    ``fixed_width``: that of the fixed counters, if another. ``status``: overflow bits not yet
    taken. ``version`` changes whenever the set of started counters, or the distance of one of them
    other than by counting, changes.
    """

    def __init__(
        self,
        gp: int = PHYSICAL_GP,
        fixed: int = PHYSICAL_FIXED,
        width: int = PHYSICAL_WIDTH,
        version: int = 1,
        *,
        fixed_width: int | None = None,
    ) -> None:
        self.mask = (1 << width) - 1
        wide = width if fixed_width is None else fixed_width
        self.counters = [Counter(j + 32, FIXED_KIND[j], wide) for j in range(fixed)]
        self.counters += [Counter(i, None, width) for i in range(gp)]
        self.started: list[Counter] = []
        self.status = 0
        self.version = version

    @staticmethod
    def program(counter: Counter, kind: int, modes: int, *, host: bool) -> None:
        """Let ``counter``, which is stopped, count ``kind`` from its next start on.

        ``modes``: in the guest; ``host``: outside it as well.
        """
        counter.kind = kind
        counter.modes = modes | _MODE_HOST if host else modes
        counter.descriptor = kind | modes << LIVE_MODE_SHIFT

    def start(self, counter: Counter) -> None:
        """Count on; one that counts already may do so from another value."""
        if not counter.running:
            counter.running = True
            self.started.append(counter)
        self.version += 1

    def stop(self, counter: Counter) -> None:
        """Stop counting, if it was; the value stays."""
        if counter.running:
            counter.running = False
            self.started.remove(counter)
            self.version += 1

    def retire(
        self,
        user: Sequence[int] | None,
        kernel: Sequence[int] | None,
        host: Sequence[int] | None = None,
    ) -> None:
        """Count what was retired, by event kind: in the guest at CPL 3 and CPL 0, and outside it.

        VM-entry and VM-exit switch the physical GLOBAL_CTRL between the two (5.14:
        ``intel_guest_get_msrs``).
        """
        if user is not None:
            self._count(user, MODE_USER)
        if kernel is not None:
            self._count(kernel, MODE_KERNEL)
        if host is not None:
            self._count(host, _MODE_HOST)

    def _count(self, retired: Sequence[int], mode: int) -> None:
        for counter in self.started:
            if counter.modes & mode and (delta := retired[counter.kind]):
                left = counter.left - delta
                if left <= 0:
                    left = left % counter.top or counter.top
                    self.status |= counter.bit
                counter.left = left
