"""The view on a terminal: draw, wait for a key or the next interval, draw again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rich.console import Console

from pvpmu.console.chart import ASCII, BLOCKS
from pvpmu.console.keys import View, press
from pvpmu.console.model import Model
from pvpmu.console.screen import picture
from pvpmu.console.terminal import Keyboard, in_foreground, keyboard

_SVG_WIDTH, _SVG_HEIGHT = 100, 30


class Watched(Protocol):
    """What is drawn, and how it is read again."""

    model: Model

    def update(self) -> None: ...


def usable(console: Console) -> bool:
    """Whether there is a terminal that can be drawn on, and that this process may draw on.

    FORCE_COLOR makes rich take a pipe for a terminal: the file is asked, too.
    """
    if not console.is_terminal or console.is_dumb_terminal or not console.file.isatty():
        return False
    return in_foreground(console.file.fileno())


def run_screen(console: Console, watch: Watched, view: View, updates: int | None) -> None:
    """Draw until q, Ctrl-C or so many updates; the terminal is then as it was before."""
    with keyboard() as keys, console.screen(hide_cursor=True) as screen:

        def draw(shown: View) -> None:
            width, height = console.size
            screen.update(picture(watch.model, shown, width, height, letters_of(console)))

        loop(watch, keys, draw, view, time.monotonic, updates)


def loop(
    watch: Watched,
    keys: Keyboard,
    draw: Callable[[View], None],
    view: View,
    clock: Callable[[], float],
    updates: int | None,
) -> View:
    """Keys change the view at once; what is shown is read again at each interval.

    ``clock`` returns seconds; ``keys`` waits. Returns the last view.
    """
    done = 0
    due = clock() + view.interval_s
    draw(view)
    while updates is None or done < updates:
        pressed = keys.wait(due - clock())
        for key in pressed:
            result = press(view, key, watch.model.vcpus)
            if result.quit:
                return result.view
            if result.reset:
                watch.model.reset()
            if result.view.interval_s != view.interval_s:
                due = clock() + result.view.interval_s
            view = result.view
        if clock() >= due:
            if pressed:
                # Beside busy vCPUs reading takes long: a key is answered before it.
                draw(view)
            # From when it was due: to be woken late must not make every later update late.
            due += view.interval_s
            if due <= clock():
                due = clock() + view.interval_s
            done += 1
            if not view.paused:
                watch.update()
        draw(view)
    return view


def letters_of(console: Console) -> str:
    """What bars are drawn with: blocks where the terminal's encoding has them."""
    return BLOCKS if console.encoding.lower().startswith("utf") else ASCII


def write_svg(path: Path, model: Model, view: View) -> None:
    """The picture as SVG, as a terminal of a README's width would show it."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(
            record=True, width=_SVG_WIDTH, height=_SVG_HEIGHT, file=nowhere, force_terminal=True
        )
        console.print(picture(model, view, _SVG_WIDTH, _SVG_HEIGHT, BLOCKS))
        path.write_text(console.export_svg(title="pvpmu top"), "utf-8")
