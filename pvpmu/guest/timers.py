"""The guest's periodic timers: when each is due next on the guest clock. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pvpmu.shared.units import Ns


class Timers:
    """Timers by name, each first due one period after 0 and then on multiples of it.

    ``periods``: ns, 0 for a timer that never fires.
    """

    def __init__(self, periods: Mapping[str, Ns]) -> None:
        self._periods = {name: period for name, period in periods.items() if period}
        self._next = dict(self._periods)

    def next_of(self, names: Iterable[str], until: Ns) -> Ns:
        """When the first of these is due, ``until`` at the latest."""
        return min([until, *(self._next[name] for name in names if name in self._next)])

    def due(self, name: str, now: Ns) -> bool:
        """Whether it is due; if so it fires once, and then on its next multiple after ``now``."""
        if now < self._next.get(name, now + 1):
            return False
        self.skip(name, now)
        return True

    def skip(self, name: str, now: Ns) -> None:
        """It does not fire up to ``now``, as while nobody waits for it."""
        period = self._periods.get(name)
        if period is not None and self._next[name] <= now:
            self._next[name] = (now // period + 1) * period

    def restart(self, name: str, now: Ns) -> None:
        """It is due one period after ``now``."""
        self._next[name] = now + self._periods[name]
