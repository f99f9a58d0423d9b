"""The guest half of the per-vCPU page: what the MSR seam may do without an exit.

One :class:`Routes` for each state. State changes only at VM-entry, so the seam swaps routes there
and nowhere else; between two entries the only concurrency is an NMI, whose handler leaves
GLOBAL_CTRL as it found it.

**Invariants**: at most one store per word and access; no read-modify-write crosses an NMI except
OVF_CTRL's and the release of a hold, which are compare-exchanges; GLOBAL_CTRL is stored before the
hold is released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import EVTSEL_EN, FIXED_BASE, FIXED_EN, LVT_MASKED, PmuCpuid
from pvpmu.shared.page import WORD_OF, Words
from pvpmu.shared.registers import BY_ADDRESS, Role
from pvpmu.shared.units import U64_MASK, MsrAddress

# Module globals: looking a word up in the module costs as much as loading it from the page.
_ACKED, _RAISED, _OVF_CTRL, _PMI_SEQ = page.ACKED, page.RAISED, page.OVF_CTRL, page.PMI_SEQ
_COUNT_ONE = page.ACK_COUNT_ONE
_FREEZE_SEQ, _RELEASE_SEQ = page.FREEZE_SEQ, page.RELEASE_SEQ
_GLOBAL_CTRL, _FIXED_CTR_CTRL = page.GLOBAL_CTRL, page.FIXED_CTR_CTRL
_COUNTERS = (Role.PERFCTR, Role.PMC, Role.FIXED_CTR)


@dataclass(slots=True)
class Routes:
    """How one state serves each access. What is in none of the tables exits.

    ``read_word``/``rdpmc_word``: MSR address or RDPMC index to page word. ``write_word``: address
    to (page word, value bits that must exit). ``read``, ``rdpmc``, ``write``: accesses that need
    more than one load or store; ``acknowledge``: the write of OVF_CTRL, a command.
    """

    read_word: dict[int, int] = field(default_factory=dict)
    rdpmc_word: dict[int, int] = field(default_factory=dict)
    write_word: dict[int, tuple[int, int]] = field(default_factory=dict)
    read: dict[int, Callable[[], int]] = field(default_factory=dict)
    rdpmc: dict[int, Callable[[], int]] = field(default_factory=dict)
    write: dict[int, Callable[[int], None]] = field(default_factory=dict)
    acknowledge: Callable[[int], None] | None = None


class GuestPage:
    """A registered page, ``words``, and the exits that its accesses fall back to.

    ``exit_read``, ``exit_rdpmc`` and ``exit_write`` are the trapped RDMSR, RDPMC and WRMSR;
    ``exit_commit`` is the WRMSR of a COMMIT, if it is another. ``running``, ``frozen``: the routes
    of a state; ``pmi``: those in FROZEN from a freeze on; ``handler``: those in RUNNING within a
    PMI's handler, if they differ. ``flushes``: the end of a PMI's handler is to be told to
    :meth:`flush`.
    """

    def __init__(
        self,
        words: Words,
        cpuid: PmuCpuid,
        *,
        exit_read: Callable[[MsrAddress], int],
        exit_rdpmc: Callable[[int], int],
        exit_write: Callable[[MsrAddress, int], None],
        exit_commit: Callable[[MsrAddress, int], None] | None = None,
    ) -> None:
        self.words = words
        self._cpuid = cpuid
        self._exit_read = exit_read
        self._exit_rdpmc = exit_rdpmc
        self._exit_write = exit_write
        self._exit_commit = exit_commit or exit_write
        self._ovf_ctrl_reserved = words[page.OVF_CTRL_RESERVED]
        # With LVTPC_AUTO the host must see the guest mask, even where the mask is set (FEA-8).
        auto = words[page.FEATURES] & page.FEATURE_LVTPC_AUTO
        self._lvtpc_exits = words[page.LVTPC_DROPPED] | (LVT_MASKED if auto else 0)
        self._ack = self._acknowledge()
        self._status = self._read_status()
        self.frozen = self._frozen_routes()
        self.running = self._running_routes()
        self.pmi = self.frozen
        self.handler: Routes | None = None
        self.flushes = False

    @property
    def held(self) -> bool:
        """Whether the host froze the counters for a PMI and the guest has not released them."""
        return self.words[page.FREEZE_SEQ] != self.words[page.RELEASE_SEQ]

    @property
    def not_counting(self) -> int:
        """Live counters, by global index, that have no running host event."""
        return self.words[page.NOT_COUNTING]

    def flush(self) -> None:
        """The end of a PMI's handler: nothing is left to do, GLOBAL_CTRL's write was the COMMIT."""

    def starts_running(self) -> None:
        """The state has become RUNNING."""

    def handler_ends(self) -> None:
        """A handler that began in RUNNING, with routes of its own, is about to return."""

    def _frozen_routes(self) -> Routes:
        routes = self._status_routes()
        words = self.words
        for address, index, bit in self._turn_registers():
            role = BY_ADDRESS[address].role
            routes.read_word[address] = index
            if role is Role.PMC:
                routes.write_word[address] = index, ~words[page.GP_MASK] & U64_MASK
            elif role is Role.FIXED_CTR:
                routes.write_word[address] = index, ~words[page.FIXED_MASK] & U64_MASK
            elif role is Role.LVTPC:
                routes.write_word[address] = index, self._lvtpc_exits
            elif role is Role.PERFCTR:
                routes.write[address] = self._legacy_counter_write(index)
            elif role is Role.EVTSEL:
                routes.write[address] = self._evtsel_write(address, index, bit)
        if self._cpuid.has_globals:
            routes.write[msr.FIXED_CTR_CTRL] = self._fixed_ctr_ctrl_write()
            routes.write[msr.GLOBAL_CTRL] = self._global_ctrl_write()
        for ecx, index, _ in self._rdpmc_indices():
            routes.rdpmc_word[ecx] = index
        return routes

    def _status_routes(self) -> Routes:
        if not self._cpuid.has_globals:
            return Routes()
        return Routes(acknowledge=self._ack, read={msr.GLOBAL_STATUS: self._status})

    def _running_routes(self) -> Routes:
        routes = self._status_routes()
        for address, index, bit in self._turn_registers():
            if BY_ADDRESS[address].role in _COUNTERS:
                routes.read[address] = self._running_read(self._exit_read, address, index, bit)
            else:
                routes.read_word[address] = index
                exits = self._lvtpc_exits if address == msr.LVTPC else 0
                routes.write[address] = self._changed_write(address, index, exits)
        for ecx, index, bit in self._rdpmc_indices():
            routes.rdpmc[ecx] = self._running_read(self._exit_rdpmc, ecx, index, bit)
        return routes

    def _turn_registers(self) -> list[tuple[int, int, int]]:
        """(MSR address, page word, global-index bit or 0) of every register in the page."""
        found = []
        for address, index in WORD_OF.items():
            register = BY_ADDRESS[address]
            if register.exists(self._cpuid):
                number = register.index + (FIXED_BASE if register.role is Role.FIXED_CTR else 0)
                bit = 1 << number if register.role in (*_COUNTERS, Role.EVTSEL) else 0
                found.append((address, index, bit))
        return found

    def _rdpmc_indices(self) -> list[tuple[int, int, int]]:
        gp = [(i, page.PMC + i, 1 << i) for i in range(self._cpuid.gp)]
        fixed = [
            (msr.RDPMC_FIXED | j, page.FIXED_CTR + j, 1 << FIXED_BASE + j)
            for j in range(self._cpuid.fixed)
        ]
        return gp + fixed

    # Accesses that need more than one load or store: each lists them in order -----------------

    def _read_status(self) -> Callable[[], int]:
        """Load pmi_seq (store pmi_ack when it is new), acked, raised: in that order.

        Where an NMI can come between, acked is loaded again, and all once more if it changed: the
        handler's acknowledgement between the two loads would read as a bit that is set.
        """
        words, mask = self.words, self.words[page.STATUS_MASK]
        seen = self.words[page.PMI_ACK]
        whole = compare_exchange_of(words) is None

        def read() -> int:
            nonlocal seen
            seq = words[_PMI_SEQ]
            if seq != seen:
                seen = words[page.PMI_ACK] = seq
            while True:
                acked = words[_ACKED]
                raised = words[_RAISED]
                if whole or words[_ACKED] == acked:
                    return (raised ^ acked) & mask

        return read

    def _acknowledge(self) -> Callable[[int], None]:
        """Load acked, then raised, then compare-exchange acked; store ovf_ctrl last."""
        exchange = compare_exchange_of(self.words)
        return self._whole_ack() if exchange is None else self._split_ack(exchange)

    def _whole_ack(self) -> Callable[[int], None]:
        """Where nothing can come between two accesses: the exchange is a store."""
        words, mask = self.words, self.words[page.STATUS_MASK]

        def write(value: int) -> None:
            acked = words[_ACKED]
            toggles = (words[_RAISED] ^ acked) & value
            # Most writes name exactly bits that are set: nothing more is to be checked then.
            if toggles != value or value > mask:
                if self._refused(value):
                    return
                toggles &= mask
                if not toggles:
                    words[_OVF_CTRL] = value
                    return
            try:
                words[_ACKED] = (acked ^ toggles) + _COUNT_ONE
            except ValueError:
                # The count wraps, which a 64-bit addition does by itself.
                words[_ACKED] = (acked ^ toggles) + _COUNT_ONE & U64_MASK
            words[_OVF_CTRL] = value

        return write

    def _split_ack(self, exchange: Callable[[int, int, int], bool]) -> Callable[[int], None]:
        """Where an NMI can: what it changed in acked is looked at again."""
        words, mask = self.words, self.words[page.STATUS_MASK]

        def write(value: int) -> None:
            if self._refused(value):
                return
            while True:
                acked = words[_ACKED]
                toggles = (words[_RAISED] ^ acked) & value & mask
                if not toggles:
                    break
                if exchange(_ACKED, acked, (acked ^ toggles) + _COUNT_ONE & U64_MASK):
                    break
            words[_OVF_CTRL] = value

        return write

    def _refused(self, value: int) -> bool:
        """Whether an OVF_CTRL value may not be valid; it has then gone the trapped way."""
        refused = bool(value & self._ovf_ctrl_reserved)
        if refused:
            self._exit_write(msr.OVF_CTRL, value)
        return refused

    def _legacy_counter_write(self, index: int) -> Callable[[int], None]:
        """One store of the low 32 bits, sign-extended from bit 31 and cut to the width."""
        words, mask = self.words, self.words[page.GP_MASK]
        high = mask & ~0xFFFF_FFFF

        def write(value: int) -> None:
            low = value & 0xFFFF_FFFF
            words[index] = low | high if low >> 31 else low

        return write

    def _evtsel_write(self, address: int, index: int, bit: int) -> Callable[[int], None]:
        """Enabling with the global bit on and no hold is COMMIT; anything else one store."""
        words, reserved = self.words, self.words[page.EVTSEL_RESERVED]
        # Without GLOBAL_CTRL (version 1) the counter's own enable starts it.
        ungated = not self._cpuid.has_globals

        def write(value: int) -> None:
            starts = value & EVTSEL_EN and (ungated or words[_GLOBAL_CTRL] & bit)
            if value & reserved:
                self._exit_write(address, value)
            elif starts and not self.held:
                self._exit_commit(address, value)
            else:
                words[index] = value

        return write

    def _fixed_ctr_ctrl_write(self) -> Callable[[int], None]:
        """Likewise for the fixed counters' control word."""
        words, reserved = self.words, self.words[page.FIXED_CTRL_RESERVED]

        def write(value: int) -> None:
            enables = words[_GLOBAL_CTRL] >> FIXED_BASE
            if value & reserved:
                self._exit_write(msr.FIXED_CTR_CTRL, value)
            elif enables and fixed_enables(value) & enables and not self.held:
                self._exit_commit(msr.FIXED_CTR_CTRL, value)
            else:
                words[_FIXED_CTR_CTRL] = value

        return write

    def _global_ctrl_write(self) -> Callable[[int], None]:
        """live != 0: release the hold, then COMMIT (value in the exit). Else store, release.

        The release is a compare-exchange: outside a hold, NMIs after the loads may freeze and
        release again, and storing the count loaded before would look like a new hold.
        """
        words, reserved = self.words, self.words[page.GLOBAL_CTRL_RESERVED]
        selectors = [(page.EVTSEL + i, 1 << i) for i in range(self._cpuid.gp)]
        exchange = compare_exchange_of(words)

        def release() -> None:
            released = words[_RELEASE_SEQ]
            frozen = words[_FREEZE_SEQ]
            if released == frozen:
                return
            if exchange is None:
                words[_RELEASE_SEQ] = frozen
            else:
                exchange(_RELEASE_SEQ, released, frozen)

        def own_enables(value: int) -> bool:
            if fixed_enables(words[page.FIXED_CTR_CTRL]) & value >> FIXED_BASE:
                return True
            return any(value & bit and words[index] & EVTSEL_EN for index, bit in selectors)

        def write(value: int) -> None:
            if value & reserved:
                self._exit_write(msr.GLOBAL_CTRL, value)
            elif value and own_enables(value):
                release()
                self._exit_commit(msr.GLOBAL_CTRL, value)
            else:
                words[_GLOBAL_CTRL] = value
                release()

        return write

    def _changed_write(self, address: int, index: int, exits: int) -> Callable[[int], None]:
        """RUNNING, control register: nothing for the same value, else the trapped WRMSR.

        ``exits``: value bits with which even the same value exits.
        """
        words, exit_write = self.words, self._exit_write

        def write(value: int) -> None:
            if value & exits or words[index] != value:
                exit_write(address, value)

        return write

    def _running_read(
        self, exit_read: Callable[[int], int], address: int, index: int, bit: int
    ) -> Callable[[], int]:
        """RUNNING, counter: a live one exits, a dead one is one load."""
        words = self.words

        def read() -> int:
            return exit_read(address) if words[page.LIVE] & bit else words[index]

        return read


@lru_cache(maxsize=256)
def fixed_enables(control: int) -> int:
    """Bitmap, by fixed counter number, of the counters that FIXED_CTR_CTRL enables."""
    enabled = 0
    number = 0
    while control:
        if control & FIXED_EN:
            enabled |= 1 << number
        control >>= 4
        number += 1
    return enabled


def compare_exchange_of(words: Words) -> Callable[[int, int, int], bool] | None:
    """Return (index, expected, wanted) -> stored, or None where a load and a store need none.

    What must be one step to an NMI is ``cmpxchg`` in C. A guest in Python takes NMIs only at
    VM-entries, so that nothing can come between two accesses to its page: there a plain store is
    that step. Instrumented windows of words, which do let NMIs in, bring their own.
    """
    own: Callable[[int, int, int], bool] | None = getattr(words, "compare_exchange", None)
    return own
