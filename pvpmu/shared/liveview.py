"""What running hosts and guests publish for the live view: words in shared memory, declared once.

Two segments per VM, one for each side, so that a segment has one owner and a word one writer::

    /dev/shm/pvpmu.NAME.host-live     unless --no-publish: what the host counts of each vCPU
    /dev/shm/pvpmu.NAME.guest-live    only where latencies are recorded: what the guest times

Each begins with the words of its main process and goes on with an area for each vCPU, stored to by
that vCPU's worker alone. Counts only grow, so that a reader needs no lock: each word is whole, and
two of them may be of different instants. Pure: others map the words.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from pvpmu.shared import registers as msr
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import BUCKETS
from pvpmu.shared.layout import WORD_BYTES, Layout, Owner
from pvpmu.shared.page import Words
from pvpmu.shared.registers import BY_ADDRESS, Role

HOST_SIDE, GUEST_SIDE = "host-live", "guest-live"
VIEW_VERSION = 1
"""Of both layouts; another number means other words."""


class AccessPath(enum.IntEnum):
    """The way of an access. Append only: the numbers are in keys."""

    PAGE = 1
    """A load or a store of the page; no exit."""
    EXIT = 2
    """A VM-exit."""
    COMMIT = 3
    """The exit of a write that left FROZEN."""
    HANDLER = 4
    """Not an access: a whole PMI handler."""
    PASSED = 5
    """Reached the silicon without an exit (``mediated``)."""


class State(enum.IntEnum):
    """What a vCPU's accesses may do. Append only."""

    ABSENT = 0
    """No guest has come, or it uses fewer vCPUs."""
    TRAP_ONLY = 1
    """No page is registered: everything exits."""
    FROZEN = 2
    RUNNING = 3


class Status(enum.IntEnum):
    """What has become of a VM. Append only."""

    WAITING = 0
    """For its guest."""
    SERVING = 1
    DONE = 2
    """The guest said Bye."""
    LOST = 3
    """The guest has gone without Bye."""
    STOPPED = 4
    """The host was interrupted, or failed."""


class Key(NamedTuple):
    """What is counted or timed: an exit's reason number, its MSR address or RDPMC index, its path.

    ``address`` is 0 for other exits and for handlers, ``OTHER`` for what is no register.
    """

    # A tuple: a view looks thousands of them up at each update.

    reason: int
    address: int
    path: AccessPath

    def encode(self) -> int:
        """As one word, never 0: address 63:16, reason 15:8, path 7:0."""
        return self.address << 16 | self.reason << 8 | self.path

    @classmethod
    def decode(cls, word: int) -> Key:
        """Raises :class:`ValueError` for a path that does not exist."""
        return cls(word >> 8 & 0xFF, word >> 16, AccessPath(word & 0xFF))


OTHER = 0xFFFF_FFFF
"""Stands for every address that is no register."""
HANDLER_KEY = Key(0, 0, AccessPath.HANDLER)
PMI_WORDS = ("raised", "delivered", "coalesced", "dropped", "late", "stray")
"""As :class:`pvpmu.host.pmi.PmiCounts` names them."""

_MAY_COMMIT = (Role.EVTSEL, Role.FIXED_CTR_CTRL, Role.GLOBAL_CTRL)
MAY_COMMIT = frozenset(a for a, register in BY_ADDRESS.items() if register.role in _MAY_COMMIT)
"""MSR addresses whose write may leave FROZEN."""
_ADDRESSES = {
    ExitReason.MSR_READ: (*BY_ADDRESS, OTHER),
    ExitReason.MSR_WRITE: (*BY_ADDRESS, OTHER),
    ExitReason.RDPMC: (*msr.RDPMC_INDICES, OTHER),
}
_UNKNOWN_REASON = 0xFF
EXIT_KEYS = (
    *(
        Key(reason, address, AccessPath.EXIT)
        for reason in ExitReason
        if reason < ExitReason.FLOOR
        for address in _ADDRESSES.get(reason, (0,))
    ),
    *(Key(ExitReason.MSR_WRITE, address, AccessPath.COMMIT) for address in sorted(MAY_COMMIT)),
    Key(_UNKNOWN_REASON, 0, AccessPath.EXIT),
)
"""What a host counts, in the order of its words."""

# The host's segment ------------------------------------------------------------------------------

DESIGN_BYTES = 64
VM = Layout("pvpmu_live_vm", 4096)
VM.line(Owner.HOST)
VM_VERSION = VM.word("version", "VIEW_VERSION; stored last, 0 until the words are complete")
VM_VCPUS = VM.word("vcpus", "number of vCPU areas that follow")
VM_STATUS = VM.word("status", "what has become of the VM: Status")
VM_WANTS = VM.word("wants", "1: the guest is asked to record latencies")
VM_GUEST = VM.word("guest", "process id of the guest; 0 before it came")
VM_GUEST_VCPUS = VM.word("guest_vcpus", "vCPUs that the guest uses")
VM.line(Owner.HOST)
VM_DESIGN = VM.word("design", "name of the design, UTF-8, cut", count=DESIGN_BYTES // WORD_BYTES)

HOST_VCPU = Layout("pvpmu_live_host_vcpu", 4096)
HOST_VCPU.line(Owner.HOST)
HOST_STATE = HOST_VCPU.word("state", "State as of the last VM-entry")
HOST_GENERATION = HOST_VCPU.word("generation", "of the page's registration; 0 without one")
HOST_VCPU.line(Owner.HOST)
HOST_PMI = HOST_VCPU.word(
    "pmi", f"PMIs since the host began: {', '.join(PMI_WORDS)}", count=len(PMI_WORDS)
)
HOST_VCPU.line(Owner.HOST)
HOST_EXITS = HOST_VCPU.word(
    "exits", "exits since the host began, by EXIT_KEYS", count=len(EXIT_KEYS)
)

# The guest's segment -----------------------------------------------------------------------------

SERIES = 64
"""Histograms of a vCPU: a driver with 8 GP and 4 fixed counters needs about 40."""

GUEST_VM = Layout("pvpmu_live_guest", 4096)
GUEST_VM.line(Owner.GUEST)
GUEST_VERSION = GUEST_VM.word("version", "VIEW_VERSION; stored last")
GUEST_VCPUS = GUEST_VM.word("vcpus", "number of vCPU areas that follow")

_GUEST_HEAD_BYTES = 4096
GUEST_VCPU = Layout("pvpmu_live_guest_vcpu", _GUEST_HEAD_BYTES + SERIES * BUCKETS * WORD_BYTES)
GUEST_VCPU.line(Owner.GUEST)
GUEST_TIMER = GUEST_VCPU.word("timer_ns", "reading the clock twice: subtracted from each value, ns")
GUEST_RECORD = GUEST_VCPU.word("record_ns", "what recording adds to an access, ns")
GUEST_FLOOR = GUEST_VCPU.word("floor_ns", "bare round trip (p50), ns; 0 where there is none")
GUEST_SPURIOUS = GUEST_VCPU.word("spurious", "handlers that found no overflow")
GUEST_DROPPED = GUEST_VCPU.word("dropped", "values not recorded since all series are taken")
GUEST_VCPU.line(Owner.GUEST)
GUEST_KEYS = GUEST_VCPU.word("keys", "Key of each series; stored last, 0 is free", count=SERIES)
GUEST_VCPU.line(Owner.GUEST)
GUEST_COUNTS = GUEST_VCPU.word(
    "counts", "histogram of each series, by pvpmu.shared.histogram", count=SERIES * BUCKETS
)


def host_bytes(vcpus: int) -> int:
    """Size of a host's segment, without its header."""
    return VM.size + vcpus * HOST_VCPU.size


def guest_bytes(vcpus: int) -> int:
    """Size of a guest's segment, without its header: about 1.7 MB for each vCPU."""
    return GUEST_VM.size + vcpus * GUEST_VCPU.size


def host_area(vcpu: int) -> slice:
    """Where a vCPU's words are in a host's segment."""
    return _area(VM, HOST_VCPU, vcpu)


def guest_area(vcpu: int) -> slice:
    """Where a vCPU's words are in a guest's segment."""
    return _area(GUEST_VM, GUEST_VCPU, vcpu)


def _area(head: Layout, area: Layout, vcpu: int) -> slice:
    first = (head.size + vcpu * area.size) // WORD_BYTES
    return slice(first, first + area.size // WORD_BYTES)


def begin_host(words: Words, *, vcpus: int, design: str, wants: bool) -> None:
    """Fill a host's zeroed segment; ``wants``: the guest is to record latencies."""
    name = design.encode()[:DESIGN_BYTES].ljust(DESIGN_BYTES, b"\0")
    for number in range(DESIGN_BYTES // WORD_BYTES):
        at = number * WORD_BYTES
        words[VM_DESIGN + number] = int.from_bytes(name[at : at + WORD_BYTES], "little")
    words[VM_VCPUS] = vcpus
    words[VM_WANTS] = wants
    words[VM_VERSION] = VIEW_VERSION


def begin_guest(words: Words, *, vcpus: int) -> None:
    """Fill a guest's zeroed segment."""
    words[GUEST_VCPUS] = vcpus
    words[GUEST_VERSION] = VIEW_VERSION
