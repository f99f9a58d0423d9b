"""What each side may do with each word of the page, and how fresh the host's words are.

The specification's tables are made from these and the layout; a word that the layout declares and
that is missing here fails the generator.
"""

from __future__ import annotations

from dataclasses import dataclass

REGISTERED_ONCE = "at registration"
PUBLISHED = "at VM-entry, if changed"


@dataclass(frozen=True, slots=True)
class WordRules:
    """The rules of one word.

    ``host`` and ``guest``: when that side may store it, or load it. ``fresh``: what a load by the
    guest returns; "-" for the guest's own words.
    """

    host: str
    guest: str
    fresh: str


_CONSTANT = WordRules(
    REGISTERED_ONCE,
    "loads at any time",
    "constant of the registration: exact until it ends",
)
_TURN_HOST = "stores at VM-entry if the state was RUNNING or it imported; loads once per import"
_TURN_GUEST = "loads at any time; stores in FROZEN"
_CONTROL_FRESH = (
    "exact at any time: RUNNING, what the register reads; FROZEN, that or the guest's later store"
)
_COUNTER_FRESH = (
    "FROZEN: exact. RUNNING: exact if its bit in live is 0, else the value at the last stop or "
    "write (stale)"
)

PAGE_RULES: dict[str, WordRules] = {
    "version": WordRules(
        "last store of a registration; first store of its end (0)",
        "stores 0 before it registers; loads after it registered",
        "non-zero: registered; 0: not, everything traps",
    ),
    "size": _CONSTANT,
    "features": _CONSTANT,
    "generation": WordRules(
        "at registration; second store of its end (0)",
        "loads at any time",
        "exact at VM-entry; another value than the guest registered: counts may be lost; 0: trap",
    ),
    "evtsel_reserved": _CONSTANT,
    "fixed_ctr_ctrl_reserved": _CONSTANT,
    "global_ctrl_reserved": _CONSTANT,
    "ovf_ctrl_reserved": _CONSTANT,
    "lvtpc_dropped": _CONSTANT,
    "gp_mask": _CONSTANT,
    "fixed_mask": _CONSTANT,
    "status_mask": _CONSTANT,
    "live": WordRules(
        PUBLISHED,
        "loads at any time",
        "exact from VM-entry to the next exit: nothing starts or stops between",
    ),
    "raised": WordRules(
        f"{PUBLISHED}; toggles a bit only where status reads 0, but for a write of status",
        "loads after acked",
        "as of the last VM-entry: an overflow shows at the exit that it causes",
    ),
    "freeze_seq": WordRules(PUBLISHED, "loads at any time", "exact from VM-entry to the next exit"),
    "pmi_seq": WordRules(
        PUBLISHED,
        "loads at any time",
        "exact at VM-entry: it counts the PMI that this entry injects",
    ),
    "not_counting": WordRules(
        PUBLISHED,
        "loads at any time",
        "as of the last publication, 0 in FROZEN: a host event that loses its counter later shows "
        "at the next publication; a hint",
    ),
    "rejected": WordRules(
        PUBLISHED,
        "loads at any time",
        "of the last import or COMMIT; 0 if it refused nothing",
    ),
    "reject_reason": WordRules(PUBLISHED, "loads at any time", "as rejected"),
    "seq": WordRules(
        "first and last store of every publication",
        "does not need it",
        "odd: being stored; for readers on other CPUs only",
    ),
    "acked": WordRules(
        "loads at every exit; stores only with a write of status (count bumped)",
        "stores 0 before it registers; compare-exchange in an OVF_CTRL write",
        "-",
    ),
    "release_seq": WordRules(
        "loads at registration, import and the end of a hold",
        "stores 0 before it registers; compare-exchange in a GLOBAL_CTRL write",
        "-",
    ),
    "pmi_ack": WordRules(
        "loads at registration and for its counts",
        "stores 0 before it registers; stores in a status read",
        "-",
    ),
    "ovf_ctrl": WordRules(
        "loads at every import and at the end of the registration",
        "stores the present value before it registers; last store of an OVF_CTRL write",
        "-",
    ),
    "global_ctrl": WordRules(_TURN_HOST, _TURN_GUEST, _CONTROL_FRESH),
    "fixed_ctr_ctrl": WordRules(_TURN_HOST, _TURN_GUEST, _CONTROL_FRESH),
    "lvtpc": WordRules(
        f"{_TURN_HOST}; a PMI's delivery in FROZEN imports and stores this word alone",
        _TURN_GUEST,
        _CONTROL_FRESH,
    ),
    "evtsel": WordRules(_TURN_HOST, _TURN_GUEST, _CONTROL_FRESH),
    "pmc": WordRules(_TURN_HOST, _TURN_GUEST, _COUNTER_FRESH),
    "fixed_ctr": WordRules(_TURN_HOST, _TURN_GUEST, _COUNTER_FRESH),
}
