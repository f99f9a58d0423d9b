"""A scenario for many tests: each operation of the driver a few times."""

from __future__ import annotations

from pvpmu.guest.scenario import Scenario, ScenarioEvent
from pvpmu.guest.script import ScriptCounts

SHORT = Scenario(
    name="short",
    summary="each operation a few times",
    duration_us=20_000,
    events=tuple(
        ScenarioEvent(name=name, frequency=4000, initial_period=100_000)
        for name in ("cpu-cycles", "instructions", "branch-instructions", "cache-misses")
    ),
    script=ScriptCounts(
        ticks=5, sched_in=3, sched_out=2, overflows=(9, 8, 7, 6), coincident=3, stray=2
    ),
)
