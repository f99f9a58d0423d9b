"""Write a recording as text: as ftrace's ``trace`` has it, or as ``perf script`` prints it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pvpmu.recording.format import FAULT, Kind, Op, Record
from pvpmu.recording.kvm import KvmEntry, KvmExit, KvmMsr, Lost, kvm_events, thread_of
from pvpmu.recording.reader import LOST, Stream
from pvpmu.recording.samples import guest_events, program_of
from pvpmu.shared.units import NS_PER_S, Ns
from pvpmu.trace.names import exit_number_name

_NS_PER_US = 1000
_FTRACE_HEADER = """\
# tracer: nop
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""
_EVENT_WIDTH = len("kvm:kvm_entry")
_ACCESS = int(Kind.ACCESS)
_MSR_EVENTS = {int(Op.RDMSR): "read_msr", int(Op.WRMSR): "write_msr", int(Op.RDPMC): "rdpmc"}


def ftrace(records: Iterable[tuple[Stream, Record]]) -> Iterator[str]:
    """Lines, with their ends, as ``/sys/kernel/tracing/trace`` has them: time stamps in us."""
    yield _FTRACE_HEADER
    for wall, stream, event in kvm_events(records):
        if isinstance(event, Lost):
            yield f"CPU:{stream.vcpu} [LOST {event.count} EVENTS]\n"
            continue
        seconds, rest = divmod(wall, NS_PER_S)
        name, text = _said(event, stream.vcpu)
        yield (
            f"{_comm(stream):>16}-{thread_of(stream):<7} [{stream.vcpu:03}] d.... "
            f"{seconds:5}.{rest // _NS_PER_US:06}: {name}: {text}\n"
        )


def ftrace_guest(records: Iterable[tuple[Stream, Record]]) -> Iterator[str]:
    """Lines of a trace in the guest: read_msr, write_msr and rdpmc, wherever an access went.

    The format is that of the kernel's events ``msr:*``, time is that of the host.
    """
    yield _FTRACE_HEADER
    for stream, record in records:
        if record.kind == LOST:
            yield f"CPU:{stream.vcpu} [LOST {record.a} EVENTS]\n"
        elif record.kind == _ACCESS:
            seconds, rest = divmod(record.wall, NS_PER_S)
            fault = " #GP" if record.flags & FAULT else ""
            yield (
                f"{program_of(stream):>16}-{thread_of(stream):<7} [{stream.vcpu:03}] d.... "
                f"{seconds:5}.{rest // _NS_PER_US:06}: {_MSR_EVENTS.get(record.code, 'msr')}: "
                f"{record.detail:x}, value {record.a:x}{fault}\n"
            )


def perf_script(records: Iterable[tuple[Stream, Record]]) -> Iterator[str]:
    """Lines as ``perf script --ns`` prints them."""
    for wall, stream, event in kvm_events(records):
        if isinstance(event, Lost):
            yield f"# CPU {stream.vcpu}: LOST {event.count} events\n"
            continue
        name, text = _said(event, stream.vcpu)
        yield (
            f"{_comm(stream):>16} {thread_of(stream):5} [{stream.vcpu:03}] {_stamp(wall)}: "
            f"{'kvm:' + name:>{_EVENT_WIDTH}}: {text}\n"
        )


def perf_script_samples(
    records: Iterable[tuple[Ns, Stream, Record]], guests: Sequence[Stream]
) -> Iterator[str]:
    """Lines as ``perf script --ns`` prints samples; ``records`` in order of the guest clock."""
    names = [event.name for event in guest_events(guests)]
    width = max(map(len, names), default=0)
    for time, stream, record in records:
        if record.kind == LOST:
            yield f"# CPU {stream.vcpu}: LOST {record.a} events\n"
        elif record.code < len(names):
            program = program_of(stream)
            yield (
                f"{program:>16} {thread_of(stream):5} [{stream.vcpu:03}] {_stamp(time)}: "
                f"{record.b:10} {names[record.code]:>{width}}: {record.a:17x} [unknown] "
                f"({program})\n"
            )


def _said(event: KvmExit | KvmMsr | KvmEntry, vcpu: int) -> tuple[str, str]:
    """The event's name and its text, as the kernel's format prints it."""
    match event:
        case KvmExit(reason, intr_info):
            return "kvm_exit", (
                f"vcpu {vcpu} reason {exit_number_name(reason)} rip 0x0 info1 {0:#018x} "
                f"info2 {0:#018x} intr_info {intr_info:#010x} error_code {0:#010x} "
                f"requests {0:#018x}"
            )
        case KvmEntry(intr_info):
            return "kvm_entry", (
                f"vcpu {vcpu}, rip 0x0 intr_info {intr_info:#010x} error_code {0:#010x}"
            )
        case KvmMsr(write, ecx, data, fault):
            op = "write" if write else "read"
            return "kvm_msr", f"msr_{op} {ecx:x} = {data:#x}{' (#GP)' if fault else ''}"


def _comm(stream: Stream) -> str:
    return f"CPU {stream.vcpu}/KVM"


def _stamp(time: Ns) -> str:
    seconds, rest = divmod(time, NS_PER_S)
    return f"{seconds:5}.{rest:09}"
