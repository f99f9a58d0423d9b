"""What things cost, in ns, and what counted work costs then: the one formula of every model.

Used with floats for modelled figures, and with whole ns where a guest clock is charged.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.shared.tally import LOCAL_READS, PLACEMENTS, PMU_SWITCHES, REDUNDANT, calls, locks


@dataclass(frozen=True, slots=True)
class Work:
    """Counted work.

    ``exits``: VM-exits. ``live_calls``: host perf calls on counters that were not paused already;
    ``redundant_calls``: on those that were. ``locks``: perf context locks taken. ``placements``:
    events placed on hardware counters. ``local_reads``: of a counter on its own CPU, without perf.
    ``handlers``: entries of the guest's NMI handler. ``switches``: times the guest's PMU was taken
    off the hardware and loaded again.
    """

    exits: float
    live_calls: float
    redundant_calls: float
    locks: float
    placements: float
    local_reads: float = 0
    switches: float = 0
    handlers: float = 0


def work_of(exits: int, tally: list[int], handlers: int = 0) -> Work:
    """So many exits and handler entries, with the calls of one tally."""
    redundant = tally[REDUNDANT]
    return Work(
        exits=exits,
        live_calls=calls(tally) - redundant,
        redundant_calls=redundant,
        locks=locks(tally),
        placements=tally[PLACEMENTS],
        local_reads=tally[LOCAL_READS],
        switches=tally[PMU_SWITCHES],
        handlers=handlers,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """ns each.

    ``exit_ns``: one VM-exit. ``call_ns``: one host perf call; ``redundant_call_ns``: one on a
    counter that is paused already. ``guest_ns``: the guest's own work in one NMI handler.
    ``lock_ns``: one perf context lock; ``placement_ns``: one event placed on a hardware counter:
    both come on top of the call that does it. ``local_read_ns``: one read of a counter on its own
    CPU, without perf. ``pmu_switch_ns``: the guest's PMU taken off the hardware and loaded again,
    on top of the exit.
    """

    exit_ns: float
    call_ns: float
    redundant_call_ns: float
    guest_ns: float
    lock_ns: float = 0
    placement_ns: float = 0
    local_read_ns: float = 0
    pmu_switch_ns: float = 0

    def of(self, work: Work) -> float:
        """What this work costs, ns; a whole number if all costs and counts are."""
        parts = (getattr(work, count) * getattr(self, cost) for cost, count in COUNT_OF.items())
        total: float = sum(parts)
        return total

    def rounded(self) -> Costs:
        """The same in whole ns, each rounded for itself."""
        return Costs(**{name: round(getattr(self, name)) for name in COST_NAMES})


COUNT_OF = {
    "exit_ns": "exits",
    "call_ns": "live_calls",
    "redundant_call_ns": "redundant_calls",
    "guest_ns": "handlers",
    "lock_ns": "locks",
    "placement_ns": "placements",
    "local_read_ns": "local_reads",
    "pmu_switch_ns": "switches",
}
"""The count that each cost is multiplied with."""
COST_NAMES = tuple(COUNT_OF)
