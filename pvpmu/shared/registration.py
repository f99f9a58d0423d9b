"""MSR_PVPMU_PAGE and MSR_PVPMU_STATUS: the fields of the one, the codes of the other.

Source: docs/protocol.md, sections 1, 2 and 16.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pvpmu.shared import page


class Registration(enum.IntEnum):
    """What MSR_PVPMU_STATUS reads after a write to MSR_PVPMU_PAGE. Append only."""

    NONE = 0
    OK = 1
    OUTSIDE_MEMORY = 2
    UNKNOWN_FEATURE = 3
    MISSING_FEATURE = 4
    WRONG_VERSION = 5


ENABLE = 1 << 0
"""MSR_PVPMU_PAGE bit 0: register; clear: unregister."""
VERSION_SHIFT = 8
"""MSR_PVPMU_PAGE bits 11:8: the page version that the guest wants."""
_VERSION_MASK = 0xF
_FEATURES = page.FEATURES_OPTIONAL | page.FEATURES_REQUIRED
_ADDRESS = ~(page.PAGE_SIZE - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A value of MSR_PVPMU_PAGE that registers.

    ``address``: guest-physical, of a page; ``version`` 1-15; ``features`` at their bit positions.
    """

    address: int
    version: int
    features: int

    def encode(self) -> int:
        """The MSR's value."""
        return self.address | self.version << VERSION_SHIFT | self.features | ENABLE

    @classmethod
    def decode(cls, value: int) -> Request | None:
        """Read a written value (64 bits); None when it unregisters."""
        if not value & ENABLE:
            return None
        return cls(
            address=value & _ADDRESS,
            version=value >> VERSION_SHIFT & _VERSION_MASK,
            features=value & _FEATURES,
        )


def check(request: Request, *, memory_bytes: int, offered: int) -> Registration:
    """The first reason to refuse, or OK (rule REG-3)."""
    if request.address + page.PAGE_SIZE > memory_bytes:
        return Registration.OUTSIDE_MEMORY
    if request.version != page.PAGE_VERSION:
        return Registration.WRONG_VERSION
    if request.features & ~offered:
        return Registration.UNKNOWN_FEATURE
    if offered & page.FEATURES_REQUIRED & ~request.features:
        return Registration.MISSING_FEATURE
    return Registration.OK


def versions_leaf() -> int:
    """EAX of the feature leaf: lowest page version 7:0, highest 15:8."""
    return page.PAGE_VERSION | page.PAGE_VERSION << 8


def speaks(versions: int, version: int) -> bool:
    """Whether EAX of the feature leaf includes ``version``."""
    return versions & 0xFF <= version <= versions >> 8 & 0xFF
