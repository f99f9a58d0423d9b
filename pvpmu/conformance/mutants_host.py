"""Broken hosts: each mistake replaces one method of the page's host half, or of the vCPU's exit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pvpmu.conformance.mutants_guest import DIRTY, marks_dirty
from pvpmu.conformance.mutation import Mutant, was
from pvpmu.conformance.mutation import host_mutant as _host
from pvpmu.guest.msr import Seam
from pvpmu.host import migrate, registrar
from pvpmu.host.counters import Counters
from pvpmu.host.entry import EntryLoop
from pvpmu.host.pvpage import HostPage
from pvpmu.host.registrar import PageRegistrar
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import page
from pvpmu.shared.page import TURN_FIRST
from pvpmu.shared.units import U64_MASK

_import_words = was(HostPage, "import_words")
_publish = was(HostPage, "publish")
_store_host = was(HostPage, "_store_host")
_turn_values = was(HostPage, "_turn_values")
_apply = was(HostPage, "_apply")
_note_pmi = was(HostPage, "note_pmi")
_commit = was(HostPage, "commit")
_inject = was(EntryLoop, "_inject")
_deliver_all = was(EntryLoop, "_deliver")
_save = was(migrate, "save")
_restore = was(migrate, "restore")
_load_status = was(HostPage, "load_status")
_deliver_pmi = was(EntryLoop, "_deliver_pmi")
_publish_all = was(HostVcpu, "_publish")
_start_paused = was(Counters, "start_paused")


def _double_fetch(self: Any) -> bool:
    if not _import_words(self):
        return False
    for offset, turn in self._turns.items():
        if self._words[TURN_FIRST + offset] != self._published[offset]:
            _apply(self, turn, self._words[TURN_FIRST + offset])
    return True


def _bytewise(self: Any) -> None:
    stores = self._words.cast("B")
    values = _turn_values(self)
    for offset in self._turns:
        if self._owns_turns and values[offset] != self._published[offset]:
            self._published[offset] = values[offset]
            for position, byte in enumerate(values[offset].to_bytes(8, "little")):
                stores[(TURN_FIRST + offset) * 8 + position] = byte
    _publish(self)


def _packed_indices(self: Any) -> list[int]:
    values: list[int] = _turn_values(self)
    first, last = page.FIXED_CTR - TURN_FIRST, page.FIXED_CTR - TURN_FIRST + len(self._vpmu.fixed)
    values[first:last] = reversed(values[first:last])
    return values


def _sticky(self: Any) -> None:
    self._owns_turns = self.entered_running


def _replays(self: Any) -> bool:
    done: bool = _import_words(self)
    self._vpmu.global_status &= ~self._vpmu.ovf_ctrl
    self.dirty = True
    return done


def _overwrites_at_pmi(self: Any) -> None:
    _note_pmi(self)
    for offset in self._turns:
        if not self.running:
            self._words[TURN_FIRST + offset] = self._published[offset]


def _freezes_for_any(self: Any) -> None:
    _inject(self)
    half = self.page
    if half is not None and half.freeze and half.running:
        half.freeze_now()


def _reraises(self: Any) -> None:
    _commit(self)
    if self._vpmu.global_status:
        self._delivery.raise_pmi(in_guest=True)


def _unmasked_width(self: Any) -> list[int]:
    values: list[int] = _turn_values(self)
    for first, bank in ((page.PMC, self._vpmu.gp), (page.FIXED_CTR, self._vpmu.fixed)):
        at = first - TURN_FIRST
        values[at : at + len(bank)] = [pmc.accumulator & U64_MASK for pmc in bank]
    return values


def _early_status(self: Any, live: int) -> None:
    # What the last publication had: status from before this exit's overflows.
    now, before = self._vpmu.global_status, getattr(self, "_early", 0)
    self._early = now
    self._vpmu.global_status = before & now
    _store_host(self, live)
    self._vpmu.global_status = now


def _unfiltered(self: Any) -> None:
    chosen, self._filter = self._filter, None
    _start_paused(self)
    self._filter = chosen


def _imports_nothing(page_half: Any) -> None:
    if page_half.running:
        page_half.take_ovf_ctrl()


def _keeps_hold(self: Any) -> bool:
    held = self._vpmu.held
    done: bool = _import_words(self)
    self._vpmu.held = held
    return done


def _keeps_generation(self: Any) -> None:
    self._words[page.VERSION] = 0
    self._vpmu.held = False


def _unmasks_all(self: Any) -> None:
    if self._lvtpc_auto:
        self._delivery.unmask()
        self.registers_changed()


def _forgets_pending(self: Any) -> None:
    _commit(self)
    self._delivery.pending.clear()


def _saves_old(host: Any) -> Any:
    importing, host.import_page = host.import_page, lambda: None
    try:
        return _save(host)
    finally:
        host.import_page = importing


def _restores_none(host: Any, state: Any) -> None:
    _restore(host, replace(state, nmis=[], pmi_requested=False))


def _stores_tail(self: Any) -> None:
    _publish(self)
    self._words[page.PAGE.used // 8] = self._seq


def _takes_part(self: Any) -> bool:
    copy = self._words[TURN_FIRST : page.TURN_END].tolist()
    before = list(self._published)
    done: bool = _import_words(self)
    if not done:
        for offset, turn in self._turns.items():
            if copy[offset] != before[offset] and not copy[offset] & turn.refused:
                _apply(self, turn, copy[offset])
    return done


def _believes_host_word(self: Any) -> bool:
    self._freeze_seq = self._words[page.FREEZE_SEQ]
    self._vpmu.held = self._freeze_seq != self._words[page.RELEASE_SEQ]
    return bool(_import_words(self))


def _keeps_counting(self: Any) -> None:
    self._vpmu.held = True
    self._freeze_seq = self._freeze_seq + 1 & U64_MASK
    self.registers_changed()


def _hides_enables(self: Any) -> list[int]:
    values: list[int] = _turn_values(self)
    if self._vpmu.held:
        values[page.GLOBAL_CTRL - TURN_FIRST] = 0
    return values


def _drops_late(self: Any, *, blocked: bool) -> int:
    if self.page is not None and not self.page.running:
        self.delivery.pending = [pmi for pmi in self.delivery.pending if not pmi]
    return int(_deliver_all(self, blocked=blocked))


def _counts_all_nmis(self: Any) -> None:
    if self.page is not None and not self.delivery.pending[0]:
        self.page.note_pmi()
    _inject(self)


def _discards(self: Any) -> None:
    if self.page is not None:
        was_held = self.vpmu.held
        self._detach(self.page)
        if was_held:
            self.vpmu.start_paused()


def _imports_dirty_only(self: Any) -> bool:
    """A guest marks what it stores; the host takes what is marked."""
    dirty = self._words[DIRTY]
    self._words[DIRTY] = 0
    for offset in self._turns:
        if not dirty >> offset & 1:
            self._words[TURN_FIRST + offset] = self._published[offset]
    return bool(_import_words(self))


def _writes_without_count(self: Any) -> None:
    self.dirty = True
    self._acked_next = self._words[page.ACKED]


def _writes_back(self: Any) -> None:
    _load_status(self)
    self._owns_turns = self._stale = self.dirty = True


def _ends_without_start(self: Any) -> None:
    if self.page is not None:
        self.import_page()
        self._detach(self.page)


def _reports_first(self: Any) -> bool:
    done = bool(_import_words(self))
    self._rejected &= -self._rejected
    return done


def _stays_refused(self: Any) -> bool:
    self._stuck = getattr(self, "_stuck", False) or not _import_words(self)
    return not self._stuck


def _freezes_at_delivery(self: Any) -> None:
    _deliver_pmi(self)
    half = self.page
    if half is not None and half.freeze and half.running:
        half.freeze_now()


def _logs_nothing(self: Any) -> None:
    _publish_all(self)
    self.dirty_frames.clear()


def _same_generation(last: int, found: int) -> int:
    return last or found or 1


HOST = (
    _host("double-fetch", "applies words that it loads again after the check", HostPage,
          "import_words", _double_fetch, "TURN-14"),
    Mutant(
        name="dirty-bitmap",
        role="host",
        mistake="a dirty bitmap says what is new; a nested NMI's mark is overwritten",
        patches=(
            (HostPage, "import_words", _imports_dirty_only),
            (Seam, "wrmsr", marks_dirty),
        ),
        likely=("SEAM-09",),
    ),
    _host("bytewise-store", "publishes words byte by byte", HostPage, "publish", _bytewise,
          "TURN-15"),
    _host("relative-index", "fixed counters packed from the other end", HostPage, "_turn_values",
          _packed_indices, "CNT-02"),
    _host("sticky-status", "never takes acknowledgements", HostPage, "load_status", _sticky,
          "OVF-09"),
    _host("ovf-replay", "each import does the last OVF_CTRL again", HostPage, "import_words",
          _replays, "DIF-03"),
    _host("lost-update", "a PMI's entry overwrites what the guest stored in FROZEN", HostPage,
          "note_pmi", _overwrites_at_pmi, "TURN-16"),
    _host("freeze-any-nmi", "freezes for an NMI that is no PMI", EntryLoop, "_inject",
          _freezes_for_any, "HOLD-03"),
    _host("re-raise", "COMMIT raises a PMI from status that is left", HostPage, "commit",
          _reraises, "OVF-0*"),
    _host("unmasked-width", "publishes counters beyond their width", HostPage, "_turn_values",
          _unmasked_width, "WID-07/a"),
    _host("stale-status-at-stop", "publishes the status from before the stop", HostPage,
          "_store_host", _early_status, "AUTO-02/a"),
    _host("filter-bypass", "COMMIT does not ask the event filter", Counters, "start_paused",
          _unfiltered, "FLT-16/b"),
    _host("no-import", "a trapped access in FROZEN does not import", PageRegistrar, "_import",
          staticmethod(_imports_nothing), "RPM-10"),
    _host("stale-hold", "a released hold never ends at an import", HostPage, "import_words",
          _keeps_hold, "HOLD-11"),
    _host("no-generation", "leaves the generation when it leaves the page", HostPage, "detach",
          _keeps_generation, "LIFE-02"),
    _host("same-generation", "a new registration keeps its number", registrar,
          "next_generation", _same_generation, "LIFE-01"),
    _host("auto-unmasks-guest", "LVTPC_AUTO clears a mask that the guest set", HostPage, "commit",
          _unmasks_all, "AUTO-02/*"),
    _host("pmi-lost-at-commit", "COMMIT forgets a PMI that waits", HostPage, "commit",
          _forgets_pending, "TURN-17"),
    _host("save-without-import", "saves what the page had before", migrate, "save", _saves_old,
          "LIFE-04"),
    _host("restore-loses-pmi", "restores no PMI that was pending", migrate, "restore",
          _restores_none, "MIG-09/*"),
    _host("stores-tail", "stores beyond the declared size", HostPage, "publish", _stores_tail,
          "PVP-11"),
    _host("partial-commit", "a refused COMMIT takes the good words", HostPage, "import_words",
          _takes_part, "TURN-18"),
    _host("believes-own-word", "reads its own words back from the page", HostPage, "import_words",
          _believes_host_word, "TURN-13"),
    _host("counts-in-hold", "a freeze does not stop the counters", HostPage, "freeze_now",
          _keeps_counting, "HOLD-01"),
    _host("hides-global-ctrl", "GLOBAL_CTRL reads 0 during a hold", HostPage, "_turn_values",
          _hides_enables, "HOLD-01"),
    _host("late-pmi-lost", "drops a PMI that finds the state FROZEN", EntryLoop, "_deliver",
          _drops_late, "TURN-16"),
    _host("pmi-seq-any-nmi", "pmi_seq counts NMIs that are no PMI", EntryLoop, "_inject",
          _counts_all_nmis, "HOLD-09"),
    _host("init-discards", "INIT throws the page's newer words away", PageRegistrar,
          "end_registration", _discards, "LIFE-06"),
    _host("status-without-count", "writes status and leaves the count in acked", HostPage,
          "status_written", _writes_without_count, "SEAM-10"),
    _host("writes-back", "publishes every register in FROZEN, over what the guest stored",
          HostPage, "load_status", _writes_back, "TURN-01/a"),
    _host("end-without-start", "the end of a registration leaves held counters stopped",
          PageRegistrar, "end_registration", _ends_without_start, "LIFE-11"),
    _host("reports-first-only", "reports the first refused word, not every one", HostPage,
          "import_words", _reports_first, "TURN-04"),
    _host("refusal-sticks", "after one refusal every COMMIT is refused", HostPage, "import_words",
          _stays_refused, "TURN-18"),
    _host("freezes-early", "freezes when the PMI is delivered, not when its NMI is injected",
          EntryLoop, "_deliver_pmi", _freezes_at_delivery, "HOLD-04"),
    _host("no-dirty-log", "stores to guest memory and logs nothing", HostVcpu, "_publish",
          _logs_nothing, "LIFE-08/a"),
    _host("not-counting-zero", "not_counting is always 0", Counters, "not_counting",
          property(lambda _: 0), "CNT-11"),
    _host("ovf-ctrl-not-taken", "never takes ovf_ctrl from the page", HostPage, "take_ovf_ctrl",
          lambda _: None, "MSR-11/c"),
)  # fmt: skip
