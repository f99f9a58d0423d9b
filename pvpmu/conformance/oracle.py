"""A PMU by the book: what the random layer compares with. It knows no host, no page, no perf.

Source: SDM vol. 3B "Performance Monitoring" (registers, enables, overflow, PMI), vol. 4 (MSRs),
vol. 2 RDPMC; where they disagree with KVM, ``profile`` chooses as the specification says. One NMI
waits while NMIs are blocked, two otherwise. It imports nothing of the implementation, on purpose:
addresses and bits stand here a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Seen = tuple[int | None, bool, bool]
"""(value, #GP, refused by the host)."""
Fields = Mapping[str, Any]

DONE: Seen = (None, False, False)
FAULT: Seen = (None, True, False)
REFUSED: Seen = (None, False, True)
SELECTORS = {0x003C: 0, 0x00C0: 1, 0x013C: 2, 0x4F2E: 3, 0x412E: 4, 0x00C4: 5, 0x00C5: 6}
_FIXED_KINDS = (1, 0, 2)
EVENTS = (
    "cycles", "instructions", "ref_cycles", "cache_references", "cache_misses", "branches",
    "branch_misses",
)  # fmt: skip
_EMULATED = (1, 5)
LEGACY, FULL, EVTSEL, FIXED = 0xC1, 0x4C1, 0x186, 0x309
CAPS, FIXED_CTRL, STATUS, GLOBAL_CTRL, OVF_CTRL, LVTPC = 0x345, 0x38D, 0x38E, 0x38F, 0x390, 0x834
_P6 = (0xC1, 0xC2, 0x186, 0x187)
_USR, _OS, _INT, _EN, _MODIFIERS = 1 << 16, 1 << 17, 1 << 20, 1 << 22, 0xFF84_0000
_EVTSEL_RESERVED = 0xFFFF_FFFF_0020_0000
_LVT_MASKED, _LVT_MODE, _LVT_KEPT = 1 << 16, 0x700, 0x1_17FF


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Where sources disagree: what one profile says."""

    fixed_faults: bool
    p6: bool
    fast_rdpmc: bool
    ovf_reads_back: bool
    masks: bool
    counts_emulated: bool
    power_on_fixed: bool
    reset_enables: bool
    period_from_value: bool


PROFILES = {
    "kvm-5.14": Disagreement(False, True, True, True, False, False, True, False, True),
    "kvm-6.12": Disagreement(False, True, False, False, True, True, False, True, False),
    "strict-sdm": Disagreement(True, False, False, False, True, True, False, True, True),
}


class Counter:
    """One counter. ``distance``: events to its overflow while it runs; ``counted`` since start."""

    __slots__ = ("bit", "control", "counted", "distance", "kind", "mask", "number", "rings",
                 "running", "value")  # fmt: skip

    def __init__(self, number: int, bit: int, width: int) -> None:
        self.number, self.bit, self.mask = number, bit, (1 << width) - 1
        self.control = self.value = self.counted = self.rings = 0
        self.distance = 1 << width
        self.kind: int | None = None
        self.running = False


class Oracle:
    """One vCPU's PMU: ``op`` does what the operation of that name does in a vector."""

    def __init__(self, config: Fields) -> None:
        self.config = config
        self.says = PROFILES[config["profile"]]
        version = config["version"]
        self.has_globals = version >= 2
        self.gp = [Counter(i, 1 << i, config["gp_width"]) for i in range(config["gp"])]
        fixed = config["fixed"] if self.has_globals else 0
        self.fixed = [Counter(j, 1 << 32 + j, config["fixed_width"]) for j in range(fixed)]
        self.counters = [*self.gp, *self.fixed]
        self.gp_bits = sum(c.bit for c in self.gp)
        self.all_bits = sum(c.bit for c in self.counters)
        self.full_width = config["full_width"] and config["pdcm"]
        nibbles = sum(0xB << 4 * c.number for c in self.fixed)
        self._reserved = {
            FIXED_CTRL: ~nibbles, GLOBAL_CTRL: ~self.all_bits, OVF_CTRL: ~(self.all_bits | 3 << 62),
        }  # fmt: skip
        everything = self.says.power_on_fixed or not self.has_globals
        self.global_ctrl = self.all_bits if everything else self.gp_bits
        self.status = self.ovf_ctrl = self.fixed_ctrl = 0
        self.lvtpc = _LVT_MASKED
        self.pending = 0
        self.irr: set[int] = set()
        self.blocked = self.in_service = self.interrupts = False
        self.filter: Fields | None = None
        self._answers: dict[str, Callable[[Fields], Seen]] = {
            "rd": lambda f: _seen(self.read(f["msr"]), FAULT),
            "wr": lambda f: DONE if self.write(f["msr"], f["value"]) else FAULT,
            "rdpmc": self._rdpmc,
            "host_get": self._host_get,
            "host_set": lambda f: DONE if self._host_set(f["msr"], f["value"]) else REFUSED,
            "filter": self._set_filter,
            "reset": self._reset,
            "restore": self._restore,
        }

    def op(self, name: str, f: Fields, on_nmi: Callable[[], None]) -> Seen:
        """Do it; NMIs that it brings are taken before it returns."""
        if name == "run":
            counts = [f[event] for event in EVENTS]
            (self._emulate if f["emulated"] else self._run)(counts, f["cpl"], on_nmi)
        elif name == "nmi":
            self._queue()
            self._enter(on_nmi)
        elif name == "iflag":
            if not self.blocked and not self.in_service:
                self.interrupts = f["value"]
                self._enter(on_nmi)
        elif name in self._answers:
            return self._answers[name](f)
        return DONE

    # Registers -----------------------------------------------------------------------------------

    def _counter(self, address: int) -> Counter | None:
        """The counter whose value has this address."""
        for first, bank in ((LEGACY, self.gp), (FULL, self.gp), (FIXED, self.fixed)):
            if first <= address < first + len(bank) and (first != FULL or self.full_width):
                return bank[address - first]
        return None

    def read(self, address: int) -> int | None:
        """RDMSR; None: #GP."""
        counter = self._counter(address)
        if counter is not None:
            return counter.value
        if EVTSEL <= address < EVTSEL + len(self.gp):
            return self.gp[address - EVTSEL].control
        if address == LVTPC:
            return self.lvtpc
        if address == CAPS:
            return (1 << 13 if self.full_width else 0) if self.config["pdcm"] else None
        if self.has_globals and FIXED_CTRL <= address <= OVF_CTRL:
            last = self.ovf_ctrl if self.says.ovf_reads_back else 0
            return (self.fixed_ctrl, self.status, self.global_ctrl, last)[address - FIXED_CTRL]
        return 0 if address in _P6 and self.says.p6 else None

    def write(self, address: int, value: int) -> bool:
        """WRMSR; False: #GP, and nothing has changed."""
        counter = self._counter(address)
        if counter is not None:
            return self._write_counter(counter, address, value)
        if EVTSEL <= address < EVTSEL + len(self.gp):
            return self._write_evtsel(self.gp[address - EVTSEL], value)
        if address == LVTPC:
            if value >> 32:
                return False
            self.lvtpc = value & _LVT_KEPT
            return True
        if not self.has_globals or address not in self._reserved:
            return address in _P6 and self.says.p6
        if value & self._reserved[address]:
            return False
        if address == OVF_CTRL:
            self.status &= ~value
            self.ovf_ctrl = value
        elif address == GLOBAL_CTRL:
            toggled, self.global_ctrl = value ^ self.global_ctrl, value
            self._restart(toggled)
        else:
            changed, self.fixed_ctrl = value ^ self.fixed_ctrl, value
            self._restart(sum(c.bit for c in self.fixed if changed >> 4 * c.number & 0xF))
        return True

    def _write_counter(self, counter: Counter, address: int, value: int) -> bool:
        checked = address >= FULL or (address >= FIXED and self.says.fixed_faults)
        if checked and value & ~counter.mask:
            return False
        if address < LEGACY + 8:
            value = (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000
        self._set_value(counter, value)
        return True

    def _set_value(self, counter: Counter, value: int) -> None:
        counter.value = value & counter.mask
        since = 0 if self.says.period_from_value else counter.counted
        counter.distance = counter.mask + 1 - (value - since & counter.mask)

    def _write_evtsel(self, counter: Counter, value: int) -> bool:
        if value & _EVTSEL_RESERVED:
            return False
        if value != counter.control:
            counter.control = value
            self._restart(counter.bit)
        return True

    def _rdpmc(self, f: Fields) -> Seen:
        index, fast = f["index"] & ~(1 << 31), f["index"] >> 31
        bank, number = (self.fixed if index >> 30 else self.gp), index & ~(1 << 30)
        denied = f["cpl"] and f["protected"] and not f["pce"]
        if denied or number >= len(bank) or (fast and not self.says.fast_rdpmc):
            return FAULT
        value = bank[number].value
        return (value & 0xFFFF_FFFF if fast else value), False, False

    # The VMM -------------------------------------------------------------------------------------

    @staticmethod
    def _listed(address: int) -> bool:
        """Whether some PMU has it in its save list."""
        banks = ((LEGACY, 8), (EVTSEL, 8), (FIXED, 3))
        single = address in (CAPS, FIXED_CTRL, STATUS, GLOBAL_CTRL)
        return single or any(first <= address < first + size for first, size in banks)

    def _host_get(self, f: Fields) -> Seen:
        listed = 0 if self._listed(f["msr"]) else None
        value = self.read(f["msr"])
        return _seen(listed if value is None else value, REFUSED)

    def _host_set(self, address: int, value: int) -> bool:
        counter = self._counter(address)
        exists = counter is not None or EVTSEL <= address < EVTSEL + len(self.gp)
        exists = exists or address == LVTPC
        exists = exists or (self.has_globals and FIXED_CTRL <= address <= OVF_CTRL)
        if not exists:
            return self._listed(address) and value == 0
        if counter is not None and address < LEGACY + 8:
            self._set_value(counter, value)
            return True
        if address == STATUS and not value & ~self.all_bits:
            self.status = value
            return True
        if address == OVF_CTRL and not value & self._reserved[OVF_CTRL]:
            self.ovf_ctrl = value
            return True
        return address not in (STATUS, OVF_CTRL) and self.write(address, value)

    def _set_filter(self, f: Fields) -> Seen:
        self.filter = None if f["action"] == "none" else f
        self._restart(self.all_bits)
        return DONE

    def _restore(self, f: Fields) -> Seen:
        # Another VM has no filter yet.
        if f["fresh"]:
            self.filter = None
        self._restart(self.all_bits)
        return DONE

    def _allowed(self, counter: Counter) -> bool:
        f = self.filter
        if f is None:
            return True
        if counter in self.fixed:
            listed = bool(f["fixed"] >> counter.number & 1)
        else:
            listed = any(
                entry["event"] | entry["umask"] << 8 == counter.control & 0xFFFF
                for entry in f["events"]
            )
        allow: bool = f["action"] == "allow"
        return listed == allow

    def _reset(self, f: Fields) -> Seen:
        self.lvtpc, self.pending = _LVT_MASKED, 0
        self.irr.clear()
        if not self.blocked and not self.in_service:
            self.interrupts = False
        if f["kind"] == "init":
            return DONE
        for counter in self.counters:
            counter.value = counter.control = 0
        self.status = self.ovf_ctrl = self.fixed_ctrl = 0
        enabled = self.says.reset_enables or not self.has_globals
        self.global_ctrl = self.gp_bits if enabled else 0
        self._restart(self.all_bits)
        return DONE

    # Counting ------------------------------------------------------------------------------------

    def _restart(self, bits: int) -> None:
        """Stop these counters, and start those that may count, from their present values."""
        for counter in self.counters:
            if counter.bit & bits:
                self._decode(counter)
                own = counter.control & (3 if counter.bit >> 32 else _EN)
                counter.running = bool(own and self.global_ctrl & counter.bit) and self._allowed(
                    counter
                )
                counter.counted = 0
                counter.distance = counter.mask + 1 - counter.value

    def _decode(self, counter: Counter) -> None:
        """Event and rings (bit 0: CPL 0, bit 1: above) of a control word."""
        if counter.bit >> 32:
            counter.control = self.fixed_ctrl >> 4 * counter.number & 0xF
            counter.kind = _FIXED_KINDS[counter.number]
            counter.rings = counter.control & 3
        else:
            control = counter.control
            counter.kind = SELECTORS.get(control & 0xFFFF)
            counter.rings = bool(control & _OS) | bool(control & _USR) << 1

    def _run(self, counts: list[int], cpl: int, on_nmi: Callable[[], None]) -> None:
        """Step s of n has retired ``count * s // n`` of each event: as the kit's ``run`` says."""
        steps, done = max(counts), 0
        ring = 2 if cpl else 1
        while done < steps:
            until = steps
            active = [
                c for c in self.counters
                if c.running and c.rings & ring and c.kind is not None
                and not c.control & (0 if c.bit >> 32 else _MODIFIERS)
            ]  # fmt: skip
            for c in active:
                whole = counts[c.kind or 0]
                wanted = whole * done // steps + c.distance
                if wanted <= whole:
                    until = min(until, -(-wanted * steps // whole))
            over = []
            for c in active:
                whole = counts[c.kind or 0]
                delta = whole * until // steps - whole * done // steps
                c.value = c.value + delta & c.mask
                c.counted += delta
                c.distance -= delta
                if not c.distance:
                    over.append(c)
            done = until
            self._overflow(over)
            self._enter(on_nmi)

    def _emulate(self, counts: list[int], cpl: int, on_nmi: Callable[[], None]) -> None:
        """The host retires instructions and branches; the PMI comes at the end."""
        over = []
        for kind in _EMULATED if self.says.counts_emulated else ():
            for c in self.counters:
                if counts[kind] and c.running and c.kind == kind and c.rings & (2 if cpl else 1):
                    value = c.value + counts[kind]
                    c.value = value & c.mask
                    self._restart(c.bit)
                    if value > c.mask:
                        over.append(c)
        self._overflow(over)
        self._enter(on_nmi)

    def _overflow(self, over: list[Counter]) -> None:
        """Overflows of one instant: status for each, one PMI for all."""
        interrupt = False
        for c in over:
            self.status |= c.bit
            interrupt |= bool(c.control & (8 if c.bit >> 32 else _INT))
            self._restart(c.bit)
        vector, mode = self.lvtpc & 0xFF, self.lvtpc & _LVT_MODE
        accepted = mode == 0x400 or (mode == 0 and vector >= 16)
        if interrupt and accepted and not self.lvtpc & _LVT_MASKED:
            if mode:
                self._queue()
            else:
                self.irr.add(vector)
            if self.says.masks:
                self.lvtpc |= _LVT_MASKED

    def _queue(self) -> None:
        self.pending = min(self.pending + 1, 1 if self.blocked else 2)

    def _enter(self, on_nmi: Callable[[], None]) -> None:
        """Take what can be taken; a handler starts with IF clear, and IRET brings it back."""
        while True:
            interrupts = self.interrupts
            if self.pending and not self.blocked:
                self.pending -= 1
                self.blocked, self.interrupts = True, False
                on_nmi()
                self.blocked = False
            elif self.irr and interrupts:
                self.irr.remove(max(self.irr))
                self.in_service, self.interrupts = True, False
                on_nmi()
                self.in_service = False
            else:
                return
            self.interrupts = interrupts


def _seen(value: int | None, otherwise: Seen) -> Seen:
    return otherwise if value is None else (value, False, False)
