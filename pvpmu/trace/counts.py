"""What any trace comes down to: how many exits of each reason, how many accesses to each MSR."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.shared.units import MsrAddress
from pvpmu.trace.names import ANY_COUNTER, MSR_EXITS, RDPMC, READ, WRITE, MsrClass, msr_class

Access = tuple[int, MsrAddress]
"""READ, WRITE or RDPMC, and the MSR (ANY_COUNTER for RDPMC)."""

FURTHER = "(further ones)"
"""Stands for reasons, and for MSRs, beyond those that are kept apart."""
_MOST = 1 << 14
_READS = frozenset(("MSR_READ", "MSR_READ_IMM"))
_WRITES = frozenset(("MSR_WRITE", "MSR_WRITE_IMM"))


@dataclass(slots=True)
class Counts:
    """Numbers of one input.

    ``exits``: by canonical reason. ``msr``: accesses that worked, by (op, address); ``unnamed``:
    those of an MSR whose name says nothing here, by (op, name). ``faults``: accesses that ended
    in #GP, which trap in any design and are in none of the others.
    """

    exits: Counter[str] = field(default_factory=Counter)
    msr: Counter[Access] = field(default_factory=Counter)
    unnamed: Counter[tuple[int, str]] = field(default_factory=Counter)
    faults: Counter[Access] = field(default_factory=Counter)

    def add_exit(self, reason: str, count: int) -> None:
        """Add exits of one reason; those of very many reasons count as one."""
        known = reason in self.exits or len(self.exits) < _MOST
        self.exits[reason if known else FURTHER] += count

    def add_msr(self, op: int, address: MsrAddress, count: int, *, fault: bool = False) -> None:
        """Add accesses to one MSR; of very many only the PMU's are kept apart."""
        table = self.faults if fault else self.msr
        access = op, address
        if access in table or len(table) < _MOST or address in BY_ADDRESS:
            table[access] += count
        else:
            self.unnamed[op, FURTHER] += count

    def add_unnamed(self, op: int, name: str, count: int) -> None:
        """Add accesses to an MSR whose name says nothing here."""
        known = (op, name) in self.unnamed or len(self.unnamed) < _MOST
        self.unnamed[op, name if known else FURTHER] += count

    @property
    def rdpmc(self) -> int:
        """RDPMC exits."""
        return self.exits["RDPMC"]

    @property
    def pmu(self) -> Counter[Access]:
        """Accesses to registers that the model has, RDPMC among them."""
        found = Counter(
            {
                (op, address): count
                for (op, address), count in self.msr.items()
                if msr_class(op, address) is MsrClass.PMU
            }
        )
        if self.rdpmc:
            found[RDPMC, ANY_COUNTER] = self.rdpmc
        return found

    def of_class(self, kind: MsrClass) -> int:
        """Accesses to MSRs of one class."""
        return sum(
            count for (op, address), count in self.msr.items() if msr_class(op, address) is kind
        )

    @property
    def listed(self) -> int:
        """MSR accesses of which the address or a name is known, #GP or not."""
        return sum(map(sum, (c.values() for c in (self.msr, self.unnamed, self.faults))))

    @property
    def msr_exits(self) -> int:
        """MSR exits, known by reason or only by their accesses."""
        return max(sum(self.exits[name] for name in MSR_EXITS), self.listed)

    @property
    def unlisted(self) -> dict[str, int]:
        """MSR exits that no access stands for, by direction; AMD's exit has none."""
        if not self.listed or not any(self.exits[name] for name in MSR_EXITS):
            return {}
        both = sum(self.exits[name] for name in MSR_EXITS - _READS - _WRITES)
        if both:
            return {"MSR": max(both - self.listed, 0)}
        listed = [0, 0]
        for table in (self.msr, self.unnamed, self.faults):
            for (op, _), count in table.items():
                listed[op] += count
        return {
            "MSR_WRITE": max(sum(self.exits[name] for name in _WRITES) - listed[WRITE], 0),
            "MSR_READ": max(sum(self.exits[name] for name in _READS) - listed[READ], 0),
        }

    @property
    def total(self) -> int:
        """All exits: those with a reason, and the MSR accesses where no reason was traced."""
        known = sum(self.exits.values())
        return known + self.msr_exits - sum(self.exits[name] for name in MSR_EXITS)
