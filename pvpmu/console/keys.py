"""What keys do to the view: kvm_stat's keys. Pure: a key in, the next view out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

SORTS = ("total", "rate", "p50", "p99", "max", "name", "address")
SHORTEST_S, LONGEST_S = 0.1, 3600.0
ENTER, ESCAPE, BACKSPACE = "enter", "escape", "backspace"

_QUESTIONS = {
    "s": f"interval, s ({SHORTEST_S:g} to {LONGEST_S:g}): ",
    "f": "filter registers by regular expression (empty: all): ",
    "p": "vCPU (empty: all): ",
}
HELP = (
    ("q", "quit; the terminal is as it was before"),
    ("h", "this help, and back"),
    ("r", "reset: totals and histograms begin at 0 here"),
    ("s", "set the interval between two updates, s"),
    ("f", "filter registers by a regular expression: name, address, op, path"),
    ("o", f"order of the registers: {', '.join(SORTS)}"),
    ("p", "choose the vCPU of registers and latencies"),
    ("space", "pause, and go on"),
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question that is being answered: the key that asked it, and the answer so far."""

    key: str
    answer: str = ""

    @property
    def line(self) -> str:
        """As it is shown."""
        return _QUESTIONS[self.key] + self.answer


@dataclass(frozen=True, slots=True)
class View:
    """What is shown, and how. ``vcpu``: None for all. ``note``: said until the next key."""

    interval_s: float
    sort: str = SORTS[0]
    pattern: str = ""
    vcpu: int | None = None
    paused: bool = False
    help: bool = False
    prompt: Prompt | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pressed:
    """What a key led to."""

    view: View
    quit: bool = False
    reset: bool = False


def interval_problem(seconds: float) -> str:
    """Why an interval cannot be, empty if it can."""
    if SHORTEST_S <= seconds <= LONGEST_S:
        return ""
    return f"interval {seconds:g} s, expected {SHORTEST_S:g} to {LONGEST_S:g} s"


def press(view: View, key: str, vcpus: int) -> Pressed:
    """The view after a key, a letter or ENTER, ESCAPE, BACKSPACE, where there are so many vCPUs."""
    view = replace(view, note="")
    if view.prompt is not None:
        return Pressed(_answer(view, view.prompt, key, vcpus))
    match key:
        case "q":
            return Pressed(view, quit=True)
        case "h" | "?":
            return Pressed(replace(view, help=not view.help))
        case "r":
            return Pressed(replace(view, note="totals begin at 0 here"), reset=True)
        case "s" | "f" | "p":
            return Pressed(replace(view, prompt=Prompt(key), help=False))
        case "o":
            sort = SORTS[(SORTS.index(view.sort) + 1) % len(SORTS)]
            return Pressed(replace(view, sort=sort, note=f"order: {sort}"))
        case " ":
            return Pressed(replace(view, paused=not view.paused))
        case _ if key == ESCAPE:
            return Pressed(replace(view, help=False))
        case _:
            return Pressed(view)


def _answer(view: View, prompt: Prompt, key: str, vcpus: int) -> View:
    match key:
        case _ if key == ENTER:
            return _accepted(replace(view, prompt=None), prompt, vcpus)
        case _ if key == ESCAPE:
            return replace(view, prompt=None)
        case _ if key == BACKSPACE:
            return replace(view, prompt=replace(prompt, answer=prompt.answer[:-1]))
        case _ if len(key) == 1:
            return replace(view, prompt=replace(prompt, answer=prompt.answer + key))
        case _:
            return view


def _accepted(view: View, prompt: Prompt, vcpus: int) -> View:
    answer = prompt.answer.strip()
    if prompt.key == "s":
        return _interval(view, answer)
    if prompt.key == "f":
        try:
            re.compile(answer)
        except re.error as error:
            return replace(view, note=f"{answer!r} is no regular expression: {error}")
        return replace(view, pattern=answer)
    if not answer:
        return replace(view, vcpu=None)
    if answer.isascii() and answer.isdecimal() and int(answer) < vcpus:
        return replace(view, vcpu=int(answer))
    return replace(view, note=f"vCPU {answer!r}, expected 0 to {vcpus - 1}")


def _interval(view: View, answer: str) -> View:
    if not answer:
        return view
    try:
        seconds = float(answer)
    except ValueError:
        return replace(view, note=f"{answer!r} is no number of seconds")
    problem = interval_problem(seconds)
    return replace(view, note=problem) if problem else replace(view, interval_s=seconds)
