"""The host half of the per-vCPU page: freeze, import, COMMIT, publish.

**Invariants**

* The page is loaded once into private memory; only the copy is validated and used.
* :meth:`HostPage.publish` is the only place that stores to the page (registration runs through
  it too; :meth:`HostPage.detach` zeroes the ready word), and it is called in the vCPU's context,
  just before VM-entry.
* In FROZEN the guest's words are left alone, except for refused ones.
* Nothing counts in FROZEN, so a guest word is new iff it differs from what was last published:
  no dirty bitmap decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress, count
from operator import ne

from pvpmu.host.pmc import Pmc
from pvpmu.host.pmi import PmiDelivery
from pvpmu.host.pvwords import TURN_COUNT, TurnWord, header_words, lvtpc_refused, turn_words
from pvpmu.host.vpmu import Vpmu
from pvpmu.shared import page
from pvpmu.shared.page import TURN_FIRST
from pvpmu.shared.registers import BY_ADDRESS, Role
from pvpmu.shared.units import U64_MASK, MsrAddress

_GLOBAL_CTRL = page.GLOBAL_CTRL - TURN_FIRST
_FIXED_CTR_CTRL = page.FIXED_CTR_CTRL - TURN_FIRST
_LVTPC = page.LVTPC - TURN_FIRST
_EVTSEL = page.EVTSEL - TURN_FIRST
_PMC = page.PMC - TURN_FIRST
_FIXED_CTR = page.FIXED_CTR - TURN_FIRST
_WRITTEN_AS_IS = {
    address: page.WORD_OF[address] - TURN_FIRST
    for address in page.WORD_OF
    if BY_ADDRESS[address].role in (Role.GLOBAL_CTRL, Role.FIXED_CTR_CTRL, Role.EVTSEL)
}
"""Control registers that read as they were written, to offset from TURN_FIRST."""
_HOST_WORDS = (
    page.LIVE,
    page.RAISED,
    page.FREEZE_SEQ,
    page.PMI_SEQ,
    page.NOT_COUNTING,
    page.REJECTED,
    page.REJECT_REASON,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a page goes on with after a restore: the counts, and whether a hold lasts."""

    lasts: bool
    freeze_seq: int
    pmi_seq: int


def next_generation(last: int, found: int) -> int:
    """A generation that is neither 0, nor the vCPU's last, nor what the page holds (GEN-1)."""
    generation = last
    while generation in (0, last, found):
        generation = generation + 1 & U64_MASK
    return generation


class HostPage:
    """A registered page.

    ``words`` is the page's window of 512 words in guest memory, ``frame`` its guest-physical page
    number. ``hold``: go on with that one, else as REG-7 says.
    """

    # Slots are looked up fastest, however many; the dict is for whoever watches an instance.
    __slots__ = (
        "__dict__",
        "_acked",
        "_acked_next",
        "_delivery",
        "_freeze_seq",
        "_has_globals",
        "_header",
        "_lvtpc_auto",
        "_lvtpc_changed",
        "_ovf_ctrl",
        "_ovf_ctrl_changed",
        "_ovf_ctrl_reserved",
        "_owns_turns",
        "_pmi_seq",
        "_published",
        "_published_host",
        "_reject_reason",
        "_rejected",
        "_restore",
        "_seq",
        "_stale",
        "_status_mask",
        "_turns",
        "_vpmu",
        "_words",
        "_written",
        "dirty",
        "entered_running",
        "frame",
        "freeze",
        "reloads",
    )

    def __init__(
        self,
        words: memoryview[int],
        vpmu: Vpmu,
        delivery: PmiDelivery,
        *,
        frame: int,
        features: int,
        generation: int,
        hold: Hold | None = None,
    ) -> None:
        self.frame = frame
        self._words = words
        self._vpmu = vpmu
        self._delivery = delivery
        self._turns = turn_words(vpmu)
        self._has_globals = vpmu.cpuid.has_globals
        # The guest's memory may hold anything: no 64-bit word equals -1, so all are stored once.
        self._published = [-1] * TURN_COUNT
        self._published_host = [-1] * len(_HOST_WORDS)
        if hold is None:
            hold = Hold(
                lasts=False, freeze_seq=words[page.RELEASE_SEQ], pmi_seq=words[page.PMI_ACK]
            )
        vpmu.held = hold.lasts
        self._freeze_seq = hold.freeze_seq
        self._pmi_seq = hold.pmi_seq
        # Masks follow from CPUID: derived once, not at every exit.
        self._status_mask = vpmu.cpuid.counters
        self._ovf_ctrl_reserved = vpmu.cpuid.ovf_ctrl_reserved
        self._acked = words[page.ACKED] & self._status_mask
        self._ovf_ctrl = words[page.OVF_CTRL]
        self._owns_turns = True
        self.entered_running = True
        self._rejected = 0
        self._restore = 0
        self._reject_reason = 0
        self._seq = words[page.SEQ] & ~1
        self.freeze = bool(features & page.FEATURE_FREEZE)
        self._lvtpc_auto = bool(features & page.FEATURE_LVTPC_AUTO)
        self.reloads = False
        self._lvtpc_changed = False
        self._acked_next: int | None = None
        self._ovf_ctrl_changed = False
        self.dirty = True
        self._stale = True
        self._written: tuple[int, int] | None = None
        self._header = header_words(vpmu, features, generation)

    @property
    def running(self) -> bool:
        """State RUNNING: some counter is live and the guest holds nothing."""
        return not self._vpmu.held and bool(self._vpmu.live)

    def reload_of(self, pmc: Pmc) -> int | None:
        """The value that the guest wants a counter that overflowed to reload, None for none.

        Only designs with ``reload`` ask: while it counts, a counter's word is the guest's.
        """
        first = page.FIXED_CTR if pmc.fixed else page.PMC
        value = self._words[first + pmc.number]
        return value if self.running and value and not value & ~pmc.mask else None

    def load_status(self) -> None:
        """Take the guest's acknowledgements into GLOBAL_STATUS (one load; first at any exit)."""
        # An import whose exit published nothing gave the turn words to the host until now.
        self._owns_turns = self.entered_running
        acked = self._words[page.ACKED] & self._status_mask
        cleared = acked ^ self._acked
        if cleared:
            # A toggle of a bit that reads 1 clears it. A toggle of one that reads 0 would set
            # status; only a broken guest does that, and only to itself.
            self._vpmu.global_status ^= cleared
            self._acked = acked

    @property
    def released(self) -> bool:
        """Whether the guest's count says that no hold lasts."""
        return self._words[page.RELEASE_SEQ] == self._freeze_seq

    @property
    def rejected(self) -> int:
        """Bitmap of the turn words, by offset, that the last import refused."""
        return self._rejected

    @property
    def hold(self) -> Hold:
        """What a restore needs to go on."""
        return Hold(lasts=self._vpmu.held, freeze_seq=self._freeze_seq, pmi_seq=self._pmi_seq)

    def freeze_now(self) -> None:
        """Stop counting at the entry that injects a PMI's NMI."""
        self._vpmu.stop_live()
        self._vpmu.held = True
        self._freeze_seq = self._freeze_seq + 1 & U64_MASK
        self.registers_changed()

    def registers_changed(self) -> None:
        """Any register may differ from what was published."""
        self.dirty = self._stale = True

    def register_written(self, address: MsrAddress, value: int, *, was_running: bool) -> None:
        """A trapped write took effect.

        In FROZEN everything else is as just imported, for starting a counter changes no register.
        """
        offset = None if was_running else _WRITTEN_AS_IS.get(address)
        # A tolerated write to a register that does not exist has no word.
        if offset is None or offset not in self._turns:
            self.registers_changed()
        else:
            self.dirty = True
            self._written = offset, value

    def status_written(self) -> None:
        """GLOBAL_STATUS was written from outside: an OVF_CTRL write under way starts again."""
        self.dirty = True
        self._acked_next = self._words[page.ACKED] + page.ACK_COUNT_ONE & U64_MASK

    def ovf_ctrl_written(self) -> None:
        """OVF_CTRL was written from outside: the guest's next write must not look like none."""
        self.dirty = self._ovf_ctrl_changed = True

    def commit(self) -> None:
        """A write that made counters live in FROZEN was accepted: clear a delivery's LVTPC mask."""
        if self._lvtpc_auto and self._delivery.masked_here:
            self._delivery.unmask()
            self.registers_changed()

    def end_hold(self) -> None:
        """A trapped GLOBAL_CTRL write ended the hold: the guest's count says so too from now on.

        The seam releases before it COMMITs; a guest that does not use the page yet does not.
        """
        self._freeze_seq = self._words[page.RELEASE_SEQ]

    def note_pmi(self) -> None:
        """Count an injected PMI in ``pmi_seq``."""
        self._pmi_seq = self._pmi_seq + 1 & U64_MASK
        self.dirty = True

    def deliver(self) -> None:
        """Deliver a PMI by the LVTPC that the guest sees, which in FROZEN is the page's."""
        delivery = self._delivery
        if self.running:
            delivery.deliver()
            if delivery.masks:
                self.registers_changed()
            return
        value = self._words[page.LVTPC]
        if value != self._published[_LVTPC] and not value & lvtpc_refused(self._vpmu.cpuid):
            # What was taken counts as seen: a later store of the old value is a change.
            self._published[_LVTPC] = value
            delivery.write_lvtpc(value)
        before = delivery.lvtpc
        delivery.deliver()
        if delivery.lvtpc != before:
            self.dirty = self._lvtpc_changed = True

    def import_words(self) -> bool:
        """Copy the page once, validate the copy, apply it without starting anything.

        Only in FROZEN. Returns False when a word was refused: then nothing was applied, and the
        refused words go back to their last accepted value at the next publication.
        """
        copy = self._words[TURN_FIRST : page.TURN_END].tolist()
        released = self.released
        self.take_ovf_ctrl()
        published = self._published
        turns = self._turns
        changed = [turns[at] for at in _differing(copy, published) if at in turns]
        # Nothing new, nothing refused and nothing to take back: no publication comes of it.
        self.dirty = self.dirty or bool(changed) or bool(self._rejected)
        self._rejected = self._reject_reason = 0
        for turn in changed:
            if copy[turn.offset] & turn.refused:
                self._reject_reason = self._reject_reason or turn.address << 32 | turn.reason
                self._rejected |= 1 << turn.offset
        self._restore = self._rejected
        if self._rejected:
            return False
        for turn in changed:
            self._apply(turn, copy[turn.offset])
            published[turn.offset] = copy[turn.offset]
        if released and not self._vpmu.live:
            # With live != 0 the release takes effect in the COMMIT that is about to follow it.
            self._vpmu.held = False
        self._owns_turns = True
        return True

    def publish(self) -> None:
        """Store what changed: turn words if they are the host's now, then host words."""
        words = self._words
        words[page.SEQ] = self._seq + 1 & U64_MASK
        if self._owns_turns:
            if self._stale:
                self._store_turns()
            elif self._written is not None:
                offset, value = self._written
                words[TURN_FIRST + offset] = self._published[offset] = value
            self._stale = False
            self._written = None
        elif self._restore:
            for offset in self._turns:
                if self._restore >> offset & 1:
                    words[TURN_FIRST + offset] = self._published[offset]
            self._restore = 0
        if self._lvtpc_changed:
            words[page.LVTPC] = self._published[_LVTPC] = self._delivery.lvtpc
            self._lvtpc_changed = False
        if self._acked_next is not None or self._ovf_ctrl_changed:
            self._store_guest_words()
        live = 0 if self._vpmu.held else self._vpmu.live
        self._store_host(live)
        self._owns_turns = self.entered_running = live != 0
        for index, value in self._header:
            words[index] = value
        self._header = []
        self._seq = self._seq + 2 & U64_MASK
        words[page.SEQ] = self._seq
        self.dirty = False

    def detach(self) -> None:
        """Take the page out of use: the ready word, then the generation becomes invalid."""
        self._words[page.VERSION] = 0
        self._words[page.GENERATION] = 0
        self._vpmu.held = False

    def adopt_ovf_ctrl(self) -> None:
        """Take OVF_CTRL as the page has it, whoever was told of it."""
        if not self._ovf_ctrl & self._ovf_ctrl_reserved:
            self._vpmu.ovf_ctrl = self._ovf_ctrl

    def take_ovf_ctrl(self) -> None:
        """Take OVF_CTRL if the guest has stored it since the last look."""
        value = self._words[page.OVF_CTRL]
        if value != self._ovf_ctrl:
            self._ovf_ctrl = value
            if not value & self._ovf_ctrl_reserved:
                self._vpmu.ovf_ctrl = value

    def _store_guest_words(self) -> None:
        """After a write of status or OVF_CTRL from outside, and then only."""
        if self._acked_next is not None:
            self._words[page.ACKED] = self._acked_next
            self._acked_next = None
        if self._ovf_ctrl_changed:
            self._words[page.OVF_CTRL] = self._ovf_ctrl = self._vpmu.ovf_ctrl
            self._ovf_ctrl_changed = False

    def _store_turns(self) -> None:
        values = self._turn_values()
        if values != self._published:
            for offset in _differing(values, self._published):
                self._words[TURN_FIRST + offset] = values[offset]
            self._published = values

    def _store_host(self, live: int) -> None:
        vpmu = self._vpmu
        host = [
            live,
            vpmu.global_status ^ self._acked,
            self._freeze_seq,
            self._pmi_seq,
            vpmu.not_counting if live else 0,
            self._rejected,
            self._reject_reason,
        ]
        if host != self._published_host:
            for position in _differing(host, self._published_host):
                self._words[_HOST_WORDS[position]] = host[position]
            self._published_host = host

    def _turn_values(self) -> list[int]:
        """What every word of [TURN_FIRST, TURN_END) should hold, padding at its old value."""
        vpmu = self._vpmu
        values = list(self._published)
        if self._has_globals:
            values[_GLOBAL_CTRL] = vpmu.global_ctrl
            values[_FIXED_CTR_CTRL] = vpmu.fixed_ctr_ctrl
        values[_LVTPC] = self._delivery.lvtpc
        for first, bank in ((_PMC, vpmu.gp), (_FIXED_CTR, vpmu.fixed)):
            values[first : first + len(bank)] = vpmu.values(bank)
            if self.reloads and self.entered_running:
                self._take_back_reloads(values, first, bank)
        values[_EVTSEL : _EVTSEL + len(vpmu.gp)] = [pmc.eventsel for pmc in vpmu.gp]
        return values

    def _take_back_reloads(self, values: list[int], first: int, bank: list[Pmc]) -> None:
        """While a counter counts its word is the guest's; else it is stored, whatever it was."""
        live = self._vpmu.live if self.running else 0
        for offset, pmc in enumerate(bank, first):
            if pmc.bit & live:
                values[offset] = self._published[offset]
            else:
                self._published[offset] = -1

    def _apply(self, turn: TurnWord, value: int) -> None:
        vpmu = self._vpmu
        pmc = turn.pmc
        if pmc is not None:
            vpmu.in_use |= pmc.bit
            if turn.offset < _PMC:
                vpmu.store_eventsel(pmc, value)
            else:
                vpmu.set_value(pmc, value)
        elif turn.offset == _GLOBAL_CTRL:
            vpmu.store_global_ctrl(value)
        elif turn.offset == _FIXED_CTR_CTRL:
            for pmc in vpmu.fixed:
                if (value ^ vpmu.fixed_ctr_ctrl) >> 4 * pmc.number & 0xF:
                    vpmu.in_use |= pmc.bit
            vpmu.store_fixed_ctr_ctrl(value)
        else:
            self._delivery.write_lvtpc(value)


def _differing(new: list[int], old: list[int]) -> Iterator[int]:
    """Positions, ascending, at which two lists of one length differ."""
    return compress(count(), map(ne, new, old))
