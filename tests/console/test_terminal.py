"""Keys as a terminal sends them, and the loop that waits for them."""

from __future__ import annotations

import os
import pty
import signal
import sys
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from pvpmu.console.keys import BACKSPACE, ENTER, ESCAPE, View
from pvpmu.console.live import letters_of, loop, usable
from pvpmu.console.model import Model
from pvpmu.console.terminal import Keyboard, keyboard, keys_of


@pytest.mark.parametrize(
    ("raw", "keys"),
    [
        (b"q", ["q"]), (b"f38\r", ["f", "3", "8", ENTER]), (b"\n", [ENTER]), (b"\x7f", [BACKSPACE]),
        (b"\x1b", [ESCAPE]), (b"\x1b[A", []), (b"\x1bOP", []), (b"\x01\x02", []),
        ("é".encode(), ["é"]), (b"\xff\xfe", []),
        # Several that waited while the view was held up.
        (b"\x1bq", [ESCAPE, "q"]), (b"\x1b[Bh\x1b[1;5Co", ["h", "o"]), (b"q\x1b[A", ["q"]),
        (b"\x1b[15~\x1bOPr", ["r"]),
    ],
)  # fmt: skip
def test_bytes_are_keys_or_nothing(raw: bytes, keys: list[str]) -> None:
    assert keys_of(raw) == keys


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A terminal as standard input: (what a person types into, what the program reads)."""
    person, program = pty.openpty()
    with os.fdopen(program, "rb", buffering=0, closefd=False) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield person, program
    os.close(person)
    os.close(program)


def test_keys_come_one_by_one_and_the_terminal_is_put_back(terminal: tuple[int, int]) -> None:
    person, program = terminal
    before = termios.tcgetattr(program)
    with keyboard() as keys:
        assert not termios.tcgetattr(program)[3] & (termios.ICANON | termios.ECHO)
        # Ctrl-C is still a signal.
        assert termios.tcgetattr(program)[3] & termios.ISIG
        os.write(person, b"h")
        assert keys.wait(10) == ["h"]
        assert keys.wait(0) == []
    assert termios.tcgetattr(program) == before


def test_the_terminal_is_put_back_after_an_error_too(terminal: tuple[int, int]) -> None:
    _, program = terminal
    before = termios.tcgetattr(program)
    with pytest.raises(KeyboardInterrupt), keyboard():
        raise KeyboardInterrupt
    assert termios.tcgetattr(program) == before
    assert signal.getsignal(signal.SIGWINCH) is signal.SIG_DFL


def test_a_change_of_size_ends_the_wait(terminal: tuple[int, int]) -> None:
    with keyboard() as keys:
        os.kill(os.getpid(), signal.SIGWINCH)
        # Without the wake-up this would be the test's time limit.
        assert keys.wait(3600) == []


def test_without_a_terminal_there_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", nothing)
        with keyboard() as keys:
            assert keys.wait(0) == []


def test_a_terminal_that_has_gone_sends_nothing() -> None:
    read, write = os.pipe()
    wake, woken = os.pipe()
    os.close(write)
    keys = Keyboard(read, wake)
    assert keys.wait(3600) == []
    assert keys.wait(0) == []
    for each in (read, wake, woken):
        os.close(each)


class Script:
    """A keyboard that plays keys, each ``late`` seconds, and a clock that goes on by what was
    waited."""

    def __init__(self, *steps: str | float, late: float = 0.0) -> None:
        self.steps = list(steps)
        self.late = late
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> list[str]:
        step = self.steps.pop(0)
        if isinstance(step, str):
            self.now += self.late
            return [step]
        self.now += max(seconds, 0)
        return []


class Watched:
    def __init__(self, vm: Any) -> None:
        self.vm = vm
        self.model = Model()
        self.updates = 0
        self.update()

    def update(self) -> None:
        self.updates += 1
        self.model.update(float(self.updates), [self.vm])


def played(vm: Any, *steps: str | float, updates: int | None = None) -> tuple[Watched, list[View]]:
    script, watched, drawn = Script(*steps), Watched(vm), []
    loop(watched, script, drawn.append, View(0.5), script.clock, updates)  # type: ignore[arg-type]
    return watched, drawn


def test_the_view_is_read_again_at_each_interval_and_drawn_at_each_key(new_vm: Any) -> None:
    watched, drawn = played(new_vm(), 0.5, "h", 0.5, "h", "q")
    assert watched.updates == 1 + 2
    assert [view.help for view in drawn] == [False, False, True, True, False]


def test_a_key_that_comes_late_is_answered_before_what_is_shown_is_read(new_vm: Any) -> None:
    read_at_draw: list[tuple[bool, int]] = []
    script, watched = Script("h", "q", late=1.0), Watched(new_vm())
    loop(
        watched,  # type: ignore[arg-type]
        script,  # type: ignore[arg-type]
        lambda view: read_at_draw.append((view.help, watched.updates)),
        View(0.5),
        script.clock,
        None,
    )
    assert read_at_draw == [(False, 1), (True, 1), (True, 2)]


def test_a_view_that_is_woken_late_keeps_its_pace_unless_it_missed_an_update(new_vm: Any) -> None:
    late = [0.1, 0.2, 0.7, 0.0]
    begun: list[float] = []

    class Late(Script):
        def wait(self, seconds: float) -> list[str]:
            self.now += max(seconds, 0) + late.pop(0)
            begun.append(round(self.now - start, 6))
            return []

    script = Late()
    start = script.now
    loop(Watched(new_vm()), script, lambda _: None, View(0.5), script.clock, 4)  # type: ignore[arg-type]
    assert begun == [0.6, 1.2, 2.2, 2.7]


def test_a_pause_reads_nothing_until_it_ends(new_vm: Any) -> None:
    watched, drawn = played(new_vm(), " ", 0.5, 0.5, " ", 0.5, "q")
    assert watched.updates == 1 + 1
    assert drawn[1].paused


def test_a_new_interval_counts_from_now(new_vm: Any) -> None:
    watched, drawn = played(new_vm(), "s", "9", ENTER, 9.0, "q")
    assert drawn[-1].interval_s == 9.0
    assert watched.updates == 2


def test_so_many_updates_end_it(new_vm: Any) -> None:
    watched, _ = played(new_vm(), 0.5, 0.5, 0.5, updates=3)
    assert watched.updates == 4


def test_r_resets_the_model(new_vm: Any) -> None:
    from pvpmu.shared.liveview import EXIT_KEYS

    watched, _ = played(new_vm(exits=[{EXIT_KEYS[0]: 5}]), "r", "q")
    assert watched.model.vcpu_rows()[0].exit_total == 0


def test_blocks_are_drawn_where_the_encoding_has_them() -> None:
    class Console:
        def __init__(self, encoding: str) -> None:
            self.encoding = encoding

    assert "█" in letters_of(Console("utf-8"))  # type: ignore[arg-type]
    assert letters_of(Console("ascii")).isascii()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["dumb", "unknown"])
def test_a_dumb_terminal_is_not_drawn_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setenv("TERM", kind)
    assert not usable(Console(force_terminal=True))
