"""The cases: sessions in which the host is this or that, and rules looked at in all of them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Literal

from pvpmu.conformance.guests import (
    faults,
    rules_exits,
    rules_page,
    rules_registration,
)
from pvpmu.conformance.guests.rule import PLAIN, Rule
from pvpmu.conformance.guests.seen import Offer
from pvpmu.conformance.vector import Level
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.errors import UsageError
from pvpmu.shared.profile import KVM_5_14, KVM_6_12, Profile
from pvpmu.shared.registration import Registration

RULES: tuple[type[Rule], ...] = (
    *rules_registration.RULES,
    *rules_page.RULES,
    *rules_exits.RULES,
)
_ELSEWHERE = msr.PV_PAGE + 0x40
_LATER_REQUIRED = 1 << 5
_LATER_OPTIONAL = 1 << 4 | page.FEATURE_POLLING

_USUAL = Offer()

Greeting = Literal["welcome", "refuse", "version", "slot", "encoding"]
_GREETINGS: dict[str, str] = {
    "refuse": "It answers Hello with Refuse.",
    "version": "Its Welcome has another version.",
    "slot": "Its Welcome has slots of 512 bytes.",
    "encoding": "Its Welcome has every value in its longest encoding, and its keys reversed.",
}


class Ending(enum.Enum):
    """How a guest must end."""

    DONE = "Bye and status 0"
    FAILED = "one line and a non-zero status"
    EITHER = "Bye and status 0, or one line and a non-zero status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the report. ``id`` starts with the rule."""

    id: str
    title: str
    level: Level = "MUST"

    @property
    def clause(self) -> str:
        """Where the requirement comes from."""
        return f"docs/protocol.md {self.id.partition('/')[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Case):
    """A whole session of the guest with one host.

    ``offer``, ``profile``: what that host is; ``greeting``: how it answers Hello; ``fault``: what
    it does then; ``ending``: how the guest must end.
    """

    offer: Offer = _USUAL
    profile: Profile = KVM_5_14
    greeting: Greeting = "welcome"
    fault: type[faults.Fault] = faults.Fault
    ending: Ending = Ending.DONE

    @property
    def what(self) -> str:
        """What the host does besides serving, in a sentence; empty for nothing."""
        if self.fault is not faults.Fault:
            return (self.fault.__doc__ or "").partition("\n\n")[0]
        return _GREETINGS.get(self.greeting, "")

    @property
    def offer_text(self) -> str:
        """What the offer has that is not usual."""
        changed = [
            f"{name} = {value:#x}" if type(value) is int else f"{name} = {value}"
            for name in (each.name for each in fields(Offer))
            if (value := getattr(self.offer, name)) != getattr(_USUAL, name)
        ]
        return ", ".join(changed) or "the page, version 1, with FREEZE"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCase(Case):
    """A rule, looked at in every session of the run; ``check`` says which of them are enough."""

    check: type[Rule]


SESSIONS = (
    Session(id=PLAIN, title="takes its PMIs through the page, counts right and ends in order"),
    Session(
        id="FRZ-1/no-freeze",
        title="does so where FREEZE is not offered",
        offer=Offer(freeze=False),
    ),
    Session(
        id="FEA-6/auto",
        title="does so with LVTPC_AUTO, where delivery masks LVTPC",
        offer=Offer(lvtpc_auto=True),
        profile=KVM_6_12,
    ),
    Session(
        id="PMI-4/masked",
        title="unmasks LVTPC itself where delivery masks it and LVTPC_AUTO is not offered",
        profile=KVM_6_12,
    ),
    Session(
        id="DSC-3/no-page",
        title="runs by the trap path where no page is offered",
        offer=Offer(page=False),
    ),
    Session(
        id="DSC-4/signature",
        title="runs by the trap path where the signature is another",
        offer=Offer(signature=(exits.SIGNATURE[0], exits.SIGNATURE[1], 0)),
    ),
    Session(
        id="DSC-4/leaf",
        title="runs by the trap path where leaf 0x40000101 is not there",
        offer=Offer(top_leaf=exits.LEAF_SIGNATURE),
    ),
    Session(
        id="DSC-5/address",
        title="finds MSR_PVPMU_PAGE at another address",
        offer=Offer(address=_ELSEWHERE),
    ),
    Session(
        id="DSC-6/version",
        title="runs by the trap path where the host speaks later versions only",
        offer=Offer(versions=2 | 3 << 8),
    ),
    Session(
        id="DSC-6/size",
        title="runs by the trap path where a page has another size",
        offer=Offer(size=2 * page.PAGE_SIZE),
    ),
    Session(
        id="FEA-1/required",
        title="runs by the trap path where it does not know a required feature",
        offer=Offer(unknown=_LATER_REQUIRED),
    ),
    Session(
        id="FEA-4/unknown",
        title="uses the page where features that it does not know are offered",
        offer=Offer(unknown=_LATER_OPTIONAL),
    ),
    Session(
        id="REG-8/refused",
        title="runs by the trap path where its registration is refused",
        offer=Offer(refuses=int(Registration.OUTSIDE_MEMORY)),
    ),
    Session(
        id="PMI-11/foreign",
        title="bears a foreign NMI at every exit, the registering one included",
        fault=faults.EveryExit,
    ),
    Session(
        id="PMI-11/spurious",
        title="bears a PMI without an overflow at every exit",
        fault=faults.Spurious,
    ),
    Session(
        id="PMI-11/late",
        title="bears a PMI that comes when it has stopped its counters",
        fault=faults.LatePmi,
    ),
    Session(
        id="PMI-13/joined",
        title="handles overflows whose PMIs join a foreign NMI",
        fault=faults.Joined,
    ),
    Session(
        id="PMI-13/two-bits",
        title="handles two overflows in one PMI",
        fault=faults.TwoBits,
    ),
    Session(
        id="STP-4/late-overflow",
        title="handles an overflow that shows after its STOP, with a PMI that comes later",
        fault=faults.LateOverflow,
    ),
    Session(
        id="CMT-7/program",
        title="does not take a refused COMMIT for one that was done",
        fault=faults.RefuseCommit,
        ending=Ending.EITHER,
    ),
    Session(
        id="CMT-7/handler",
        title="nor one in its NMI handler",
        fault=faults.RefuseCommitInHandler,
        ending=Ending.EITHER,
    ),
    Session(
        id="GEN-3/exit",
        title="traps once the host has given the page up, at an exit of its own",
        fault=faults.GiveUp,
    ),
    Session(
        id="GEN-3/handler",
        title="and in the handler of a PMI",
        fault=faults.GiveUpAtPmi,
    ),
    Session(
        id="GEN-4/restored",
        title="goes on under another generation",
        fault=faults.Restored,
    ),
    Session(
        id="END-5/nmi",
        title="bears an NMI at the VM-entry of the write that unregisters",
        fault=faults.AtUnregistering,
    ),
    Session(
        id="BND-7/encoding",
        title="reads a Welcome in other msgpack encodings, its keys in another order",
        greeting="encoding",
    ),
    Session(
        id="BND-9/refused",
        title="ends with one line when it is refused",
        greeting="refuse",
        ending=Ending.FAILED,
    ),
    Session(
        id="BND-10/version",
        title="ends with one line after a Welcome of another version",
        greeting="version",
        ending=Ending.FAILED,
    ),
    Session(
        id="BND-10/slot",
        title="ends with one line after a Welcome with slots that are too small",
        greeting="slot",
        ending=Ending.FAILED,
    ),
    Session(
        id="BND-11/exit",
        title="ends with one line and leaves no name when its host is killed in an exit",
        fault=faults.Die,
        ending=Ending.FAILED,
    ),
    Session(
        id="BND-11/handler",
        title="likewise in an exit of its NMI handler",
        fault=faults.DieInHandler,
        ending=Ending.FAILED,
    ),
)
CASES: tuple[Session | RuleCase, ...] = (
    *SESSIONS,
    *(RuleCase(id=rule.id, title=rule.title, level=rule.level, check=rule) for rule in RULES),
)


def select(patterns: Sequence[str]) -> list[Session | RuleCase]:
    """Cases by id, rule, area or a glob of them, all without; raises UsageError for no match."""
    for pattern in patterns:
        if not any(_matches(case, pattern) for case in CASES):
            raise UsageError(f"no case matches {pattern!r}; see pvpmu conform guest --list")
    return [
        case
        for case in CASES
        if not patterns or any(_matches(case, pattern) for pattern in patterns)
    ]


def sessions_of(cases: Sequence[Session | RuleCase]) -> list[Session]:
    """The sessions that have to be held: those chosen, and those that chosen rules need."""
    needed = {case.id for case in cases if isinstance(case, Session)}
    for case in cases:
        if isinstance(case, RuleCase):
            needed.update(case.check.homes)
    return [session for session in SESSIONS if session.id in needed]


def _matches(case: Case, pattern: str) -> bool:
    rule = case.id.partition("/")[0]
    return any(fnmatchcase(name, pattern) for name in (case.id, rule, rule.partition("-")[0]))
