"""A trace's PMU accesses, thread by thread, in files that a guest's worker plays.

A record is 16 bytes: what (see :mod:`pvpmu.trace.player`), address, value. A handler stands behind
the PMI that brings it; one that was entered with the PMU disabled, behind the access that disabled
it, whose exit finds the overflow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import FIXED_BASE, MAX_FIXED, PmuCpuid
from pvpmu.trace.evaluate import (
    assumed_before,
    ecx_of,
    first_status,
    prepare,
    rdpmc_counters,
    started_by,
)
from pvpmu.trace.eventtext import value_of
from pvpmu.trace.names import RDPMC, WRITE
from pvpmu.trace.operations import Context, Operation
from pvpmu.trace.player import END, LATE, PMI, Step
from pvpmu.trace.tokens import Token, fields_of

RECORD = struct.Struct("<BxxxIQ")
_BUFFER = 4096
"""Records kept before they are written: files are opened only then, as there may be many."""
_READ = RECORD.size * 4096


class Spool:
    """Writes one thread's accesses; a sink of its tracker.

    ``accesses``: how many; ``operations``: whether there is any. ``assumed``: counters, by global
    index, that were running when the trace began, as what they did before they were started shows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.accesses = 0
        self.operations = 0
        self.assumed = Context()
        self._known = 0
        self._pending: tuple[int, list[Step]] | None = None
        self._buffer: list[bytes] = []

    def __call__(
        self, operation: Operation | None, tokens: list[Token], values: list[bytes]
    ) -> None:
        """Take an operation, or accesses that are in none."""
        self.accesses += len(tokens)
        if operation is None:
            self._flush_pending()
            self._write(_plain(tokens, values))
            return
        self.operations += 1
        self._learn(operation)
        body = _body(operation, tokens, values)
        status = first_status(operation)
        if operation.kind == "pmi_disabled":
            self._flush_pending()
            self._pending = status, body
        elif operation.kind in ("pmi", "pmi_spurious"):
            self._flush_pending()
            self._write([Step(PMI, 0, status), *body, Step(END)])
        elif self._pending is not None:
            self._write(_with_late(self._pending, body))
            self._pending = None
        else:
            self._write(body)

    def close(self) -> None:
        """Write what is left."""
        self._flush_pending()
        self._store()

    def preamble(self, cpuid: PmuCpuid) -> list[Step]:
        """What makes the vCPU what it was when the trace began."""
        return list(prepare(self.assumed, self.assumed.counters, cpuid))

    def _learn(self, operation: Operation) -> None:
        """A counter that counts before anything started it was running from the beginning."""
        before = assumed_before(operation)
        new = before.counters & ~self._known
        nibbles = 0
        for j in range(MAX_FIXED):
            if new >> FIXED_BASE + j & 1:
                nibbles |= before.fixed_ctrl & 0xF << 4 * j
        selectors, fixed_ctrl = self.assumed
        self.assumed = Context(selectors | new & (1 << FIXED_BASE) - 1, fixed_ctrl | nibbles)
        self._known |= before.counters | started_by(operation)

    def _flush_pending(self) -> None:
        """A handler that no disabling followed: played where it stands."""
        if self._pending is not None:
            status, body = self._pending
            self._pending = None
            self._write([Step(PMI, 0, status), *body, Step(END)])

    def _write(self, steps: list[Step]) -> None:
        self._buffer += [RECORD.pack(*step) for step in steps]
        if len(self._buffer) >= _BUFFER:
            self._store()

    def _store(self) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(self._buffer))
        self._buffer.clear()


def read_spool(path: Path) -> Iterator[tuple[int, int, int]]:
    """The records of a file."""
    with path.open("rb") as file:
        while piece := file.read(_READ):
            yield from RECORD.iter_unpack(piece)


def _body(operation: Operation, tokens: list[Token], values: list[bytes]) -> list[Step]:
    indices = iter(rdpmc_counters(operation, assumed_before(operation)))
    return [
        Step(RDPMC, ecx_of(next(indices))) if op == RDPMC else Step(op, address, value_of(value))
        for (op, address, _), value in zip(map(fields_of, tokens), values, strict=True)
    ]


def _plain(tokens: list[Token], values: list[bytes]) -> list[Step]:
    """Accesses outside operations; which counter an RDPMC reads is not known: the first."""
    return [
        Step(RDPMC) if op == RDPMC else Step(op, address, value_of(value))
        for (op, address, _), value in zip(map(fields_of, tokens), values, strict=True)
    ]


def _with_late(pending: tuple[int, list[Step]], body: list[Step]) -> list[Step]:
    """An operation in which a handler came, found at the access that disables the PMU."""
    status, handler = pending
    at = body.index(next(s for s in body if s.what == WRITE and s.address == msr.GLOBAL_CTRL))
    head, rest = body[: at + 1], body[at + 1 :]
    if status:
        return [Step(LATE, 0, status), *head, *handler, Step(END), *rest]
    return [*head, Step(PMI, 0, 0), *handler, Step(END), *rest]


@dataclass(frozen=True, slots=True)
class SpooledThread:
    """One thread to replay: its file, and how to begin."""

    tid: int
    vcpu: int | None
    path: Path
    accesses: int
    preamble: tuple[Step, ...]
