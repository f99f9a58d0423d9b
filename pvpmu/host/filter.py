"""The event filter of a VM: which events its vCPUs may count (KVM_SET_PMU_EVENT_FILTER).

Checks and meaning as ``kvm_vm_ioctl_set_pmu_event_filter`` and ``check_pmu_event_filter``; masked
entries as of KVM 6.3 (``Documentation/virt/kvm/api.rst`` 4.120). Where an event may start is the
vPMU's matter (:meth:`pvpmu.host.counters.Counters.reprogram`).
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass, field

from pvpmu.shared.errors import UsageError
from pvpmu.shared.units import U64_MASK

MAX_EVENTS = 300
MASKED_EVENTS = 1 << 0
"""Flag: entries carry a umask mask and may exclude."""
_SELECT = 0xFF
_MATCH_SHIFT, _MASK_SHIFT = 8, 56
_EXCLUDE = 1 << 55
_PLAIN_BITS = _SELECT | 0xFF << _MATCH_SHIFT
_MASKED_BITS = _PLAIN_BITS | 0xFF << _MASK_SHIFT | _EXCLUDE


class Action(enum.IntEnum):
    """What becomes of the events listed; the others get the opposite."""

    ALLOW = 0
    DENY = 1


class FilterError(UsageError):
    """A filter that KVM refuses; ``errno`` is EINVAL, or E2BIG for too many entries."""

    def __init__(self, number: int, message: str) -> None:
        self.errno = number
        super().__init__(message)


def masked_entry(select: int, mask: int, match: int, *, exclude: bool = False) -> int:
    """KVM_PMU_ENCODE_MASKED_ENTRY: umasks with ``umask & mask == match`` of one event select."""
    return select | match << _MATCH_SHIFT | (_EXCLUDE if exclude else 0) | mask << _MASK_SHIFT


@dataclass(frozen=True, slots=True)
class EventFilter:
    """struct kvm_pmu_event_filter.

    ``action``: an :class:`Action`. ``events``: at most 300 entries of 64 bits. Without the flag
    MASKED_EVENTS an entry is event select 7:0 and umask 15:8; one with other bits can match nothing
    and is kept out without an error, as KVM must. With it: select 7:0, umask match 15:8, exclude
    55, umask mask 63:56. ``fixed_counters``: bit j lists fixed counter j; bits of absent counters
    mean nothing. GP counters go by ``events`` alone, fixed ones by ``fixed_counters`` alone.

    Raises :class:`FilterError`.
    """

    action: int
    events: tuple[int, ...] = ()
    fixed_counters: int = 0
    flags: int = 0
    _listed: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.action not in tuple(Action):
            raise FilterError(errno.EINVAL, f"filter action: {self.action} is not 0 or 1")
        if self.flags & ~MASKED_EVENTS:
            raise FilterError(errno.EINVAL, f"filter flags: {self.flags:#x} has bits beyond 0x1")
        if len(self.events) > MAX_EVENTS:
            raise FilterError(
                errno.E2BIG, f"filter entries: {len(self.events)} is more than {MAX_EVENTS}"
            )
        for number, entry in enumerate(self.events):
            self._check(number, entry)
        object.__setattr__(self, "_listed", self._umasks())

    def allows_event(self, eventsel: int) -> bool:
        """Whether a GP counter may count what ``eventsel`` selects; only bits 15:0 matter."""
        listed = self._listed.get(eventsel & _SELECT, 0) >> (eventsel >> _MATCH_SHIFT & 0xFF) & 1
        return bool(listed) == (self.action == Action.ALLOW)

    def allows_fixed(self, number: int) -> bool:
        """Whether fixed counter ``number`` may count."""
        return bool(self.fixed_counters >> number & 1) == (self.action == Action.ALLOW)

    def _check(self, number: int, entry: int) -> None:
        allowed = _MASKED_BITS if self.flags & MASKED_EVENTS else U64_MASK
        if entry & ~allowed:
            raise FilterError(
                errno.EINVAL, f"filter entry {number}: {entry:#x} has bits outside {allowed:#x}"
            )

    def _umasks(self) -> dict[int, int]:
        """Event select to the set of its listed umasks, as a bitmap of 256 bits.

        Sorted out here once: a look-up then costs the same for 1 entry and for 300.
        """
        includes: dict[int, int] = {}
        excludes: dict[int, int] = {}
        for entry in self.events:
            masked = bool(self.flags & MASKED_EVENTS)
            if not masked and entry & ~_PLAIN_BITS:
                continue
            mask = entry >> _MASK_SHIFT if masked else 0xFF
            into = excludes if masked and entry & _EXCLUDE else includes
            select = entry & _SELECT
            into[select] = into.get(select, 0) | _matching(mask, entry >> _MATCH_SHIFT & 0xFF)
        return {select: umasks & ~excludes.get(select, 0) for select, umasks in includes.items()}


def _matching(mask: int, match: int) -> int:
    """Bitmap of the umasks with ``umask & mask == match``."""
    if mask == 0xFF:
        return 1 << match
    return sum(1 << umask for umask in range(0x100) if umask & mask == match)
