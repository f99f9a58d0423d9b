"""What the host counts of its own work, and where: the words of a tally, which cross to the guest.

A tally is a list of TALLY_WORDS counts: perf calls by kind, then what is no call of its own. There
is one for each place.
"""

PAUSE, READ_VALUE, PERIOD, ENABLE, DISABLE, RELEASE, CREATE = range(7)
CALL_KINDS = ("pause", "read_value", "period", "enable", "disable", "release", "create")
PLACEMENTS = 7
REDUNDANT = 8
"""Calls on a counter that is paused already: the ones that ``is_paused`` saves."""
LOCAL_READS = 9
"""Reads of a counter on this CPU without a perf interface and its lock (perf_event_read_local)."""
SHARED_LOCKS = 10
"""Calls that found the context lock taken already by their own exit (``context_lock``)."""
PMU_SWITCHES = 11
"""Times that a mediated PMU was taken off the hardware and loaded again."""
SWITCH_WRMSRS = 12
"""WRMSRs of those switches."""
ELIDED_WRMSRS = 13
"""WRMSRs that they left out because the counter held the value already (zero)."""
TALLY_WORDS = 14
LOCKS_OF = (1, 1, 1, 1, 1, 1, 1)
"""How often each kind of call takes the perf context's lock (``perf_event_ctx_lock``; the context
mutex for create). Whether the event runs makes no difference."""

HANDLER, DELIVERY, OTHER = range(3)
PLACES = ("handler", "delivery", "other")
"""Where the host worked: for an exit with NMIs blocked (the guest is inside its handler), for the
exits that bring a PMI (EXCEPTION_NMI, NMI_WINDOW, INTERRUPT_WINDOW), or for anything else."""


def calls(tally: list[int]) -> int:
    """Perf calls of all kinds in one tally."""
    return sum(tally[: len(CALL_KINDS)])


def locks(tally: list[int]) -> int:
    """Context locks taken by the calls in one tally."""
    taken = sum(count * times for count, times in zip(tally, LOCKS_OF, strict=False))
    return taken - tally[SHARED_LOCKS]


def add(tally: list[int], other: list[int]) -> list[int]:
    """Both tallies, word by word."""
    return [mine + theirs for mine, theirs in zip(tally, other, strict=True)]
