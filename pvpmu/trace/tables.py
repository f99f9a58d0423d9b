"""Read what was counted already: tables, maps and plain lists of exits and MSR accesses.

Each reader takes lines and says of each whether it understood it. Formats: ``perf kvm stat
report`` (vmexit and msr tables), ``kvm_stat`` (log, CSV log, batch), bpftrace maps, bcc's
``kvmexit``, and plain lists (``15822 msr_write, NAME`` and ``126301 MSR_WRITE``).
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from typing import Protocol

from pvpmu.shared.errors import UsageError
from pvpmu.trace.counts import Counts
from pvpmu.trace.names import (
    READ,
    WRITE,
    exit_name,
    exit_number_name,
    is_exit,
    msr_address,
    msr_name,
)


class Line(enum.Enum):
    """What a reader made of a line."""

    UNKNOWN = 0
    DECORATION = 1
    """A heading, a total, an empty line: understood, and no number to count."""
    DATA = 2


class TableReader(Protocol):
    """Reads one format. ``counts``: what was read; ``notes``: what to tell the user about it."""

    counts: Counts
    notes: list[str]

    def line(self, line: str) -> Line:
        """Take one line, without its end."""

    def finish(self) -> None:
        """The input has ended."""


_MAX_ADDRESS = 0xFFFF_FFFF
_LABELS = 1 << 14
"""Entries of maps of which it is remembered that they came."""
_COUNT = r"\d{1,18}"
"""A count: longer ones are none, and would be slow to read."""
_IS_COUNT = re.compile(rf"{_COUNT}\Z").match
NOT_LISTED = "(reasons not listed)"
_OPS = {
    "msr_read": READ, "msr_write": WRITE, "rdmsr": READ, "wrmsr": WRITE, "read": READ,
    "write": WRITE, "r": READ, "w": WRITE, "0": READ, "1": WRITE,
}  # fmt: skip


class PerfKvmStat:
    """``perf kvm stat report``: its vmexit and msr tables, also several in a row."""

    _ROW = re.compile(rf"\s*(\S{{1,64}})\s+({_COUNT})\s+[\d.]+%\s")
    _MSR = re.compile(r"0x([0-9a-fA-F]{1,8}):([RW])\Z")
    _TOTAL = re.compile(rf"\s*Total Samples:\s*({_COUNT})")
    _HEADING = re.compile(
        r"\s*(?:Analyze events for |VM-EXIT\s|MSR Access\s|Event name\s|KVM event statistics|"
        r"unknown kvm exit code:|IO Port Access\s|MMIO Access\s|Vcpu events|\d+ guests?\b)"
    )
    _OTHER_TABLE = re.compile(r"\s*(?:IO Port|MMIO) Access\s")

    def __init__(self) -> None:
        self.counts = Counts()
        self.notes: list[str] = []
        self._samples = 0
        self._other_table = False
        self._ignored = 0

    def line(self, line: str) -> Line:
        """Take one line, without its end."""
        row = self._ROW.match(line)
        if row is not None:
            return self._row(row[1], int(row[2]))
        total = self._TOTAL.match(line)
        if total is not None:
            if int(total[1]) != self._samples:
                self.notes.append(
                    f"a table's total says {int(total[1]):,} samples, its rows {self._samples:,}: "
                    "rows are missing"
                )
            self._samples = 0
            return Line.DECORATION
        if self._HEADING.match(line):
            self._other_table = bool(self._OTHER_TABLE.match(line))
            return Line.DECORATION
        return Line.UNKNOWN if line.strip() else Line.DECORATION

    def finish(self) -> None:
        """The input has ended."""
        if self._samples:
            self.notes.append("the last table has no 'Total Samples' line: it may be cut off")
        if self._ignored:
            self.notes.append(f"{self._ignored} rows of I/O port or MMIO tables were left out")

    def _row(self, label: str, count: int) -> Line:
        self._samples += count
        if self._other_table:
            self._ignored += 1
            return Line.DECORATION
        access = self._MSR.match(label)
        if access is not None:
            self.counts.add_msr(_OPS[access[2].lower()], int(access[1], 16), count)
        else:
            self.counts.add_exit(exit_name(label), count)
        return Line.DATA


class KvmStat:
    """``kvm_stat``: ``-l`` and ``-c`` logs (sums of their rows), ``-1`` (its totals)."""

    _NAME = r"[a-z_][\w-]*(?:\([\w -]+\))?"
    _STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
    _BANNER = re.compile(rf"\s*{_NAME}(?:\s+{_NAME})*\s*\Z")
    _CSV_BANNER = re.compile(rf"timestamp(?:,{_NAME})+\s*\Z")
    _NUMBERS = re.compile(rf"\s*{_COUNT}(?:\s+{_COUNT})*\s*\Z")
    _BATCH = re.compile(rf"\s*({_NAME})\s+({_COUNT})(?:\s+[\d.]+)?\s+(\d+)?\s*\Z")
    _EXIT = re.compile(r"kvm_exit\(([\w -]+)\)\Z")
    _SCREEN = re.compile(r"\s*(?:kvm statistics|Event\s+Total|Total\s+\d)")
    _KVM = re.compile(r"(?:kvm|vcpu)_|exits\b|halt_|irq_|nmi_|mmu_|remote_tlb|host_state|insn_")

    def __init__(self) -> None:
        self.counts = Counts()
        self.notes: list[str] = []
        self._names: list[str] = []
        self._totals: Counter[str] = Counter()

    def line(self, line: str) -> Line:
        """Take one line, without its end."""
        if self._CSV_BANNER.match(line):
            self._names = line.strip().split(",")[1:]
            return Line.DECORATION
        stamp = self._STAMP.match(line)
        values = line[stamp.end() :] if stamp else line
        if stamp and values.startswith(","):
            return self._values(values.strip().split(",")[1:])
        if self._NUMBERS.match(values) and self._names:
            return self._values(values.split())
        batch = self._BATCH.match(line)
        if batch is not None and self._KVM.match(batch[1]):
            self._totals[batch[1]] += int(batch[2])
            return Line.DATA
        return self._heading(line)

    def finish(self) -> None:
        """The input has ended."""
        for name, count in self._totals.items():
            reason = self._EXIT.match(name)
            if reason is not None and count:
                self.counts.add_exit(exit_name(reason[1]), count)
        if self._totals and not self.counts.exits:
            fields = ", ".join(sorted(self._totals)[:4])
            raise UsageError(
                f"the kvm_stat log has no kvm_exit(REASON) fields (it has {fields}, ...): record "
                "it with tracepoints and child events, kvm_stat -t -f '^kvm_exit'"
            )
        rest = self._totals["kvm_exit"] - sum(self.counts.exits.values())
        if rest > 0:
            self.counts.exits[NOT_LISTED] += rest
        accesses = self._totals["kvm_msr"]
        if accesses:
            self.notes.append(
                f"kvm_stat counts {accesses:,} kvm_msr events without saying which MSR"
            )

    def _heading(self, line: str) -> Line:
        if not line.strip() or self._SCREEN.match(line):
            return Line.DECORATION
        names = line.split()
        if self._BANNER.match(line) and all(map(self._KVM.match, names)):
            self._names = names
            return Line.DECORATION
        cut = [name for name in names if name.startswith("kvm_exit(") and not name.endswith(")")]
        if cut:
            raise UsageError(
                f"the kvm_stat log's headings are cut off ({cut[0]!r}): names cannot be told "
                "apart; use a kvm_stat that prints them in full, or its -c"
            )
        return Line.UNKNOWN

    def _values(self, values: list[str]) -> Line:
        if len(values) != len(self._names) or not all(map(_IS_COUNT, values)):
            return Line.UNKNOWN
        for name, value in zip(self._names, values, strict=True):
            self._totals[name] += int(value)
        return Line.DATA


class Bpftrace:
    """bpftrace maps of counts: ``@[write, 0x38f]: 15822``, ``@exits[MSR_WRITE]: 126301``.

    The last key is an MSR if ``read``, ``write``, 0 or 1 stands before it, an exit reason
    otherwise. Bare numbers are decimal, as bpftrace prints integers. Keys before those (comm,
    pid, tid) are summed over.
    """

    _MAP = re.compile(rf"@(\w*)\[([^\]]{{1,200}})\]:\s*(?:count\s+)?({_COUNT})(?:,.*)?\s*\Z")
    _NOISE = re.compile(r"\s*(?:Attaching \d+ probes?|Attached \d+ probes?|\^C|\d\d:\d\d:\d\d)")

    def __init__(self) -> None:
        self.counts = Counts()
        self.notes: list[str] = []
        self._seen: set[str] = set()
        self._repeated = 0

    def line(self, line: str) -> Line:
        """Take one line, without its end."""
        found = self._MAP.match(line)
        if found is None:
            return Line.DECORATION if self._NOISE.match(line) or not line.strip() else Line.UNKNOWN
        keys = [key.strip() for key in found[2].split(",")]
        if not self._count(keys, int(found[3])):
            return Line.UNKNOWN
        label = f"{found[1]}[{found[2]}]"
        self._repeated += label in self._seen
        if len(self._seen) < _LABELS:
            self._seen.add(label)
        return Line.DATA

    def finish(self) -> None:
        """The input has ended."""
        if self._repeated:
            self.notes.append(
                f"{self._repeated} map entries came more than once and were added; a script that "
                "prints without clearing counts them again each time"
            )

    def _count(self, keys: list[str], count: int) -> bool:
        last = keys[-1]
        op = _OPS.get(keys[-2].lower()) if len(keys) > 1 else None
        if op is not None:
            address = int(last) if last.isdecimal() else msr_address(last)
            if address is None or address > _MAX_ADDRESS:
                return False
            self.counts.add_msr(op, address, count)
        elif last.isdecimal():
            # KVM's exit_reason has flags above bit 15.
            self.counts.add_exit(exit_number_name(int(last) & 0xFFFF), count)
        elif is_exit(last):
            self.counts.add_exit(exit_name(last), count)
        else:
            return False
        return True


class Kvmexit:
    """bcc's ``kvmexit``: ids, then the reason, then its count."""

    _ROW = re.compile(
        rf"\s*(?:\d{{1,10}}\s+){{0,2}}(EXIT_REASON_\w{{1,40}})\s+({_COUNT})"
        r"(?:\s+[\d.]{1,20})?\s*\Z"
    )
    _HEADING = re.compile(r"(?:Display kvm exit reasons|.*\bKVM_EXIT_REASON\s+(?:COUNT|STAT))")

    def __init__(self) -> None:
        self.counts = Counts()
        self.notes: list[str] = []

    def line(self, line: str) -> Line:
        """Take one line, without its end."""
        row = self._ROW.match(line.removeprefix("^C"))
        if row is not None:
            self.counts.add_exit(exit_name(row[1]), int(row[2]))
            return Line.DATA
        decoration = not line.strip() or self._HEADING.match(line)
        return Line.DECORATION if decoration else Line.UNKNOWN

    def finish(self) -> None:
        """The input has ended."""


class PlainList:
    """Lists as people paste them.

    A count and an exit reason, or a count, msr_read or msr_write, and the MSR's name or address;
    also with the count last. Anything between is not understood.
    """

    _NUMBER = rf"(?P<count>\d{{1,3}}(?:,\d{{3}}){{1,5}}|{_COUNT})"
    _WHAT = (
        r"(?P<op>(?:msr_(?:read|write)|rdmsr|wrmsr))[\s,:]+(?P<msr>\w{1,64})(?:\s*=.*)?|"
        r"(?P<reason>[\w-]{1,40})"
    )
    _FIRST = re.compile(rf"\s*{_NUMBER}\s+(?:{_WHAT})\s*\Z")
    _LAST = re.compile(rf"\s*(?:{_WHAT})[\s:=,]+{_NUMBER}\s*\Z")

    def __init__(self) -> None:
        self.counts = Counts()
        self.notes: list[str] = []
        self._twice: set[str] = set()

    def line(self, line: str) -> Line:
        """Take one line, without its end."""
        found = self._FIRST.match(line)
        if found is None:
            found = self._LAST.match(line)
            # A word and a number are prose, unless the word is spelled as a reason.
            if found is not None and found["reason"] and not found["reason"].isupper():
                found = None
        if found is None:
            return Line.UNKNOWN if line.strip() else Line.DECORATION
        count = int(found["count"].replace(",", ""))
        if found["reason"] is not None:
            return self._exit(found["reason"], count)
        op, name = _OPS[found["op"]], found["msr"]
        address = msr_address(name)
        if address is None:
            self.counts.add_unnamed(op, name, count)
        else:
            if self.counts.msr[op, address]:
                self._twice.add(f"{found['op']} {msr_name(address)}")
            self.counts.add_msr(op, address, count)
        return Line.DATA

    def finish(self) -> None:
        """The input has ended."""
        if self._twice:
            self.notes.append(f"listed more than once, and added: {', '.join(sorted(self._twice))}")

    def _exit(self, reason: str, count: int) -> Line:
        if not is_exit(reason):
            return Line.UNKNOWN
        name = exit_name(reason)
        if self.counts.exits[name]:
            self._twice.add(name)
        self.counts.exits[name] += count
        return Line.DATA


TABLES: dict[str, type[TableReader]] = {
    "perf-kvm-stat": PerfKvmStat,
    "kvm-stat": KvmStat,
    "bpftrace": Bpftrace,
    "kvmexit": Kvmexit,
    "list": PlainList,
}
"""By the name that ``--format`` takes."""
