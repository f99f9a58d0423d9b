"""What the kit's host sees of a guest at each exit: plain values for rules to look at.

**Invariants**: nothing here touches the page or the slot; a word is compared between a VM-entry
and the next exit, so that what changed in between is the guest's doing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import EVTSEL_EN, FIXED_BASE, FIXED_EN, MAX_FIXED, MAX_GP
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.layout import WORD_BYTES, Owner
from pvpmu.shared.page import PAGE, PAGE_SIZE
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.shared.registration import Request, versions_leaf
from pvpmu.shared.states import State

PAGE_WORDS = PAGE.used // WORD_BYTES
"""Words of the page that the protocol uses; what follows is the guest's."""
Words = tuple[int, ...]
Nmi = Literal["", "pmi", "foreign"]
Why = Literal["unregistered", "given up", "refused"]

OWNER = {
    index: field.owner
    for field in PAGE.fields
    for index in range(field.index, field.index + field.count)
}
"""Word number to owner; reserved words are missing."""
_NAMES = {
    field.index + i: field.name + (f"[{i}]" if field.count > 1 else "")
    for field in PAGE.fields
    for i in range(field.count)
}
FROZEN = (State.STOPPED, State.HELD)
ACCESSES = frozenset((ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the host offers: leaves 0x40000100 and 0x40000101, and how registration answers.

    ``unknown``: feature bits beyond the known ones. ``refuses``: the code that every registration
    gets instead of OK, 0 for none.
    """

    page: bool = True
    freeze: bool = True
    lvtpc_auto: bool = False
    signature: tuple[int, ...] = exits.SIGNATURE
    top_leaf: int = exits.LEAF_FEATURES
    versions: int = versions_leaf()
    size: int = PAGE_SIZE
    unknown: int = 0
    address: int = msr.PV_PAGE
    refuses: int = 0

    @property
    def announced(self) -> bool:
        """Whether a guest may touch the two MSRs (rule DSC-4)."""
        fits = self.signature == exits.SIGNATURE and self.top_leaf >= exits.LEAF_FEATURES
        return self.page and fits


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A VM-entry, as the guest finds things.

    ``words``: the registered page, None without one. ``nmi``: what is injected; ``found``: the
    state before the injection (and its freeze). ``status``: GLOBAL_STATUS. ``window``: the guest
    owes an NMI-window exit. ``stop``: of a write of GLOBAL_CTRL = 0, outside any handler.
    ``registering``: of a write of MSR_PVPMU_PAGE that was accepted.
    """

    state: State = State.UNREGISTERED
    words: Words | None = None
    nmi: Nmi = ""
    found: State = State.UNREGISTERED
    status: int = 0
    window: bool = False
    stop: bool = False
    registering: bool = False

    @property
    def froze(self) -> bool:
        """Whether this VM-entry froze the counters."""
        return self.state is State.HELD and self.found is State.RUNNING


@dataclass(slots=True)
class Handler:
    """An NMI handler: the VM-entry that started it, and its first exits.

    ``left``: status bits of that VM-entry that were set ever since.
    """

    entry: Entry
    exits: list[Exit] = field(default_factory=list)
    left: int = 0

    @property
    def uses_page(self) -> bool:
        """Whether the vCPU used its page by then; the registering write's own handler does not."""
        return self.entry.words is not None and not self.entry.registering


@dataclass(frozen=True, slots=True)
class Ended:
    """A page that is not in use (any more).

    ``why``: the guest unregistered it, the host gave it up, or refused it. ``words``: as they
    were at that VM-entry; ``now``: at this exit. ``handler``: of an NMI that it injected, until
    after the exit that shows its end. ``exits``: that the guest made since.
    """

    why: Why
    request: Request
    words: Words
    now: Words
    handler: Handler | None
    exits: int = 0


@dataclass(slots=True, kw_only=True)
class Exit:
    """One exit. ``request`` and its kin are those of the slot, ``number`` counts from 1.

    ``entry``: the VM-entry before. ``words``: the registered page now; ``stored``: (was, is) of
    each word that changed since that VM-entry. ``slot_stored``: names of host words of the slot
    that the guest changed. ``retired_user``: counts at CPL 3, all kinds together. ``due``: kinds of
    the live counters that overflowed meanwhile; ``overshoot``: counts beyond the overflow, at most.
    ``status``: GLOBAL_STATUS before this exit
    is handled. ``handler``: the NMI handler that makes the exit; ``over``: one that has ended since
    the last exit. ``target``: words of the page that a write of MSR_PVPMU_PAGE with enable names.
    ``ended``: the last page that went out of use. ``fault``: the reply was #GP.
    """

    number: int
    vcpu: int
    request: int
    address: int
    value: int
    entry: Entry
    words: Words | None
    stored: dict[int, tuple[int, int]]
    slot_stored: tuple[str, ...]
    retired_user: int
    due: tuple[int, ...]
    overshoot: int
    status: int
    handler: Handler | None
    over: Handler | None
    target: Words | None
    ovf_ctrl: int | None
    ended: Ended | None
    fault: bool = False

    @property
    def reason(self) -> int:
        """The exit reason."""
        return self.request & exits.REASON_MASK

    @property
    def blocked(self) -> bool:
        """NMIs are blocked, as the guest says."""
        return bool(self.request & exits.NMI_BLOCKED)

    @property
    def state(self) -> State:
        """The page's state, as the host has it."""
        return self.entry.state

    def writes(self, address: int) -> bool:
        """Whether it is a WRMSR of that register."""
        return self.reason == ExitReason.MSR_WRITE and self.address == address

    @property
    def text(self) -> str:
        """One line."""
        name = reason_name(self.reason)
        register = BY_ADDRESS.get(self.address)
        parts = [name]
        if self.reason in (ExitReason.MSR_READ, ExitReason.MSR_WRITE):
            parts.append(register.name if register else f"{self.address:#x}")
        elif self.reason in (ExitReason.RDPMC, ExitReason.CPUID):
            parts.append(f"{self.address:#x}")
        if self.reason == ExitReason.MSR_WRITE:
            parts.append(f"value {self.value:#x}")
        parts.append(f"in {self.state.name}")
        if self.blocked:
            parts.append("with NMIs blocked")
        return " ".join(parts)


def reason_name(reason: int) -> str:
    """An exit reason's name, the number of an unknown one."""
    known = {int(each): each.name for each in ExitReason}
    return known.get(reason, f"reason {reason:#x}")


def word_name(index: int) -> str:
    """A page word's name."""
    return _NAMES.get(index, f"reserved word {index:#x}")


def owner_of(index: int) -> Owner | None:
    """Who may store to a page word; None for a reserved one."""
    return OWNER.get(index)


def live_of(words: Words) -> int:
    """The counters that a page's turn words make live (rule OWN-1), by global index."""
    fixed = words[page.FIXED_CTR_CTRL]
    own = sum(1 << FIXED_BASE + j for j in range(MAX_FIXED) if fixed >> 4 * j & FIXED_EN)
    own |= sum(1 << i for i in range(MAX_GP) if words[page.EVTSEL + i] & EVTSEL_EN)
    return own & words[page.GLOBAL_CTRL]
