"""Names for the plain integers that cross module borders, so that signatures state units."""

from typing import TypeAlias

Ns: TypeAlias = int
"""Nanoseconds of the guest clock or of wall time."""

Cycles: TypeAlias = int
"""Retired core cycles: the time base of every counter."""

MsrAddress: TypeAlias = int
"""An MSR address, 32 bits."""

NS_PER_S = 1_000_000_000
U64_MASK = (1 << 64) - 1
