"""The time limit of a case."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DEFAULT_S = 60.0
"""A case takes some ms; on a machine where twenty others compute, a real VM takes seconds."""
GRACE_S = 1.0
"""How long an operation may still run when the limit has passed, before it is interrupted."""


class TimeLimitError(Exception):
    """A case took longer than its limit."""


class TimeLimit:
    """Notes that the time is over; whoever runs the case asks between its operations.

    What a signal handler raises is lost where the interpreter ignores exceptions (a callback of
    the garbage collector, a finaliser), so it is only for an operation that does not end, and is
    raised again as long as that takes.
    """

    def __init__(self) -> None:
        self._over = False

    def check(self) -> None:
        """Raise :class:`TimeLimitError` if the time is over."""
        if self._over:
            raise TimeLimitError

    @contextmanager
    def running(self, seconds: float) -> Iterator[None]:
        """Let ``seconds`` run; only the main thread can be told that they are over."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, self._alarm)
        signal.setitimer(signal.ITIMER_REAL, seconds, GRACE_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _alarm(self, _number: int, _frame: FrameType | None) -> None:
        self.check()
        self._over = True
