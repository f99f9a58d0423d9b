"""Delta debugging: the smallest program that still shows a difference."""

from __future__ import annotations

from collections.abc import Callable

from pvpmu.conformance.program import Program, Where


def shrink(program: Program, fails: Callable[[Program], bool]) -> Program:
    """Remove what is not needed, in ever smaller pieces; ``fails`` must hold for ``program``.

    Afterwards no single operation can be removed, and no value of a counter of events halved.
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
    for body in (program.ops, *program.handlers):
        for position, (name, fields) in enumerate(body):
            for key in [key for key, value in fields.items() if name == "run" and value]:
                for fewer in (0, 1, int(fields[key]) // 2):
                    if fewer < body[position][1][key]:
                        kept = body[position]
                        body[position] = name, kept[1] | {key: type(fields[key])(fewer)}
                        if not fails(program):
                            body[position] = kept
    return program
