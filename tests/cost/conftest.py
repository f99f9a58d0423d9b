"""The shipped models, and work as the trace of 2021 has it."""

from __future__ import annotations

from pvpmu.cost.model import CostModel
from pvpmu.cost.shelf import shipped_models
from pvpmu.shared.tally import DELIVERY, HANDLER, PAUSE, PLACEMENTS, REDUNDANT, TALLY_WORDS

HANDLERS = 7308
OVERFLOWS = 7322
EXITS_TRAP = 6 * 7250 + 2 * OVERFLOWS + 4 * 58
"""6 + 2k exits for each handler that found overflows (7,322 bits in 7,250), 4 for a spurious."""
LIVE = 12 * HANDLERS
REDUNDANT_CALLS = 4 * HANDLERS + 3 * OVERFLOWS
"""Before is_paused: m = 4 more pauses, and 3 more calls for each overflow handled."""
PLACED = 10 * HANDLERS

Places = tuple[int, list[int], list[list[int]]]


def models() -> dict[str, CostModel]:
    return {model.name: model for model in shipped_models()}


def tally(live: int, redundant: int = 0, placements: int = 0) -> list[int]:
    made = [0] * TALLY_WORDS
    made[PAUSE] = live + redundant
    made[REDUNDANT] = redundant
    made[PLACEMENTS] = placements
    return made


def places(exits: int, live: int, redundant: int = 0) -> Places:
    """Handlers, exits by place, tallies by place; what brings the PMIs is that of trap."""
    exits_by, tallies = [0, 0, 0], [tally(0) for _ in range(3)]
    exits_by[HANDLER], tallies[HANDLER] = exits, tally(live, redundant, PLACED)
    # EXCEPTION_NMI and NMI_WINDOW exits; three calls for each of the PMU requests.
    exits_by[DELIVERY], tallies[DELIVERY] = 7250 + 58, tally(3 * OVERFLOWS)
    return HANDLERS, exits_by, tallies


TRAP_5_14 = places(EXITS_TRAP, LIVE, REDUNDANT_CALLS)
TRAP = places(EXITS_TRAP, LIVE)
PAGE = places(HANDLERS, 8 * HANDLERS)
