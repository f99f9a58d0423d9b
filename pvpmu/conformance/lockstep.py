"""One program on the oracle, the trap path and both page paths: what each guest saw, compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pvpmu.conformance.ops import PathName
from pvpmu.conformance.oracle import DONE, Fields, Oracle, Seen
from pvpmu.conformance.program import OF_PAGE, Player, Program, Trace, Where
from pvpmu.conformance.target import Target
from pvpmu.conformance.vector import PATHS


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that ``path``'s guest saw otherwise than the oracle."""

    path: PathName
    where: Where
    op: str
    expected: str
    actual: str

    def __str__(self) -> str:
        n, position = self.where
        place = f"op {position}" if n < 0 else f"handler of NMI {n}, op {position}"
        return f"{self.path}, {place} ({self.op}): expected {self.expected}, actual {self.actual}"


def expected_trace(program: Program) -> Trace:
    """What the oracle says that a guest sees."""
    machine = Oracle(program.config)

    def do(name: str, fields: Fields, on_nmi: Callable[[], None]) -> Seen:
        return machine.op("restore" if name == "migrate" else name, fields, on_nmi)

    return Player(program, do).play()


def actual_trace(program: Program, path: PathName, target: Target) -> Trace:
    """What a target's guest sees on ``path``; raises what the target raises."""
    target.reset(program.config | {"freeze": path == "page+freeze"})
    if path != "trap":
        target.op("register", 0, {}, _no_nmi)

    def do(name: str, fields: Fields, on_nmi: Callable[[], None]) -> Seen:
        if path == "trap" and name in OF_PAGE:
            return DONE

        def call_back(_: int) -> None:
            on_nmi()

        if name == "migrate":
            target.op("save", 0, {"name": "moved"}, call_back)
            name, fields = "restore", {"name": "moved", **fields}
        reply = target.op(name, 0, fields, call_back)
        return reply.value, reply.fault, reply.refused

    return Player(program, do).play()


def compare(
    program: Program, target: Target, paths: tuple[PathName, ...] = PATHS
) -> Difference | None:
    """The first difference between the oracle and the target on one of ``paths``."""
    expected = expected_trace(program)
    for path in paths:
        try:
            actual = actual_trace(program, path, target)
        except Exception as error:  # noqa: BLE001 (whatever a target raises is a difference)
            return Difference(
                path, (-1, 0), "program", "no error", f"{type(error).__name__}: {error}"
            )
        if actual != expected:
            return _first(path, expected, actual)
    return None


def _first(path: PathName, expected: Trace, actual: Trace) -> Difference:
    for theirs, ours in zip(expected, actual, strict=False):
        if theirs != ours:
            same = theirs[:2] == ours[:2]
            return Difference(
                path, theirs[0], theirs[1], _text(theirs[2]), _text(ours[2]) if same else ours[1]
            )
    at = (expected if len(expected) > len(actual) else actual)[min(len(expected), len(actual))]
    more = len(expected) > len(actual)
    return Difference(
        path, at[0], at[1], at[1] if more else "nothing more", "nothing more" if more else at[1]
    )


def _text(seen: Seen) -> str:
    value, fault, refused = seen
    if fault or refused:
        return "#GP" if fault else "refused"
    return "done" if value is None else hex(value)


def _no_nmi(_: int) -> None:
    return None
