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
_BUFFER = RECORD.size * 4096
"""Bytes kept before they are written: files are opened only then, as there may be many."""
_ALL_BUFFERS = 1 << 24
"""Bytes that all spools keep together."""
_READ = RECORD.size * 4096


class Kept:
    """What all spools of a trace keep in memory, which their number must not decide."""

    def __init__(self) -> None:
        self._bytes = 0
        self._spools: list[Spool] = []

    def join(self, spool: Spool) -> None:
        """One more that keeps something."""
        self._spools.append(spool)

    def count(self, size: int) -> None:
        """A spool keeps so many bytes more, or less; where they are too many, all are written."""
        self._bytes += size
        if size > 0 and self._bytes >= _ALL_BUFFERS:
            for spool in self._spools:
                spool.store()


class Spool:
    """Writes one thread's accesses; a sink of its tracker.

    ``kept``: shared by all spools of a trace.
    ``accesses``: how many; ``operations``: whether there is any. ``assumed``: counters, by global
    index, that were running when the trace began, as what they did before they were started shows.
    """

    def __init__(self, path: Path, kept: Kept) -> None:
        self.path = path
        self.accesses = 0
        self.operations = 0
        self.assumed = Context()
        self._known = 0
        self._pending: tuple[int, list[Step]] | None = None
        self._buffer = bytearray()
        self._kept = kept
        kept.join(self)

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
        self.path.touch()
        self.store()

    def store(self) -> None:
        """Write what is kept."""
        if not self._buffer:
            return
        with self.path.open("ab") as file:
            file.write(self._buffer)
        size = len(self._buffer)
        self._buffer.clear()
        self._kept.count(-size)

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
        records = b"".join([RECORD.pack(*step) for step in steps])
        self._buffer += records
        self._kept.count(len(records))
        if len(self._buffer) >= _BUFFER:
            self.store()


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
