"""What the host counts of its own work, and where: the words of a tally, which cross to the guest.

A tally is a list of TALLY_WORDS counts: perf calls by kind, then context locks, hardware
placements and calls that ``is_paused`` would have saved. There is one for each place.
"""

PAUSE, READ_VALUE, PERIOD, ENABLE, DISABLE, RELEASE, CREATE = range(7)
CALL_KINDS = ("pause", "read_value", "period", "enable", "disable", "release", "create")
LOCKS = 7
PLACEMENTS = 8
REDUNDANT = 9
"""Calls on a counter that is paused already: the ones that ``is_paused`` saves."""
TALLY_WORDS = 10

HANDLER, DELIVERY, OTHER = range(3)
PLACES = ("handler", "delivery", "other")
"""Where the host worked: for an exit with NMIs blocked (the guest is inside its handler), for the
exits that bring a PMI (EXCEPTION_NMI, NMI_WINDOW), or for anything else."""


def calls(tally: list[int]) -> int:
    """Perf calls of all kinds in one tally."""
    return sum(tally[: len(CALL_KINDS)])
