"""The kit's vCPU: the project's own host, watched by rules and disturbed by a fault.

What is served is :class:`pvpmu.host.vcpu.HostVcpu`, unchanged: only what it offers may differ, and
when it looks for overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pvpmu.conformance.guests.rule import Rule
from pvpmu.conformance.guests.seen import (
    PAGE_WORDS,
    Ended,
    Entry,
    Exit,
    Handler,
    Nmi,
    Offer,
    Why,
    Words,
)
from pvpmu.host.pmi import sends_nmis
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import Leaf, PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.events import KINDS
from pvpmu.shared.exits import SLOT, Control, ExitReason
from pvpmu.shared.layout import Owner
from pvpmu.shared.profile import Profile
from pvpmu.shared.registration import Registration, Request
from pvpmu.shared.states import State

if TYPE_CHECKING:
    from pvpmu.conformance.guests.faults import Fault

_HOST_WORDS = tuple(
    (field.name, index)
    for field in SLOT.fields
    if field.owner is Owner.HOST
    for index in range(field.index, field.index + field.count)
)
_NOWHERE = 0xFFFF_FFFF
"""An address without a register."""
_KEPT = 256
"""Exits of one handler that rules can look back at."""


class WatchedVcpu(HostVcpu):
    """The host side of one vCPU of the guest under test.

    ``rules`` look at each exit before it is handled, then ``fault`` may do its worst.
    ``swallowing``: overflows are not found for now. ``retired``: by kind, since the VM-entry.
    ``last_words``: called before the host is killed. ``seen``: the last exit.
    """

    def __init__(
        self,
        number: int,
        slot: memoryview[int],
        memory: memoryview[int],
        offer: Offer,
        shape: PmuCpuid,
        profile: Profile,
        fault: Fault,
        rules: Sequence[Rule],
    ) -> None:
        self.number = number
        self.swallowing = False
        self.retired = [0] * KINDS
        self._retired_user = 0
        self.last_words: Callable[[], None] = _nothing
        self.seen: Exit
        self._offer = offer
        self._fault = fault
        self._rules = rules
        self._exits = 0
        self._entry = Entry()
        self._slot_words: list[int] = []
        self._handler: Handler | None = None
        self._owes_window = False
        self._registered: Request | None = None
        self._ended: Ended | None = None
        self._live: list[list[int]] = []
        self._seen_version = -1
        self._nmi: tuple[bool, State] | None = None
        design = Design(
            name="conform",
            summary="",
            is_paused=True,
            page=offer.page,
            freeze=offer.page and offer.freeze,
            lvtpc_auto=offer.page and offer.lvtpc_auto,
        )
        super().__init__(slot, memory, design, shape, profile)

    # What the host offers ---------------------------------------------------------------------

    def power_on(self, generation: int | None = None) -> None:
        """As the host's, with an OVF_CTRL that is not what memory holds by chance (REG-6)."""
        super().power_on(generation)
        if self.cpuid.has_globals:
            self.vpmu.ovf_ctrl = self.cpuid.counters & -self.cpuid.counters

    def leaf(self, number: int) -> Leaf:
        """The leaves as the case wants them."""
        offer = self._offer
        if offer.page and number == exits.LEAF_SIGNATURE:
            ebx, ecx, edx = offer.signature
            return offer.top_leaf, ebx, ecx, edx
        if offer.page and number == exits.LEAF_FEATURES:
            return offer.versions, self.offered, offer.address, offer.size
        return super().leaf(number)

    @property
    def offered(self) -> int:
        """Features, those of later hosts among them."""
        return super().offered | self._offer.unknown

    def _write_pv_page(self, value: int) -> bool:
        if self._offer.refuses and Request.decode(value) is not None:
            self.end_registration()
            self._pv_status = Registration(self._offer.refuses)
            return True
        return super()._write_pv_page(value)

    def _msr_read(self, address: int) -> int:
        return super()._msr_read(self._native(address))

    def _msr_write(self, address: int) -> int:
        return super()._msr_write(self._native(address))

    def _native(self, address: int) -> int:
        """The two MSRs may be elsewhere than this project's host has them."""
        if address - self._offer.address in (0, 1):
            return msr.PV_PAGE + address - self._offer.address
        return _NOWHERE if address in (msr.PV_PAGE, msr.PV_STATUS) else address

    # For faults -------------------------------------------------------------------------------

    @property
    def page_register(self) -> int:
        """The address of MSR_PVPMU_PAGE, as the guest has it."""
        return self._offer.address

    @property
    def interrupts(self) -> bool:
        """Whether a PMI raised now would be delivered as an NMI."""
        return sends_nmis(self.delivery.lvtpc)

    @property
    def distances(self) -> list[tuple[int, int]]:
        """Kind and counts to overflow of each live counter, as the guest has counted them down."""
        return [(kind, left) for kind, _, left in self._live]

    def take_overflows(self, *, in_guest: bool) -> None:
        """Find overflows, unless they are to be found later."""
        if self.swallowing:
            # The counter has wrapped, and its next overflow is as far away as can be.
            self.hardware.version += 1
        else:
            super().take_overflows(in_guest=in_guest)

    def find_late(self) -> None:
        """Find what was not found at its own exit; before this one is handled."""
        self.swallowing = False
        if self.hardware.status:
            self.load_status()
            self.take_overflows(in_guest=False)

    def load_status(self) -> None:
        """What comes first at any exit (rule STA-5), for what is done before it is served."""
        if self.page is not None:
            self.page.load_status()

    def page_words(self) -> memoryview[int] | None:
        """The registered page."""
        request = Request.decode(self.pv_page)
        return None if request is None or self.page is None else self._window(request)

    # Watching ---------------------------------------------------------------------------------

    def serve(self) -> int:
        """Serve an exit, between two looks."""
        seen = self.seen = self._look()
        for rule in self._rules:
            rule.look(seen)
        self._fault.before(self, seen)
        self._nmi = None
        reason = super().serve()
        self._enter(seen)
        return reason

    def _inject(self) -> None:
        found, pmi = self._state(), self.delivery.pending[0]
        super()._inject()
        self._nmi = pmi, found

    def _state(self) -> State:
        if self.page is None:
            return State.UNREGISTERED
        if self.vpmu.held:
            return State.HELD
        return State.RUNNING if self.vpmu.live else State.STOPPED

    def _look(self) -> Exit:
        """The exit in the slot, and what the guest did since the VM-entry."""
        slot, entry = self._slot, self._entry
        self._exits += 1
        request = slot[exits.REQUEST]
        reason, blocked = request & exits.REASON_MASK, bool(request & exits.NMI_BLOCKED)
        words = self._page_now() if entry.words is not None else None
        before = entry.words or ()
        over = None
        if self._handler is not None:
            self._handler.left &= self._status()
            if not blocked:
                over, self._handler = self._handler, None
        due, overshoot = self._count_down(request)
        seen = Exit(
            number=self._exits,
            vcpu=self.number,
            request=request,
            address=slot[exits.ADDRESS],
            value=slot[exits.VALUE],
            entry=entry,
            words=words,
            stored={
                index: (was, is_)
                for index, (was, is_) in enumerate(zip(before, words or (), strict=True))
                if was != is_
            },
            slot_stored=self._slot_stored(),
            due=due,
            retired_user=self._retired_user,
            overshoot=overshoot,
            status=self._status(),
            handler=self._handler,
            over=over,
            target=None,
            ovf_ctrl=None,
            ended=self._ended_now(),
        )
        if reason == ExitReason.NMI_WINDOW:
            self._owes_window = False
        if seen.handler is not None and len(seen.handler.exits) < _KEPT:
            seen.handler.exits.append(seen)
        request_of = Request.decode(seen.value) if seen.writes(self._offer.address) else None
        if request_of is not None and request_of.address + page.PAGE_SIZE <= self.memory_bytes:
            seen.target = self._first_words(request_of)
            if self.cpuid.has_globals:
                kept = self.profile.ovf_ctrl_reads_back
                seen.ovf_ctrl = self.vpmu.ovf_ctrl if kept else 0
        return seen

    def _enter(self, seen: Exit) -> None:
        """What the guest finds at this VM-entry."""
        slot = self._slot
        reply = slot[exits.REPLY]
        seen.fault = bool(reply & exits.FAULT_GP)
        self._owes_window |= bool(reply & exits.WANT_NMI_WINDOW)
        nmi: Nmi = ""
        found = self._state()
        if self._nmi is not None:
            pmi, found = self._nmi
            nmi = "pmi" if pmi else "foreign"
        self._entry = Entry(
            state=self._state(),
            words=self._page_now(),
            nmi=nmi,
            found=found,
            status=self._status(),
            window=self._owes_window,
            stop=seen.writes(msr.GLOBAL_CTRL) and not seen.value and not seen.blocked,
            registering=seen.target is not None and self.page is not None,
        )
        handler = Handler(self._entry, left=self._entry.status) if nmi else None
        self._handler = handler or self._handler
        self._note_end(seen, handler)
        if slot[exits.LIVE_VERSION] != self._seen_version:
            self._seen_version = slot[exits.LIVE_VERSION]
            count = 2 * slot[exits.LIVE_COUNT]
            pairs = iter(exits.load_words(slot, exits.LIVE_AT, count))
            self._live = [
                [descriptor & 0xFF, descriptor >> exits.LIVE_MODE_SHIFT, distance]
                for descriptor, distance in zip(pairs, pairs, strict=True)
            ]
        self._slot_words = [slot[index] for _, index in _HOST_WORDS]

    def _status(self) -> int:
        """GLOBAL_STATUS with what the guest has acknowledged meanwhile."""
        words = self._page_now()
        if words is None:
            return self.vpmu.global_status
        return (words[page.RAISED] ^ words[page.ACKED]) & self.cpuid.counters

    def _page_now(self) -> Words | None:
        request = Request.decode(self.pv_page) if self.page is not None else None
        return self._first_words(request) if request is not None else None

    def _first_words(self, request: Request) -> Words:
        return tuple(self._window(request)[:PAGE_WORDS].tolist())

    def _count_down(self, request: int) -> tuple[tuple[int, ...], int]:
        """Count the live counters down as the guest should; (kinds that overflowed, overshoot)."""
        due, overshoot = [], 0
        flags = (
            (exits.RETIRED_USER, exits.RETIRED_USER_AT, exits.MODE_USER),
            (exits.RETIRED_KERNEL, exits.RETIRED_KERNEL_AT, exits.MODE_KERNEL),
        )
        parts = [
            (exits.load_words(self._slot, at, KINDS), mode)
            for flag, at, mode in flags
            if request & flag
        ]
        self.retired = [sum(counts[kind] for counts, _ in parts) for kind in range(KINDS)]
        self._retired_user = sum(sum(counts) for counts, mode in parts if mode == exits.MODE_USER)
        for counter in self._live:
            kind, modes, before = counter
            left = before - sum(counts[kind] for counts, mode in parts if modes & mode)
            counter[2] = left
            if left <= 0 < before:
                due.append(kind)
                overshoot = max(overshoot, -left)
        return tuple(due), overshoot

    def _slot_stored(self) -> tuple[str, ...]:
        now = [self._slot[index] for _, index in _HOST_WORDS]
        pairs = zip(_HOST_WORDS, now, self._slot_words or now, strict=True)
        return tuple(sorted({name for (name, _), is_, was in pairs if is_ != was}))

    # A page that went out of use --------------------------------------------------------------

    def _note_end(self, seen: Exit, handler: Handler | None) -> None:
        """Remember a page that this exit has put out of use, as it stands at the VM-entry."""
        before, self._registered = self._registered, Request.decode(self.pv_page)
        reset = seen.reason == ExitReason.CONTROL and seen.value == Control.RESET
        if self._registered is not None or reset:
            # Registered, or a vCPU RESET, which the guest asked for.
            self._ended = None
            return
        why: Why
        if seen.target is not None:
            request, why = Request.decode(seen.value), "refused"
        else:
            request = before
            why = "unregistered" if seen.writes(self._offer.address) else "given up"
        if request is not None:
            words = self._first_words(request)
            self._ended = Ended(why, request, words, words, handler)

    def ended(self) -> Ended | None:
        """The last page that went out of use, as it is now."""
        if self._ended is None:
            return None
        return replace(self._ended, now=self._first_words(self._ended.request))

    def _ended_now(self) -> Ended | None:
        shown = self.ended()
        if shown is not None:
            handler = shown.handler if self._handler is not None else None
            self._ended = replace(shown, exits=shown.exits + 1, handler=handler)
        return shown


def _nothing() -> None:
    return None
