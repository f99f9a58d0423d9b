"""The program of one ``run``: retires exactly the given counts, interleaved evenly."""

from __future__ import annotations

from collections.abc import Sequence

from pvpmu.shared.units import Cycles, Ns


class Burst:
    """A :class:`pvpmu.guest.cpu.Program` of as many steps as its largest count.

    After step s of n, ``count * s // n`` of each kind have retired. ``cycles`` are its steps.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = list(counts)
        self._done = [0] * len(counts)
        self.steps = max(counts)
        self.cycles: Cycles = 0

    @property
    def now(self) -> Ns:
        """No clock: nothing here asks for the time."""
        return 0

    @property
    def ip(self) -> int:
        """No code: nothing here asks where."""
        return 0

    @property
    def phase_left(self) -> Cycles:
        """Steps to the end."""
        return self.steps - self.cycles

    def cycles_until(self, kind: int, count: int) -> Cycles | None:
        """Steps until ``count`` more of ``kind`` have retired; None when they never do."""
        whole = self._counts[kind]
        wanted = self._done[kind] + count
        if wanted > whole:
            return None
        return -(-wanted * self.steps // whole) - self.cycles

    def retire(self, cycles: Cycles) -> list[int]:
        """Advance; returns counts by kind."""
        self.cycles += cycles
        counts = []
        for kind, whole in enumerate(self._counts):
            done = whole * self.cycles // self.steps
            counts.append(done - self._done[kind])
            self._done[kind] = done
        return counts
