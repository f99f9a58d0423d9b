"""What the kit's host does to a guest: each fault is one way in which a host may surprise it.

All of them are things that a correct host may do, but :class:`RefuseCommit`, which plays a word
that something else in the guest's memory overwrote, and :class:`Die`.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, ClassVar

from pvpmu.conformance.guests.seen import ACCESSES, FROZEN, Exit
from pvpmu.host import migrate
from pvpmu.host.pvwords import turn_words
from pvpmu.shared import registers as msr
from pvpmu.shared.events import KINDS
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.page import TURN_FIRST
from pvpmu.shared.registration import ENABLE

if TYPE_CHECKING:
    from pvpmu.conformance.guests.vcpu import WatchedVcpu

_TIMES = 5
"""How often a fault that may come again does."""
_CHANCE = 3
"""At which of its chances a fault that comes once does."""


class Fault:
    """One vCPU's disturbance; this one does nothing.

    ``fired``: how often it happened; ``never``: why it may not have. ``again``: the guest is
    expected to take PMIs after the first time.
    """

    never: ClassVar[str] = ""
    again: ClassVar[bool] = True

    def __init__(self) -> None:
        self.fired = 0

    def before(self, vcpu: WatchedVcpu, seen: Exit) -> None:
        """Before the host handles an exit."""


class EveryExit(Fault):
    """A foreign NMI at the VM-entry of every access that exits, and of every overflow's exit."""

    never = "the guest made no exit outside its NMI handler"
    pmi: ClassVar[bool] = False

    def before(self, vcpu: WatchedVcpu, seen: Exit) -> None:
        awkward = seen.reason in ACCESSES or seen.reason == ExitReason.EXCEPTION_NMI
        if awkward and not seen.blocked and (vcpu.interrupts or not self.pmi):
            self.fired += 1
            _send(vcpu, pmi=self.pmi)


class Spurious(EveryExit):
    """Likewise a PMI's NMI with no overflow behind it."""

    never = "LVTPC never delivered NMIs"
    pmi = True


class LatePmi(Fault):
    """A PMI's NMI at the VM-entry of GLOBAL_CTRL = 0, when nothing is live any more."""

    never = "the guest never wrote GLOBAL_CTRL = 0 outside its NMI handler while a counter was live"
    again = False

    def before(self, vcpu: WatchedVcpu, seen: Exit) -> None:
        stops = seen.writes(msr.GLOBAL_CTRL) and not seen.value and bool(vcpu.vpmu.live)
        if stops and not vcpu.vpmu.held and not seen.blocked and vcpu.interrupts:
            self.fired += 1
            _send(vcpu, pmi=True)


class AtUnregistering(Fault):
    """A foreign NMI at the VM-entry of the write that unregisters."""

    never = "the guest did not unregister its page"
    again = False

    def before(self, vcpu: WatchedVcpu, seen: Exit) -> None:
        if seen.words is not None and seen.writes(vcpu.page_register) and not seen.value & ENABLE:
            self.fired += 1
            _send(vcpu, pmi=False)


class Joined(Fault):
    """Two foreign NMIs wait already when an overflow's PMI comes: it joins them."""

    never = "no overflow brought a PMI"

    def before(self, vcpu: WatchedVcpu, seen: Exit) -> None:
        if _overflow(seen) and self.fired < _TIMES and vcpu.interrupts:
            self.fired += 1
            for _ in range(2):
                _send(vcpu, pmi=False)


class LateOverflow(Fault):
    """An overflow that is found at the STOP of a foreign NMI's handler; its PMI comes later."""

    never = "no overflow brought a PMI"

    def before(self, vcpu: WatchedVcpu, seen: Exit) -> None:
        if vcpu.swallowing:
            self.fired += 1
            vcpu.find_late()
        elif _overflow(seen) and self.fired < _TIMES and vcpu.interrupts:
            vcpu.swallowing = True
            _send(vcpu, pmi=False)


class TwoBits(Fault):
    """Two overflows in one PMI: the first is found only with the second.

    It is held back only where the second comes before half of the first one's period is over
    again, by the rates so far: a guest need not forgive more.
    """

    never = "no two sampling counters overflowed shortly after one another"

    def __init__(self) -> None:
        super().__init__()
        self._retired = [0] * KINDS
        self._periods: dict[int, int] = {}

    def before(self, vcpu: WatchedVcpu, seen: Exit) -> None:
        for kind, left in vcpu.distances:
            if left > 0:
                self._periods[kind] = max(self._periods.get(kind, 0), left)
        self._retired = [a + b for a, b in zip(self._retired, vcpu.retired, strict=True)]
        if vcpu.swallowing:
            self.fired += _overflow(seen)
            vcpu.find_late()
        elif _overflow(seen) and len(seen.due) == 1 and self.fired < _TIMES and vcpu.interrupts:
            vcpu.swallowing = self._soon(vcpu, seen.due[0])

    def _soon(self, vcpu: WatchedVcpu, first: int) -> bool:
        rates, period = self._retired, self._periods.get(first, 0)
        return any(
            left * rates[first] < period // 2 * rates[kind]
            for kind, left in vcpu.distances
            if kind != first and left > 0
        )


class RefuseCommit(Fault):
    """A COMMIT that is refused, for a turn word that the guest did not store."""

    never = "the guest made no COMMIT outside its NMI handler"
    blocked: ClassVar[bool] = False

    def before(self, vcpu: WatchedVcpu, seen: Exit) -> None:
        words = vcpu.page_words()
        commits = seen.state in FROZEN and seen.writes(msr.GLOBAL_CTRL) and seen.value != 0
        if self.fired or words is None or not commits or seen.blocked is not self.blocked:
            return
        for offset, turn in turn_words(vcpu.vpmu).items():
            # One that the guest has just stored would be lost.
            if TURN_FIRST + offset not in seen.stored:
                self.fired += 1
                words[TURN_FIRST + offset] |= turn.refused
                return


class RefuseCommitInHandler(RefuseCommit):
    """Likewise in the NMI handler."""

    never = "the guest made no COMMIT in its NMI handler"
    blocked = True


class GiveUp(Fault):
    """The host gives the page up at a trapped write of GLOBAL_CTRL."""

    never = "the guest wrote GLOBAL_CTRL by too few exits while a page was registered"

    def __init__(self) -> None:
        super().__init__()
        self._chances = 0

    def before(self, vcpu: WatchedVcpu, seen: Exit) -> None:
        if vcpu.page is not None and self.chance(vcpu, seen):
            self._chances += 1
            if self._chances == _CHANCE:
                self.fired += 1
                vcpu.load_status()
                self.act(vcpu)

    def chance(self, vcpu: WatchedVcpu, seen: Exit) -> bool:
        """Whether this exit is of the right kind."""
        del vcpu
        return seen.writes(msr.GLOBAL_CTRL)

    def act(self, vcpu: WatchedVcpu) -> None:
        """Do it."""
        vcpu.end_registration()


class GiveUpAtPmi(GiveUp):
    """Likewise at an overflow's exit: the handler of its PMI is the first to know."""

    never = "too few overflows came while a page was registered"

    def chance(self, vcpu: WatchedVcpu, seen: Exit) -> bool:
        del vcpu
        return _overflow(seen)


class Restored(GiveUp):
    """The vCPU is saved and restored, as by a migration: another generation, nothing lost."""

    def chance(self, vcpu: WatchedVcpu, seen: Exit) -> bool:
        # What was retired is accounted only later in this exit.
        return seen.writes(msr.GLOBAL_CTRL) and not any(vcpu.retired)

    def act(self, vcpu: WatchedVcpu) -> None:
        migrate.restore(vcpu, migrate.save(vcpu))


class Die(Fault):
    """The host is killed in the middle of an overflow's exit."""

    never = "the guest made too few exits for an overflow"
    again = False

    def before(self, vcpu: WatchedVcpu, seen: Exit) -> None:
        if self.fired < _TIMES and self.chance(seen):
            self.fired += 1
            if self.fired == _TIMES:
                vcpu.last_words()
                os.kill(os.getpid(), signal.SIGKILL)

    def chance(self, seen: Exit) -> bool:
        """Whether this exit is of the right kind."""
        return _overflow(seen)


class DieInHandler(Die):
    """Likewise in the middle of an exit of its NMI handler."""

    never = "the guest made too few exits in its NMI handler"

    def chance(self, seen: Exit) -> bool:
        return seen.reason in ACCESSES and seen.blocked


def _overflow(seen: Exit) -> bool:
    """Whether it is the exit of an overflow, and not in a handler."""
    return seen.reason == ExitReason.EXCEPTION_NMI and bool(seen.due) and not seen.blocked


def _send(vcpu: WatchedVcpu, *, pmi: bool) -> None:
    if pmi:
        vcpu.delivery.counts.stray += 1
    vcpu.delivery.queue_nmi(pmi=pmi)
