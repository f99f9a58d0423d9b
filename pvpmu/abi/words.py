"""When each side may touch each word of the page, and which rule says how fresh it is.

The specification's tables are made from these and the layout; a word that the layout declares and
that is missing here fails the generator.
"""

from __future__ import annotations

from dataclasses import dataclass

REGISTERED_ONCE = "at registration"
PUBLISHED = "at VM-entry, if changed"
LOADS = "loads at any time"


@dataclass(frozen=True, slots=True)
class WordRules:
    """The rules of one word.

    ``host`` and ``guest``: when that side may store it, or load it. ``fresh``: the rule of the
    specification that says what a load by the guest gives; "-" for the guest's own words.
    """

    host: str
    guest: str
    fresh: str


_CONSTANT = WordRules(REGISTERED_ONCE, LOADS, "FRE-1")
_TURN_HOST = "stores at VM-entry if the state was RUNNING or it imported; loads once per import"
_TURN_GUEST = "loads at any time; stores in FROZEN"
_CONTROL = WordRules(_TURN_HOST, _TURN_GUEST, "FRE-10")
_COUNTER = WordRules(_TURN_HOST, _TURN_GUEST, "FRE-11")

PAGE_RULES: dict[str, WordRules] = {
    "version": WordRules(
        "last store of a registration; first store of its end (0)",
        "stores 0 before it registers; loads after it registered",
        "FRE-2",
    ),
    "size": _CONSTANT,
    "features": _CONSTANT,
    "generation": WordRules(
        "at registration and restore; second store of the end of a registration (0)",
        LOADS,
        "FRE-2",
    ),
    "evtsel_reserved": _CONSTANT,
    "fixed_ctr_ctrl_reserved": _CONSTANT,
    "global_ctrl_reserved": _CONSTANT,
    "ovf_ctrl_reserved": _CONSTANT,
    "lvtpc_dropped": _CONSTANT,
    "gp_mask": _CONSTANT,
    "fixed_mask": _CONSTANT,
    "status_mask": _CONSTANT,
    "live": WordRules(PUBLISHED, LOADS, "FRE-3"),
    "raised": WordRules(
        f"{PUBLISHED}; sets a bit of status only where it reads 0, but for STA-6 and STA-7",
        "loads after acked",
        "FRE-4",
    ),
    "freeze_seq": WordRules(PUBLISHED, LOADS, "FRE-5"),
    "pmi_seq": WordRules(PUBLISHED, LOADS, "FRE-6"),
    "not_counting": WordRules(PUBLISHED, LOADS, "FRE-7"),
    "rejected": WordRules(PUBLISHED, LOADS, "FRE-8"),
    "reject_reason": WordRules(PUBLISHED, LOADS, "FRE-8"),
    "seq": WordRules("first and last store of every publication", "does not need it", "FRE-9"),
    "acked": WordRules(
        "loads at every exit; stores at VM-entry in STA-7 only, count bumped",
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
        "loads at every import and trapped read, and at the end of the registration; stores at "
        "VM-entry in IMP-9 only",
        "stores the present value before it registers; last store of an OVF_CTRL write",
        "-",
    ),
    "global_ctrl": _CONTROL,
    "fixed_ctr_ctrl": _CONTROL,
    "lvtpc": WordRules(
        f"{_TURN_HOST}; in FROZEN a PMI's delivery imports, and may store, this word alone",
        _TURN_GUEST,
        "FRE-10",
    ),
    "evtsel": _CONTROL,
    "pmc": _COUNTER,
    "fixed_ctr": _COUNTER,
}
