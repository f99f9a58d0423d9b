"""What was read of a VM at one instant: words in, values out. Pure.

A guest stores to its words as it likes: nothing here trusts more of them than that they are 64-bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress

from pvpmu.shared import liveview
from pvpmu.shared.histogram import BUCKETS, TOP_BITS
from pvpmu.shared.layout import WORD_BYTES
from pvpmu.shared.liveview import EXIT_KEYS, PMI_WORDS, Key, State, Status
from pvpmu.shared.units import Ns

MOST = 1 << 51
"""What a guest may say that it counted, of a series in all: a double holds it exactly, the sum of
MAX_VCPUS (1024) vCPUs is below 2**62, from which on hdrhistogram's encoding loses or ends it, and
an access every 100 ns takes 7 years to get there."""
_LONGEST_NS = 1 << TOP_BITS
_STATES = {int(state): state for state in State}
_STATUSES = {int(status): status for status in Status}
GUEST_HEAD = liveview.GUEST_COUNTS
"""Words of a guest's area before its histograms."""
_EXITS = slice(liveview.HOST_EXITS, liveview.HOST_EXITS + len(EXIT_KEYS))
_BLOCK = 128
"""Buckets that are looked at together: most histograms have values in few of the 26 blocks."""
_PMIS = slice(liveview.HOST_PMI, liveview.HOST_PMI + len(PMI_WORDS))

Buckets = Mapping[int, int]
"""Counts by bucket (:func:`pvpmu.shared.histogram.bucket_of`); none is 0."""


@dataclass(frozen=True, slots=True)
class GuestPart:
    """What a vCPU's guest recorded. ``timer_ns``, ``record_ns``, ``floor_ns``: see GUEST_VCPU.

    ``counts``: values in each of the ``series``. ``refused``: how many words and series said more
    than can be (MOST, or a time that no histogram holds); they count as 0, and as not there.
    """

    timer_ns: Ns = 0
    record_ns: Ns = 0
    floor_ns: Ns = 0
    spurious: int = 0
    dropped: int = 0
    refused: int = 0
    series: Mapping[Key, Buckets] = field(default_factory=dict)
    counts: Mapping[Key, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VcpuSnapshot:
    """One vCPU. ``pmis``: by PMI_WORDS; ``exits``: by key, none is 0; ``guest``: if it records."""

    number: int
    state: State
    generation: int
    pmis: Mapping[str, int]
    exits: Mapping[Key, int]
    guest: GuestPart | None


@dataclass(frozen=True, slots=True)
class VmSnapshot:
    """One VM. ``lives``: whether its host does. ``guest``: its process id, 0 before it came.

    ``used``: how many of its vCPUs the guest uses, the first ones; all before it came. ``wants``:
    whether the host asks it to record latencies.
    """

    name: str
    design: str
    status: Status
    lives: bool
    guest: int
    used: int
    vcpus: Sequence[VcpuSnapshot]
    wants: bool = False

    @property
    def records(self) -> bool:
        """Whether the guest records latencies."""
        return any(vcpu.guest is not None for vcpu in self.vcpus)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return not self.lives or self.status not in (Status.WAITING, Status.SERVING)

    @property
    def condition(self) -> str:
        """What the VM is doing, or how it ended."""
        match self.status:
            case Status.WAITING:
                return "waiting for a guest" if self.lives else "host ended: no guest came"
            case Status.SERVING:
                return f"guest {self.guest}" if self.lives else "host lost"
            case Status.DONE:
                return "host ended: guest done"
            case Status.LOST:
                return "host ended: peer lost"
            case Status.STOPPED:
                return "host ended"

    def state_of(self, vcpu: VcpuSnapshot) -> str:
        """What a vCPU's row says of its state."""
        if not self.ended or vcpu.state is State.ABSENT:
            return _STATE_NAMES[vcpu.state]
        match self.status:
            case Status.LOST:
                return "peer lost"
            case Status.SERVING:
                return "host lost"
            case _:
                return "ended"


_STATE_NAMES = {
    State.ABSENT: "-",
    State.TRAP_ONLY: "trap-only",
    State.FROZEN: "FROZEN",
    State.RUNNING: "RUNNING",
}


def design_of(words: Sequence[int]) -> str:
    """The design's name in a VM's words."""
    first = liveview.VM_DESIGN
    raw = b"".join(
        word.to_bytes(WORD_BYTES, "little")
        for word in words[first : first + liveview.DESIGN_BYTES // WORD_BYTES]
    )
    text = raw.rstrip(b"\0").decode("utf-8", "replace")
    return "".join(letter for letter in text if letter.isprintable())


def status_of(words: Sequence[int]) -> Status:
    """What has become of a VM."""
    return _STATUSES.get(words[liveview.VM_STATUS], Status.STOPPED)


def vcpu_of(number: int, words: Sequence[int], guest: GuestPart | None) -> VcpuSnapshot:
    """A vCPU from its words of the host's segment."""
    return VcpuSnapshot(
        number=number,
        state=_STATES.get(words[liveview.HOST_STATE], State.ABSENT),
        generation=words[liveview.HOST_GENERATION],
        pmis=dict(zip(PMI_WORDS, words[_PMIS], strict=True)),
        exits={key: count for key, count in zip(EXIT_KEYS, words[_EXITS], strict=True) if count},
        guest=guest,
    )


def guest_of(words: Sequence[int], histogram: Callable[[int], Sequence[int]]) -> GuestPart:
    """A vCPU from the GUEST_HEAD words of the guest's segment.

    ``histogram`` reads the BUCKETS words of a series by number.
    """
    refused = 0

    def checked(word: int, most: int) -> int:
        nonlocal refused
        if words[word] <= most:
            return words[word]
        refused += 1
        return 0

    series, totals = {}, {}
    for number in range(liveview.SERIES):
        word = words[liveview.GUEST_KEYS + number]
        if not word:
            break
        try:
            key = Key.decode(word)
        except ValueError:
            continue
        counts = histogram(number)
        assert len(counts) == BUCKETS
        filled = _filled(counts)
        total = sum(filled.values())
        if total > MOST:
            refused += 1
            continue
        series[key], totals[key] = filled, total
    return GuestPart(
        timer_ns=checked(liveview.GUEST_TIMER, _LONGEST_NS),
        record_ns=checked(liveview.GUEST_RECORD, _LONGEST_NS),
        floor_ns=checked(liveview.GUEST_FLOOR, _LONGEST_NS),
        spurious=checked(liveview.GUEST_SPURIOUS, MOST),
        dropped=checked(liveview.GUEST_DROPPED, MOST),
        # Last: Python evaluates in this order, and those before may add to it.
        refused=refused,
        series=series,
        counts=totals,
    )


def _filled(counts: Sequence[int]) -> Buckets:
    """The buckets that hold any value."""
    found: dict[int, int] = {}
    for first in range(0, BUCKETS, _BLOCK):
        block = counts[first : first + _BLOCK]
        if any(block):
            buckets = compress(range(first, first + _BLOCK), block)
            found.update(zip(buckets, filter(None, block), strict=True))
    return found
