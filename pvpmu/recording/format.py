"""The recording format, declared once: every number of a record and of a file.

What it looks like is in ``docs/recordings.md``.

All integers are little-endian. A record is RECORD_BYTES long::

    word 0  wall     CLOCK_MONOTONIC, ns
    word 1  now      the guest clock, ns; 0 where the recording side does not know it
    word 2  cycles   core cycles that the vCPU has retired since its RESET
    word 3  head     kind 7:0, code 15:8, flags 31:16, detail 63:32
    word 4  a
    word 5  b

The numbers are the file's: append only.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from pvpmu.shared.units import Cycles, Ns

VERSION = 1
FILE_MAGIC = b"PVPMUREC"
CHUNK_MAGIC = b"PVCK"
FILE_HEADER = struct.Struct("<8sIIII")
"""``magic``, ``version``, ``header_bytes``, ``record_bytes``, 0."""
CHUNK_HEADER = struct.Struct("<4sHHQQQ")
"""``magic``, ``type``, ``stream``, ``payload_bytes``, ``lost``: records of this stream lost until
here, 0."""
RECORD = struct.Struct("<6Q")
RECORD_BYTES = RECORD.size

_CODE_SHIFT, _FLAGS_SHIFT, _DETAIL_SHIFT = 8, 16, 32
_MASK_8, _MASK_16, _MASK_32 = 0xFF, 0xFFFF, 0xFFFF_FFFF


class Chunk(enum.IntEnum):
    """What a chunk of the file holds."""

    META = 1
    """JSON: the section's metadata and its streams. The first chunk of a section."""
    RECORDS = 2
    """Records of one stream."""
    END = 3
    """JSON: records written and lost by stream. The last chunk of a section that was closed."""


class Kind(enum.IntEnum):
    """What a record says. Up to 15 the host's, from 16 on the guest's, MARK both sides'."""

    EXIT = 1
    """VM-exit. code: exit reason; flags: EXIT_NMI_BLOCKED; detail: MSR address, ECX or leaf;
    a: value written."""
    MSR = 2
    """A trapped RDMSR or WRMSR was served. code: op; flags: FAULT; detail: MSR; a: value."""
    ENTRY = 3
    """VM-entry. code: reason of the exit that it ends; flags: the slot's reply flags; detail: the
    vector that is injected; a: the value that the exit read."""
    PERF_CALL = 4
    """A host perf call ended. code: kind of call (CALL_KINDS); flags: event kind 7:0 (NO_KIND: the
    silicon has no such), modes 9:8; detail: the host event's number; a: count or period; b: ns."""
    PMI = 5
    """code: :class:`Pmi`."""
    STATE = 6
    """code: :class:`Change`; flags: the :class:`State` after it; a: the page's generation."""
    MARK = 7
    """A CONTROL exit. code: :class:`pvpmu.shared.exits.Control`."""
    ACCESS = 16
    """An access of the guest's driver ended. code: op; flags: path 1:0, FAULT; detail: MSR address
    or ECX; a: value; b: how long it took, ns."""
    HANDLER_ENTRY = 17
    """The NMI handler begins. a: the interrupted instruction pointer."""
    HANDLER_EXIT = 18
    """It ends. flags: SPURIOUS; detail: status bits handled; b: how long it took, ns."""
    SAMPLE = 19
    """code: event number; a: instruction pointer; b: period."""
    OPERATION = 20
    """Something that perf does in the guest ended. code: index in OPERATIONS; b: ns."""


class Op(enum.IntEnum):
    """The instruction of an access."""

    RDMSR = 0
    WRMSR = 1
    RDPMC = 2


class Path(enum.IntEnum):
    """Where an access went."""

    PAGE = 0
    EXIT = 1
    SILICON = 2
    """A pass-through PMU: no exit, no page."""


class Pmi(enum.IntEnum):
    """What became of a PMI; the counts of :class:`pvpmu.host.pmi.PmiCounts`."""

    RAISED = 0
    COALESCED = 1
    DROPPED = 2
    STRAY = 3
    INJECTED = 4
    LATE = 5
    """Says of the injection before it that nothing was live."""


class Change(enum.IntEnum):
    """Why a page's state changed."""

    REGISTER = 0
    UNREGISTER = 1
    COMMIT = 2
    STOP = 3
    FREEZE = 4
    REFUSE = 5
    """A trapped write in FROZEN, a COMMIT mostly, was refused for a word of the page."""
    OTHER = 6
    """By something that is no exit of the guest's: a call of the VMM, say."""


class State(enum.IntEnum):
    """The state of a vCPU's page."""

    TRAP_ONLY = 0
    FROZEN = 1
    RUNNING = 2


OPERATIONS = ("tick", "sched_in", "sched_out", "rotation", "read")
EXIT_NMI_BLOCKED = 1 << 0
PATH_MASK = 0b11
FAULT = 1 << 2
SPURIOUS = 1 << 0
NO_KIND = 0xFF
MODES_SHIFT = 8


class Record(NamedTuple):
    """One record, taken apart. ``kind``: of :class:`Kind`, or a number of a later version's."""

    wall: Ns
    now: Ns
    cycles: Cycles
    kind: int
    code: int
    flags: int
    detail: int
    a: int
    b: int


def head_of(kind: int, code: int = 0, flags: int = 0, detail: int = 0) -> int:
    """Word 3. What does not fit in a field is cut: numbers of a guest may be anything."""
    return (
        kind
        | (code & _MASK_8) << _CODE_SHIFT
        | (flags & _MASK_16) << _FLAGS_SHIFT
        | (detail & _MASK_32) << _DETAIL_SHIFT
    )


def record_of(words: tuple[int, ...]) -> Record:
    """Take the six words of a record apart."""
    wall, now, cycles, head, a, b = words
    return Record(
        wall,
        now,
        cycles,
        head & _MASK_8,
        head >> _CODE_SHIFT & _MASK_8,
        head >> _FLAGS_SHIFT & _MASK_16,
        head >> _DETAIL_SHIFT,
        a,
        b,
    )
