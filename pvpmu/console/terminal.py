"""A terminal that is read key by key, and put back as it was however the view ends."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType

from pvpmu.console.keys import BACKSPACE, ENTER, ESCAPE

_NAMED = {"\r": ENTER, "\n": ENTER, "\x1b": ESCAPE, "\x7f": BACKSPACE, "\b": BACKSPACE}
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~])")
"""What arrows and function keys send (ECMA-48's control sequences, and SS3 with its letter)."""
_MOST_BYTES = 1024


def keys_of(raw: bytes) -> list[str]:
    """Keys in what a terminal sent, which may be several; arrows and the like are none here."""
    text = _SEQUENCES.sub("", raw.decode("utf-8", "ignore"))
    return [
        _NAMED.get(letter, letter) for letter in text if letter in _NAMED or letter.isprintable()
    ]


class Keyboard:
    """Keys from a terminal, or none where there is no terminal to read."""

    def __init__(self, source: int | None, wake: int) -> None:
        self._source = source
        self._wake = wake

    def wait(self, seconds: float) -> list[str]:
        """The keys that come first, none after so long, or as soon as the size changes."""
        sources = [self._wake] if self._source is None else [self._source, self._wake]
        ready, _, _ = select.select(sources, [], [], max(seconds, 0))
        if self._wake in ready:
            os.read(self._wake, _MOST_BYTES)
        if self._source not in ready or self._source is None:
            return []
        raw = os.read(self._source, _MOST_BYTES)
        if not raw:
            # The terminal has gone: a key that comes for ever is none.
            self._source = None
        return keys_of(raw)


@contextlib.contextmanager
def keyboard() -> Iterator[Keyboard]:
    """Read keys at once and unseen until the end; the terminal is then as before.

    A process in the background reads nothing, since asking would stop it. Ctrl-C stays a signal.
    """
    with contextlib.ExitStack() as stack:
        wake, woken = os.pipe()
        stack.callback(os.close, wake)
        stack.callback(os.close, woken)
        os.set_blocking(woken, False)
        previous = signal.signal(signal.SIGWINCH, _changed)
        stack.callback(signal.signal, signal.SIGWINCH, previous)
        before = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, before)
        source = _terminal()
        if source is not None:
            attributes = termios.tcgetattr(source)
            stack.callback(termios.tcsetattr, source, termios.TCSADRAIN, attributes)
            # Keys that came before are keys too.
            tty.setcbreak(source, termios.TCSADRAIN)
        yield Keyboard(source, wake)


def in_foreground(terminal: int) -> bool:
    """Whether this process may use a terminal that it has."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return True


def _terminal() -> int | None:
    if not sys.stdin.isatty():
        return None
    source = sys.stdin.fileno()
    return source if in_foreground(source) else None


def _changed(_number: int, _frame: FrameType | None) -> None:
    """The signal has done its work by waking whoever waits."""
