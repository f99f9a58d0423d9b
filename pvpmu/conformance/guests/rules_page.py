"""Checks of what a guest stores to a registered page, and of its NMI handlers."""

from __future__ import annotations

from pvpmu.conformance.guests.rule import PLAIN, Rule
from pvpmu.conformance.guests.seen import FROZEN, Exit, Words, live_of, owner_of, word_name
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import LVT_MASKED, MAX_FIXED, MAX_GP
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.layout import Owner
from pvpmu.shared.page import WORD_OF
from pvpmu.shared.states import State
from pvpmu.shared.units import U64_MASK

_COUNT_SHIFT = page.ACK_COUNT_ONE.bit_length() - 1
_SPARE = page.ACK_COUNT_ONE - 1
_FREEZES = (PLAIN, "PMI-11/spurious")


class OwnWords(Rule):
    """One owner for each word."""

    id = "PG-3"
    title = "stores to no word of the host's and to no reserved word"
    never = "the guest registered no page"

    def look(self, seen: Exit) -> None:
        if seen.words is None:
            return
        foreign = [index for index in seen.stored if owner_of(index) in (None, Owner.HOST)]
        at = foreign[0] if foreign else page.LIVE
        was, is_ = seen.stored.get(at, (0, 0))
        self.expect(
            seen,
            holds=not foreign,
            expected=f"{word_name(at)} as at the VM-entry, {was:#x}",
            actual=f"{is_:#x}",
        )


class TurnWords(Rule):
    """No turn words in RUNNING."""

    id = "OWN-8"
    title = "stores to no turn word in RUNNING"
    never = "the guest was never RUNNING"

    def look(self, seen: Exit) -> None:
        if seen.state is not State.RUNNING:
            return
        turns = [index for index in seen.stored if owner_of(index) is Owner.TURN]
        at = turns[0] if turns else page.GLOBAL_CTRL
        was, is_ = seen.stored.get(at, (0, 0))
        self.expect(
            seen,
            holds=not turns,
            expected=f"{word_name(at)} as at the VM-entry, {was:#x}",
            actual=f"{is_:#x}",
        )


class LeavesFrozen(Rule):
    """A handler leaves FROZEN what it found so."""

    id = "OWN-9"
    title = "an NMI handler that finds the PMU stopped leaves it stopped"
    never = "no NMI came at the VM-entry of GLOBAL_CTRL = 0"
    homes = ("PMI-11/late",)

    def look(self, seen: Exit) -> None:
        over = seen.over
        # Only here is it certain that no write of GLOBAL_CTRL follows: it is the one just done.
        if over is not None and over.uses_page and over.entry.stop and seen.words is not None:
            self.expect(
                seen,
                holds=seen.state is not State.RUNNING,
                expected="FROZEN after the handler, as before it",
                actual=seen.state.name,
            )


class Commits(Rule):
    """No live counter without a COMMIT."""

    id = "CMT-1"
    title = "makes no counter live in the page without a COMMIT"
    never = "the guest made no exit in FROZEN"

    def look(self, seen: Exit) -> None:
        words = seen.words
        if words is None or seen.state not in FROZEN or seen.writes(msr.GLOBAL_CTRL):
            return
        held = words[page.FREEZE_SEQ] != words[page.RELEASE_SEQ]
        live = 0 if held else live_of(words)
        self.expect(
            seen,
            holds=not live,
            expected="no live counter in the page's words",
            actual=f"counters {live:#x}, and no COMMIT",
        )


class CommitValue(Rule):
    """A COMMIT carries its value in the exit."""

    id = "CMT-2"
    title = "does not store the value of a COMMIT in the page"
    never = "the guest made no COMMIT"

    def look(self, seen: Exit) -> None:
        words, index = seen.words, WORD_OF.get(seen.address)
        is_write = seen.reason == ExitReason.MSR_WRITE and seen.state in FROZEN
        if words is None or index is None or not is_write or not live_of(_with(seen, index)):
            return
        was, is_ = seen.stored.get(index, (words[index], words[index]))
        self.expect(
            seen,
            holds=was == is_ or is_ != seen.value,
            expected=f"{word_name(index)} without the value of the exit, {seen.value:#x}",
            actual=f"{is_:#x}, was {was:#x}",
        )


def _with(seen: Exit, index: int) -> Words:
    """The page's words once the write of this exit is done."""
    assert seen.words is not None
    return (*seen.words[:index], seen.value, *seen.words[index + 1 :])


class Releases(Rule):
    """Release, then COMMIT."""

    id = "ACC-2/release"
    title = "releases the hold before the COMMIT that ends it"
    never = "no hold was ended by a COMMIT"
    homes = _FREEZES

    def look(self, seen: Exit) -> None:
        words = seen.words
        if words is None or seen.state is not State.HELD or not seen.writes(msr.GLOBAL_CTRL):
            return
        if seen.value & words[page.GLOBAL_CTRL_RESERVED] or _not_yet(seen):
            return
        self.expect(
            seen,
            holds=words[page.RELEASE_SEQ] == words[page.FREEZE_SEQ],
            expected=f"release_seq = freeze_seq = {words[page.FREEZE_SEQ]:#x}",
            actual=f"{words[page.RELEASE_SEQ]:#x}",
        )


def _not_yet(seen: Exit) -> bool:
    """In the handler at the registering write: its vCPU does not use the page yet."""
    return seen.handler is not None and not seen.handler.uses_page


class ValidValues(Rule):
    """Values that the constants prove valid."""

    id = "ACC-4"
    title = "stores no value that the register would not take"
    never = "the guest stored to no turn word"

    def look(self, seen: Exit) -> None:
        if seen.words is None:
            return
        for index, (_, value) in seen.stored.items():
            if owner_of(index) is Owner.TURN:
                refused = _refused(index, seen.words)
                self.expect(
                    seen,
                    holds=not value & refused,
                    expected=f"{word_name(index)} without bits {refused:#x}",
                    actual=f"{value:#x}",
                )


def _refused(index: int, words: Words) -> int:
    if index == page.GLOBAL_CTRL:
        return words[page.GLOBAL_CTRL_RESERVED]
    if index == page.FIXED_CTR_CTRL:
        return words[page.FIXED_CTRL_RESERVED]
    if index == page.LVTPC:
        return words[page.LVTPC_DROPPED]
    if page.EVTSEL <= index < page.EVTSEL + MAX_GP:
        return words[page.EVTSEL_RESERVED]
    if page.FIXED_CTR <= index < page.FIXED_CTR + MAX_FIXED:
        return ~words[page.FIXED_MASK] & U64_MASK
    return ~words[page.GP_MASK] & U64_MASK


class MaskExits(Rule):
    """With LVTPC_AUTO the guest's own mask exits."""

    id = "FEA-8"
    title = "with LVTPC_AUTO it does not store LVTPC's mask bit in the page"
    never = "LVTPC_AUTO was not accepted"
    homes = ("FEA-6/auto",)

    def look(self, seen: Exit) -> None:
        if seen.words is None or not seen.words[page.FEATURES] & page.FEATURE_LVTPC_AUTO:
            return
        was, is_ = seen.stored.get(page.LVTPC, (0, 0))
        self.expect(
            seen,
            holds=not is_ & LVT_MASKED,
            expected="lvtpc without its mask bit, or an exit",
            actual=f"{is_:#x}, was {was:#x}",
        )


class Toggles(Rule):
    """Only what reads 1 is cleared."""

    id = "STA-3"
    title = "clears only status bits that are set"
    never = "the guest acknowledged no overflow"

    def look(self, seen: Exit) -> None:
        if seen.words is None or page.ACKED not in seen.stored:
            return
        was, is_ = seen.stored[page.ACKED]
        toggled = (was ^ is_) & seen.words[page.STATUS_MASK]
        if toggled:
            self.expect(
                seen,
                holds=not toggled & ~seen.entry.status,
                expected=f"toggles in acked within {seen.entry.status:#x}, the status at VM-entry",
                actual=f"{toggled:#x}",
            )


class Exchanges(Rule):
    """The count of exchanges, and nothing else, goes along."""

    id = "STA-4"
    title = "counts each exchange of acked in bits 63:40, and leaves the spare bits"
    never = "the guest acknowledged no overflow"

    def look(self, seen: Exit) -> None:
        if seen.words is None or page.ACKED not in seen.stored:
            return
        was, is_ = seen.stored[page.ACKED]
        mask = seen.words[page.STATUS_MASK]
        toggled = (was ^ is_) & mask
        count = (is_ >> _COUNT_SHIFT) - (was >> _COUNT_SHIFT) & (U64_MASK >> _COUNT_SHIFT)
        spare = (was ^ is_) & _SPARE & ~mask
        most = toggled.bit_count()
        self.expect(
            seen,
            holds=min(most, 1) <= count <= most and not spare,
            expected=f"{min(most, 1)} to {most} exchanges for bits {toggled:#x}",
            actual=f"{count}" + (f", and spare bits {spare:#x}" if spare else ""),
        )


class AckStays(Rule):
    """OVF_CTRL goes to the page."""

    id = "STA-6"
    title = "makes no trapped write of OVF_CTRL with a valid value while it uses the page"
    never = "the guest acknowledged no overflow"

    def look(self, seen: Exit) -> None:
        if seen.words is None or _not_yet(seen):
            return
        trapped = seen.writes(msr.OVF_CTRL)
        if trapped and seen.value & seen.words[page.OVF_CTRL_RESERVED]:
            return
        if trapped or page.ACKED in seen.stored:
            self.expect(
                seen,
                holds=not trapped,
                expected="an exchange of acked",
                actual=f"an exit with the value {seen.value:#x}",
            )


class FollowsPmi(Rule):
    """pmi_ack follows pmi_seq."""

    id = "PMI-8"
    title = "sets pmi_ack to pmi_seq at the first status read of a PMI's handler, to nothing else"
    never = "no PMI was injected"

    def look(self, seen: Exit) -> None:
        if seen.words is None:
            return
        seq = seen.words[page.PMI_SEQ]
        over = seen.over
        due = over is not None and over.uses_page and over.entry.nmi == "pmi"
        if page.PMI_ACK in seen.stored or due:
            self.expect(
                seen,
                holds=seen.words[page.PMI_ACK] == seq,
                expected=f"pmi_ack = pmi_seq = {seq:#x}",
                actual=f"{seen.words[page.PMI_ACK]:#x}",
            )


class HandlesStatus(Rule):
    """Every NMI handler looks at status."""

    id = "PMI-13"
    title = "acknowledges in the handler of every NMI the overflows that it finds"
    never = "no NMI came with an overflow"
    homes = ("PMI-13/joined",)

    def look(self, seen: Exit) -> None:
        over = seen.over
        if over is not None and over.entry.status:
            self.expect(
                seen,
                holds=not over.left,
                expected=f"status bits {over.entry.status:#x} acknowledged by its end",
                actual=f"{over.left:#x} still set",
            )


class WritesGlobalCtrl(Rule):
    """The handler of a freeze writes GLOBAL_CTRL."""

    id = "FRZ-10"
    title = "writes GLOBAL_CTRL in the handler of every PMI that froze"
    never = "no PMI froze"
    homes = _FREEZES

    def look(self, seen: Exit) -> None:
        over = seen.over
        if over is None or not over.entry.froze or not over.uses_page or seen.words is None:
            return
        exited = any(each.writes(msr.GLOBAL_CTRL) and not each.fault for each in over.exits)
        freeze, release = seen.words[page.FREEZE_SEQ], seen.words[page.RELEASE_SEQ]
        self.expect(
            seen,
            holds=exited or freeze == release,
            expected="the hold ended in the handler",
            actual=f"freeze_seq {freeze:#x}, release_seq {release:#x}, no trapped write",
        )


class StaysInPage(Rule):
    """One exit a PMI."""

    id = "FRZ-5"
    title = "a PMI that froze costs one exit, the COMMIT"
    level = "SHOULD"
    never = "no PMI froze"
    homes = _FREEZES

    def look(self, seen: Exit) -> None:
        over = seen.over
        if over is None or not over.entry.froze or not over.uses_page:
            return
        made = [
            each
            for each in over.exits
            if each.state is State.HELD and _served(each) and not each.fault
        ]
        extra = [each.text for each in made if not each.writes(msr.GLOBAL_CTRL)]
        self.expect(
            seen,
            holds=not extra and len(made) <= 1,
            expected="no exit during the hold but one write of GLOBAL_CTRL",
            actual=f"{len(made)} exits: {'; '.join(each.text for each in made)}",
        )


def _served(seen: Exit) -> bool:
    """Whether it is an access that a page can serve."""
    if seen.reason == ExitReason.RDPMC:
        return True
    accesses = (ExitReason.MSR_READ, ExitReason.MSR_WRITE)
    status = (msr.GLOBAL_STATUS, msr.OVF_CTRL)
    return seen.reason in accesses and (seen.address in WORD_OF or seen.address in status)


RULES = (
    OwnWords, TurnWords, LeavesFrozen, Commits, CommitValue, Releases, ValidValues, MaskExits,
    Toggles, Exchanges, AckStays, FollowsPmi, HandlesStatus, WritesGlobalCtrl, StaysInPage,
)  # fmt: skip
