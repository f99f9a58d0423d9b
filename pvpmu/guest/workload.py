"""The profiled program: a deterministic stream of retired events, in phases, integers only.

**Invariants**: the same seed gives the same stream on any machine; what a span of cycles retires
does not depend on how the span is cut up.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pvpmu.shared.events import INSTRUCTIONS, KINDS
from pvpmu.shared.units import NS_PER_S, Cycles, Ns

RATE_ONE = 1 << 32
"""Rates are counts per cycle in 32.32 fixed point."""

_CODE = 0x40_1000
_PHASE_BYTES = 0x1000


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of program with constant rates: ``cycles`` long, ``rates`` per event kind."""

    cycles: Cycles
    rates: tuple[int, ...]


def make_phases(
    seed: int,
    *,
    base: Sequence[int],
    shortest: Cycles,
    longest: Cycles,
    spread_permille: int,
    count: int,
) -> list[Phase]:
    """Draw ``count`` phases around the ``base`` rates (32.32), each rate within the spread."""
    draw = random.Random(seed).getrandbits
    phases = []
    for _ in range(count):
        cycles = shortest + draw(64) % (longest - shortest + 1)
        rates = tuple(
            rate + rate * (draw(64) % (2 * spread_permille + 1) - spread_permille) // 1000
            for rate in base
        )
        phases.append(Phase(cycles, (RATE_ONE, *rates[1:])))
    return phases


class Workload:
    """Runs phases in a circle. ``hz`` is core cycles per second of guest clock."""

    def __init__(self, phases: Sequence[Phase], hz: int) -> None:
        self._phases = phases
        self._hz = hz
        self._at = 0
        self._left = phases[0].cycles
        self._rates = phases[0].rates
        self._fractions = [0] * KINDS
        self._instructions = 0
        self._halted: Ns = 0
        self.cycles: Cycles = 0

    @property
    def now(self) -> Ns:
        """Guest clock: nanoseconds since start."""
        return self._halted + self.cycles * NS_PER_S // self._hz

    @property
    def ip(self) -> int:
        """Virtual instruction pointer."""
        inside = self._instructions * 4 % _PHASE_BYTES
        return _CODE + self._at * _PHASE_BYTES + inside

    @property
    def instructions(self) -> int:
        """Instructions retired since start."""
        return self._instructions

    def instructions_in(self, cycles: Cycles) -> int:
        """The same so many cycles ahead, within this phase."""
        ahead = self._fractions[INSTRUCTIONS] + cycles * self._rates[INSTRUCTIONS]
        return self._instructions + (ahead >> 32)

    def per_second(self, kind: int) -> int:
        """This phase's rate of ``kind``: counts per second in which the program runs."""
        return self._rates[kind] * self._hz >> 32

    @property
    def phase_left(self) -> Cycles:
        """Cycles until the rates change."""
        return self._left

    def cycle_of(self, when: Ns) -> Cycles:
        """First cycle at which the guest clock reads at least ``when``."""
        return -(-(when - self._halted) * self._hz // NS_PER_S)

    def pass_time(self, elapsed: Ns) -> None:
        """Let the guest clock go on while the program does not run: nothing retires."""
        self._halted += elapsed

    def cycles_until(self, kind: int, count: int) -> Cycles | None:
        """Cycles until ``count`` more of ``kind`` have retired in this phase's rates."""
        rate = self._rates[kind]
        if not rate:
            return None
        return -(-(count * RATE_ONE - self._fractions[kind]) // rate)

    def retire(self, cycles: Cycles) -> list[int]:
        """Advance within the phase (at most ``phase_left``) and return counts by event kind."""
        counts = []
        fractions = self._fractions
        for kind, rate in enumerate(self._rates):
            total = fractions[kind] + cycles * rate
            counts.append(total >> 32)
            fractions[kind] = total & RATE_ONE - 1
        self.cycles += cycles
        self._instructions += counts[INSTRUCTIONS]
        self._left -= cycles
        if not self._left:
            self._at = (self._at + 1) % len(self._phases)
            phase = self._phases[self._at]
            self._left, self._rates = phase.cycles, phase.rates
        return counts
