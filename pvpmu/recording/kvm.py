"""A recording's host side as the events that KVM's tracepoints would have shown. Pure.

The fields are those of Linux 6.18 (``arch/x86/kvm/trace.h``). What a recording does not have is 0:
the instruction pointer, exit qualifications.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pvpmu.recording.format import FAULT, Kind, Op, Record
from pvpmu.recording.reader import LOST, Stream
from pvpmu.shared.exits import INJECT_IRQ, INJECT_NMI, Control, ExitReason
from pvpmu.shared.units import Ns

ISA_VMX = 1
_VALID, _NMI = 1 << 31, 2 << 8 | 2
_INJECTED_NMI = _VALID | _NMI
"""Interruption information: valid, type NMI, vector 2 (SDM vol. 3C, 24.8.3)."""
_EXIT, _MSR, _ENTRY, _MARK = map(int, (Kind.EXIT, Kind.MSR, Kind.ENTRY, Kind.MARK))
_EXCEPTION_NMI, _START = int(ExitReason.EXCEPTION_NMI), int(Control.START)


@dataclass(frozen=True, slots=True)
class KvmExit:
    """kvm_exit. ``reason``: VMX's; ``intr_info``: what the exit was for."""

    reason: int
    intr_info: int


@dataclass(frozen=True, slots=True)
class KvmMsr:
    """kvm_msr. ``fault``: it raised #GP."""

    write: bool
    ecx: int
    data: int
    fault: bool


@dataclass(frozen=True, slots=True)
class KvmEntry:
    """kvm_entry. ``intr_info``: what the entry injects."""

    intr_info: int


@dataclass(frozen=True, slots=True)
class Lost:
    """So many records were lost here."""

    count: int


KvmEvent = KvmExit | KvmMsr | KvmEntry | Lost


def kvm_events(
    records: Iterable[tuple[Stream, Record]],
) -> Iterator[tuple[Ns, Stream, KvmEvent]]:
    """Wall time, stream and event, of what happens on the host's side.

    A stream, and a measured window, begins with an entry: before its first exit the vCPU is in the
    guest, and perf learns its number from there.
    """
    begun: set[int] = set()
    for stream, record in records:
        event = _event(record)
        if stream.number not in begun:
            begun.add(stream.number)
            if not isinstance(event, KvmEntry):
                yield record.wall, stream, KvmEntry(0)
        if event is not None:
            yield record.wall, stream, event


def _event(record: Record) -> KvmEvent | None:
    kind = record.kind
    if kind == _EXIT:
        return KvmExit(record.code, _INJECTED_NMI if record.code == _EXCEPTION_NMI else 0)
    if kind == _MSR:
        write = record.code == Op.WRMSR
        return KvmMsr(write, record.detail, record.a, bool(record.flags & FAULT))
    if kind == _ENTRY:
        if record.flags & INJECT_NMI:
            return KvmEntry(_INJECTED_NMI)
        return KvmEntry(_VALID | record.detail if record.flags & INJECT_IRQ else 0)
    if kind == _MARK and record.code == _START:
        return KvmEntry(0)
    if kind == LOST:
        return Lost(record.a)
    return None


def thread_of(stream: Stream) -> int:
    """The thread that stands for a vCPU: no two streams of one file's section have the same."""
    return stream.pid + 1 + stream.vcpu
