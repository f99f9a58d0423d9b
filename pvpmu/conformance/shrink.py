"""Delta debugging: the smallest program that still shows a difference."""

from __future__ import annotations

from collections.abc import Callable

from pvpmu.conformance.oracle import EVENTS
from pvpmu.conformance.program import Program, Where


def shrink(program: Program, fails: Callable[[Program], bool]) -> Program:
    """Remove what is not needed, in ever smaller pieces; ``fails`` must hold for ``program``.

    Afterwards no single operation can be removed.
    """
    size = max(len(program.ops) // 2, 1)
    while True:
        smaller = _without_pieces(program, size, fails)
        if smaller is None:
            if size == 1:
                break
            size //= 2
        else:
            program = smaller
    return _with_smaller_counts(program, fails)


def _places(program: Program) -> list[Where]:
    handlers = [(n, i) for n, body in enumerate(program.handlers) for i in range(len(body))]
    return [*((-1, i) for i in range(len(program.ops))), *handlers]


def _without_pieces(
    program: Program, size: int, fails: Callable[[Program], bool]
) -> Program | None:
    """The first smaller program, from the end, that fails without ``size`` operations."""
    places = _places(program)
    for end in range(len(places), 0, -size):
        candidate = program.without(set(places[max(end - size, 0) : end]))
        if fails(candidate):
            return candidate
    return None


def _with_smaller_counts(program: Program, fails: Callable[[Program], bool]) -> Program:
    """With 0, 1 or half the events in each run, where that still fails."""
    program = program.without(set())
    for body in (program.ops, *program.handlers):
        for position, (name, fields) in enumerate(body):
            for event in EVENTS if name == "run" else ():
                for fewer in (0, 1, fields[event] // 2):
                    kept = body[position]
                    if fewer < kept[1][event]:
                        body[position] = name, kept[1] | {event: fewer}
                        if not fails(program):
                            body[position] = kept
    return program
