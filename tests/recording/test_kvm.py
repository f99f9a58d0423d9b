"""Records of the host become what KVM's tracepoints show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pvpmu.recording.format import FAULT, Kind, Op, Record, head_of, record_of
from pvpmu.recording.kvm import KvmEntry, KvmExit, KvmMsr, Lost, kvm_events, thread_of
from pvpmu.recording.reader import LOST, Recording, Stream, merged
from pvpmu.shared.exits import FAULT_GP, INJECT_IRQ, INJECT_NMI, Control, ExitReason

STREAM = Stream(0, "host", 2, {"pid": 4000}, -1)


def events(*records: Record) -> list[Any]:
    """What the records become, behind the entry with which a stream begins."""
    first = record_of((0, 0, 0, head_of(Kind.ENTRY), 0, 0))
    made = [event for _, _, event in kvm_events((STREAM, r) for r in (first, *records))]
    assert made[0] == KvmEntry(0)
    return made[1:]


def record(kind: int, code: int = 0, flags: int = 0, detail: int = 0, a: int = 0) -> Record:
    return record_of((1, 2, 3, head_of(kind, code, flags, detail), a, 0))


def test_an_exit_an_access_and_an_entry() -> None:
    assert events(
        record(Kind.EXIT, ExitReason.MSR_WRITE, 0, 0x38F, 5),
        record(Kind.MSR, Op.WRMSR, 0, 0x38F, 5),
        record(Kind.ENTRY, ExitReason.MSR_WRITE),
    ) == [KvmExit(32, 0), KvmMsr(write=True, ecx=0x38F, data=5, fault=False), KvmEntry(0)]


def test_a_fault_is_kvm_msr_s_exception() -> None:
    assert events(record(Kind.MSR, Op.RDMSR, FAULT, 0x10), record(Kind.ENTRY, 31, FAULT_GP)) == [
        KvmMsr(write=False, ecx=0x10, data=0, fault=True),
        KvmEntry(0),
    ]


def test_what_an_nmi_and_a_vector_look_like() -> None:
    assert events(
        record(Kind.EXIT, ExitReason.EXCEPTION_NMI),
        record(Kind.ENTRY, 0, INJECT_NMI),
        record(Kind.ENTRY, 0, INJECT_IRQ, 0x51),
    ) == [KvmExit(0, 0x8000_0202), KvmEntry(0x8000_0202), KvmEntry(0x8000_0051)]


def test_a_stream_begins_with_an_entry_whatever_its_first_record_is() -> None:
    for first in (record(Kind.EXIT, 10), record(Kind.PMI), record(Kind.MARK, Control.START)):
        made = [(wall, event) for wall, _, event in kvm_events([(STREAM, first)])]
        assert made[0] == (1, KvmEntry(0))
        assert [event for _, event in made[1:]] == [KvmExit(10, 0)] * (first.kind == Kind.EXIT)


def test_a_window_begins_with_an_entry() -> None:
    assert events(record(Kind.MARK, Control.START), record(Kind.MARK, Control.STOP)) == [
        KvmEntry(0)
    ]


def test_what_kvm_has_no_event_for_is_left_out_and_losses_are_told() -> None:
    others = [record(kind) for kind in (Kind.PERF_CALL, Kind.PMI, Kind.STATE, Kind.ACCESS, 99)]
    assert events(*others, record(LOST, a=7)) == [Lost(7)]


def test_threads_of_vcpus_differ(page_run: Any) -> None:
    with page_run.open() as recording:
        hosts = [stream for stream in recording.streams if stream.side == "host"]
        assert len({thread_of(stream) for stream in hosts}) == len(hosts) == 2


def test_each_exit_of_a_run_has_its_entry_and_each_msr_exit_its_access(trap_run: Any) -> None:
    with Recording(Path(trap_run.path)) as recording:
        hosts = [stream for stream in recording.streams if stream.side == "host"]
        seen = [event for _, _, event in kvm_events(merged(hosts))]
    exits = [event for event in seen if isinstance(event, KvmExit)]
    entries = [event for event in seen if isinstance(event, KvmEntry)]
    msrs = [event for event in seen if isinstance(event, KvmMsr)]
    assert len(entries) == len(exits) + 1
    assert len(msrs) == sum(event.reason in (31, 32) for event in exits) > 100
    assert isinstance(seen[0], KvmEntry)
