"""A page's words with an NMI possible between any two accesses: what ``nmi_at`` needs."""

from __future__ import annotations

from collections.abc import Callable

from pvpmu.guest.cpu import Vcpu


class Window:
    """The page's words; before each load or store of the seam it asks whether to interrupt.

    A compare-exchange is one access. Quiet, nothing is counted and nothing interrupts.
    """

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words
        self.quiet = True
        self.points = 0
        self._point = -1
        self._fire: Callable[[], None] | None = None

    def arm(self, point: int, fire: Callable[[], None]) -> None:
        """Call ``fire`` before access number ``point`` from here on, counted from 0."""
        self.points, self._point, self._fire = 0, point, fire

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, index: int) -> int:
        self._moment()
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._moment()
        self._words[index] = value

    def compare_exchange(self, index: int, expected: int, wanted: int) -> bool:
        """One step that no NMI splits."""
        self._moment()
        if self._words[index] != expected:
            return False
        self._words[index] = wanted
        return True

    def _moment(self) -> None:
        if self.quiet:
            return
        self.points += 1
        if self.points - 1 == self._point and self._fire is not None:
            fire, self._fire = self._fire, None
            self.quiet = True
            try:
                fire()
            finally:
                self.quiet = False


class WindowMemory:
    """Guest memory whose slices are windows; the last one made is ``window``."""

    def __init__(self, memory: memoryview[int]) -> None:
        self._memory = memory
        self.window: Window | None = None

    def __getitem__(self, where: slice) -> Window:
        self.window = Window(self._memory[where])
        return self.window


class QuietVcpu(Vcpu):
    """A VM-exit, the VM-entry and the handler that it injects are one step for the window."""

    window: Window | None = None

    def exit(self, reason: int, address: int = 0, value: int = 0) -> int:
        """Exit without moments."""
        window = self.window
        if window is None:
            return super().exit(reason, address, value)
        was, window.quiet = window.quiet, True
        try:
            return super().exit(reason, address, value)
        finally:
            window.quiet = was
