"""Broken guests: each mistake replaces one method of this project's seam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pvpmu.conformance.mutation import Mutant, was
from pvpmu.guest import pvpage
from pvpmu.guest.msr import Seam
from pvpmu.guest.pvpage import GuestPage, fixed_enables
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import EVTSEL_EN, FIXED_BASE, LVT_MASKED
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.shared.units import U64_MASK

Write = Callable[[int], None]
DIRTY = page.PAGE_SIZE // 8 - 1
"""The word of the page in which a mutant keeps its dirty bitmap."""

_running_routes = was(GuestPage, "_running_routes")
_frozen_routes = was(GuestPage, "_frozen_routes")
_rdpmc_indices = was(GuestPage, "_rdpmc_indices")
_acknowledge = was(GuestPage, "_acknowledge")
_wrmsr = was(Seam, "wrmsr")
_global_ctrl_write = was(GuestPage, "_global_ctrl_write")


def _clears_all(self: Any) -> Write:
    """Acknowledge every bit that is set."""
    words, mask, right = self.words, self.words[page.STATUS_MASK], _acknowledge(self)

    def write(value: int) -> None:
        if value & mask and not value & self._ovf_ctrl_reserved:
            value |= (words[page.RAISED] ^ words[page.ACKED]) & mask
        right(value)

    return write


def _elided_ack(self: Any) -> Write:
    words, right = self.words, _acknowledge(self)

    def write(value: int) -> None:
        if value != words[page.OVF_CTRL]:
            right(value)

    return write


def _plain_store_ack(self: Any) -> Write:
    words, mask = self.words, self.words[page.STATUS_MASK]

    def write(value: int) -> None:
        if self._refused(value):
            return
        acked = words[page.ACKED]
        toggles = (words[page.RAISED] ^ acked) & value & mask
        words[page.ACKED] = (acked ^ toggles) + page.ACK_COUNT_ONE & U64_MASK
        words[page.OVF_CTRL] = value

    return write


def _raised_first_ack(self: Any) -> Write:
    """Load raised, then acked."""
    words, mask = self.words, self.words[page.STATUS_MASK]
    exchange = pvpage.compare_exchange_of(words)

    def write(value: int) -> None:
        if self._refused(value):
            return
        raised = words[page.RAISED]
        acked = words[page.ACKED]
        wanted = (acked ^ (raised ^ acked) & value & mask) + page.ACK_COUNT_ONE & U64_MASK
        if exchange is None:
            words[page.ACKED] = wanted
        else:
            exchange(page.ACKED, acked, wanted)
        words[page.OVF_CTRL] = value

    return write


def _reads_acked_once(self: Any) -> Callable[[], int]:
    words, mask = self.words, self.words[page.STATUS_MASK]

    def read() -> int:
        seq = words[page.PMI_SEQ]
        if seq != words[page.PMI_ACK]:
            words[page.PMI_ACK] = seq
        acked = words[page.ACKED]
        status: int = (words[page.RAISED] ^ acked) & mask
        return status

    return read


def _never_acks_pmi(self: Any) -> Callable[[], int]:
    words, mask = self.words, self.words[page.STATUS_MASK]
    return lambda: int((words[page.ACKED] ^ words[page.RAISED]) & mask)


def _global_ctrl_without_release(self: Any) -> Write:
    words, right = self.words, _global_ctrl_write(self)

    def write(value: int) -> None:
        if value == 0:
            words[page.GLOBAL_CTRL] = value
        else:
            right(value)

    return write


def _release_first(self: Any) -> Write:
    """The hold ends before the new value is in the page."""
    words, right = self.words, _global_ctrl_write(self)

    def write(value: int) -> None:
        if not value & words[page.GLOBAL_CTRL_RESERVED]:
            words[page.RELEASE_SEQ] = words[page.FREEZE_SEQ]
        right(value)

    return write


def _stores_commit(self: Any) -> Write:
    """The COMMIT's value goes into the page too."""
    words, right = self.words, _global_ctrl_write(self)

    def write(value: int) -> None:
        if not value & words[page.GLOBAL_CTRL_RESERVED]:
            words[page.GLOBAL_CTRL] = value
        right(value)

    return write


def _selector_never_commits(self: Any, address: int, index: int, bit: int) -> Write:
    words, reserved = self.words, self.words[page.EVTSEL_RESERVED]
    del bit

    def write(value: int) -> None:
        if value & reserved:
            self._exit_write(address, value)
        else:
            words[index] = value

    return write


def _fixed_never_commits(self: Any) -> Write:
    words, reserved = self.words, self.words[page.FIXED_CTRL_RESERVED]

    def write(value: int) -> None:
        if value & reserved:
            self._exit_write(msr.FIXED_CTR_CTRL, value)
        else:
            words[page.FIXED_CTR_CTRL] = value

    return write


def _selector_unchecked(self: Any, address: int, index: int, bit: int) -> Write:
    words = self.words

    def write(value: int) -> None:
        if value & EVTSEL_EN and words[page.GLOBAL_CTRL] & bit and not self.held:
            self._exit_write(address, value)
        else:
            words[index] = value

    return write


def _fixed_unchecked(self: Any) -> Write:
    words = self.words

    def write(value: int) -> None:
        enables = words[page.GLOBAL_CTRL] >> FIXED_BASE
        if fixed_enables(value) & enables and not self.held:
            self._exit_write(msr.FIXED_CTR_CTRL, value)
        else:
            words[page.FIXED_CTR_CTRL] = value

    return write


def _no_sign_extension(self: Any, index: int) -> Write:
    words = self.words

    def write(value: int) -> None:
        words[index] = value & 0xFFFF_FFFF

    return write


def _bytewise(self: Any, index: int) -> Write:
    """Eight stores of a byte each, low byte first."""
    words, mask = self.words, self.words[page.GP_MASK]
    high = mask & ~0xFFFF_FFFF

    def write(value: int) -> None:
        low = value & 0xFFFF_FFFF
        value = low | high if low >> 31 else low
        for shift in range(0, 64, 8):
            byte = 0xFF << shift
            words[index] = words[index] & ~byte & U64_MASK | value & byte

    return write


def _elided_counter_write(self: Any) -> Any:
    routes = _running_routes(self)
    for address, index, bit in self._turn_registers():
        if bit and address not in routes.write:
            routes.write[address] = _same_counter_elided(self, address, index)
    return routes


def _same_counter_elided(self: Any, address: int, index: int) -> Write:
    def write(value: int) -> None:
        if value != self.words[index]:
            self._exit_write(address, value)

    return write


def _stale_read(
    self: Any, exit_read: Callable[[int], int], address: int, index: int, bit: int
) -> Callable[[], int]:
    del exit_read, address, bit
    return lambda: int(self.words[index])


def _ignores_generation(self: Any) -> None:
    if self._page is not None:
        running = self._words[page.LIVE] != 0
        if running != self._running:
            self._running = running
            self._use(self._page.running if running else self._page.frozen)


def _frozen_but(**changes: Any) -> Callable[[Any], Any]:
    """FROZEN's routes with other bits that make a register's write exit."""

    def routes(self: Any) -> Any:
        found = _frozen_routes(self)
        for address, (index, refused) in list(found.write_word.items()):
            role = BY_ADDRESS[address].role
            found.write_word[address] = index, changes.get(role.name, lambda bits: bits)(refused)
        return found

    return routes


def _fast_from_page(self: Any) -> Any:
    return [
        (first | ecx, index, bit)
        for ecx, index, bit in _rdpmc_indices(self)
        for first in (0, msr.RDPMC_FAST)
    ]


def marks_dirty(self: Any, address: int, value: int) -> None:
    """Load the bitmap, write the word, store the bitmap with the word's bit."""
    index = page.WORD_OF.get(address)
    if self._page is None or self._running or index is None:
        _wrmsr(self, address, value)
        return
    dirty = self._words[DIRTY] | 1 << index - page.TURN_FIRST
    _wrmsr(self, address, value)
    self._words[DIRTY] = dirty


def _guest(name: str, mistake: str, owner: Any, attribute: str, wrong: Any, *likely: str) -> Mutant:
    return Mutant(
        name=name, role="guest", mistake=mistake,
        patches=((owner, attribute, wrong),), likely=likely,
    )  # fmt: skip


GUEST = (
    _guest("ack-clears-all", "acknowledges every bit that is set", GuestPage, "_acknowledge",
           _clears_all, "OVF-07"),
    _guest("ack-elided", "an OVF_CTRL of the same value does nothing", GuestPage, "_acknowledge",
           _elided_ack, "TURN-08"),
    _guest("ack-plain-store", "stores acked instead of exchanging it", GuestPage, "_split_ack",
           lambda self, _: _plain_store_ack(self), "SEAM-0*"),
    _guest("ack-raised-first", "loads raised before acked", GuestPage, "_split_ack",
           lambda self, _: _raised_first_ack(self), "SEAM-0*"),
    _guest("status-acked-once", "reads status without a second look at acked", GuestPage,
           "_read_status", _reads_acked_once, "SEAM-06"),
    _guest("pmi-ack-missing", "never stores pmi_ack", GuestPage, "_read_status", _never_acks_pmi,
           "HOLD-09"),
    _guest("no-release", "GLOBAL_CTRL = 0 does not end a hold", GuestPage, "_global_ctrl_write",
           _global_ctrl_without_release, "HOLD-05"),
    _guest("release-first", "ends the hold before it stores GLOBAL_CTRL", GuestPage,
           "_global_ctrl_write", _release_first, "SEAM-08"),
    _guest("commit-stored", "stores the value of a COMMIT in the page", GuestPage,
           "_global_ctrl_write", _stores_commit, "TURN-01/*"),
    _guest("commit-global-only", "a selector never is a COMMIT", GuestPage, "_evtsel_write",
           _selector_never_commits, "TURN-02"),
    _guest("commit-fixed-missed", "FIXED_CTR_CTRL never is a COMMIT", GuestPage,
           "_fixed_ctr_ctrl_write", _fixed_never_commits, "TURN-03"),
    _guest("reserved-unchecked", "stores reserved bits of a selector", GuestPage, "_evtsel_write",
           _selector_unchecked, "MSR-05/a"),
    _guest("fixed-unchecked", "stores reserved bits of FIXED_CTR_CTRL", GuestPage,
           "_fixed_ctr_ctrl_write", _fixed_unchecked, "MSR-08/3"),
    _guest("legacy-unsigned", "stores a legacy value without its sign", GuestPage,
           "_legacy_counter_write", _no_sign_extension, "WID-02/b"),
    _guest("bytewise-word", "stores a counter byte by byte", GuestPage, "_legacy_counter_write",
           _bytewise, "SEAM-09"),
    _guest("counter-elided", "a running counter's write of the old value does nothing", GuestPage,
           "_running_routes", _elided_counter_write, "RUN-01"),
    _guest("stale-counter", "reads a running counter from the page", GuestPage, "_running_read",
           _stale_read, "RUN-11"),
    _guest("ignores-generation", "uses a page that the host has left", Seam, "entered",
           _ignores_generation, "LIFE-12"),
    _guest("counter-unchecked", "stores a counter beyond its width", GuestPage, "_frozen_routes",
           _frozen_but(PMC=lambda _: 0, FIXED_CTR=lambda _: 0), "WID-05/a"),
    _guest("lvtpc-unchecked", "stores LVTPC bits that fault, or that the APIC drops", GuestPage,
           "_frozen_routes", _frozen_but(LVTPC=lambda _: 0), "AUTO-02/b"),
    _guest("auto-mask-hidden", "with LVTPC_AUTO stores a mask that the host cannot see", GuestPage,
           "_frozen_routes", _frozen_but(LVTPC=lambda bits: bits & ~LVT_MASKED), "AUTO-02/b"),
    _guest("fast-rdpmc-whole", "serves fast RDPMC with the whole word", GuestPage,
           "_rdpmc_indices", _fast_from_page, "RPM-05/a"),
)  # fmt: skip
