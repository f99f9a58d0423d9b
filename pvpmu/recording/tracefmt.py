"""The format files of KVM's tracepoints, and the tracing data that a ``perf.data`` carries.

The fields are those of Linux 6.18, the text is ours. Source of the container: perf's
``util/trace-event-info.c`` and ``trace-event-read.c``.
"""

from __future__ import annotations

import struct

from pvpmu.recording.kvm import ISA_VMX, KvmEntry, KvmExit, KvmMsr
from pvpmu.trace.names import VMX_EXITS

_COMMON = """\
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;
	field:unsigned char common_preempt_count;	offset:3;	size:1;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

"""
_EXIT_FIELDS = """\
	field:unsigned int exit_reason;	offset:8;	size:4;	signed:0;
	field:unsigned long guest_rip;	offset:16;	size:8;	signed:0;
	field:u32 isa;	offset:24;	size:4;	signed:0;
	field:u64 info1;	offset:32;	size:8;	signed:0;
	field:u64 info2;	offset:40;	size:8;	signed:0;
	field:u32 intr_info;	offset:48;	size:4;	signed:0;
	field:u32 error_code;	offset:52;	size:4;	signed:0;
	field:unsigned int vcpu_id;	offset:56;	size:4;	signed:0;
	field:u64 requests;	offset:64;	size:8;	signed:0;

"""
_MSR_FIELDS = """\
	field:unsigned write;	offset:8;	size:4;	signed:0;
	field:u32 ecx;	offset:12;	size:4;	signed:0;
	field:u64 data;	offset:16;	size:8;	signed:0;
	field:u8 exception;	offset:24;	size:1;	signed:0;

print fmt: "msr_%s %x = 0x%llx%s", REC->write ? "write" : "read", REC->ecx, REC->data, \
REC->exception ? " (#GP)" : ""
"""
_ENTRY_FIELDS = """\
	field:unsigned int vcpu_id;	offset:8;	size:4;	signed:0;
	field:unsigned long rip;	offset:16;	size:8;	signed:0;
	field:bool immediate_exit;	offset:24;	size:1;	signed:0;
	field:u32 intr_info;	offset:28;	size:4;	signed:0;
	field:u32 error_code;	offset:32;	size:4;	signed:0;

print fmt: "vcpu %u, rip 0x%lx intr_info 0x%08x error_code 0x%08x%s", REC->vcpu_id, REC->rip, \
REC->intr_info, REC->error_code, REC->immediate_exit ? "[immediate exit]" : ""
"""
EXIT_ID, ENTRY_ID, MSR_ID = 1, 2, 3
"""Event numbers; any will do, the file says which is which."""
NAMES = {EXIT_ID: "kvm_exit", ENTRY_ID: "kvm_entry", MSR_ID: "kvm_msr"}

_COMMON_RAW = struct.Struct("<HBBi")
_EXIT_RAW = struct.Struct("<I4xQI4xQQIII4xQ")
_ENTRY_RAW = struct.Struct("<I4xQB3xII4x")
_MSR_RAW = struct.Struct("<IIQB7x")
_HEADER_PAGE = """\
	field: u64 timestamp;	offset:0;	size:8;	signed:0;
	field: local_t commit;	offset:8;	size:8;	signed:1;
	field: int overwrite;	offset:8;	size:1;	signed:1;
	field: char data;	offset:16;	size:4080;	signed:0;
"""
_MAGIC = b"\x17\x08\x44tracing"
_VERSION = b"0.6"
_PAGE_BYTES, _LONG_BYTES = 4096, 8


def formats() -> dict[int, str]:
    """The format file of each event, by event number."""
    reasons = ", ".join(f'{{ {number}, "{name}" }}' for number, name in VMX_EXITS.items())
    exit_fmt = (
        'print fmt: "vcpu %u reason %s rip 0x%lx info1 0x%016llx info2 0x%016llx intr_info 0x%08x '
        'error_code 0x%08x requests 0x%016llx", REC->vcpu_id, '
        f"__print_symbolic(REC->exit_reason & 0xffff, {reasons}), REC->guest_rip, REC->info1, "
        "REC->info2, REC->intr_info, REC->error_code, REC->requests\n"
    )
    fields = {EXIT_ID: _EXIT_FIELDS + exit_fmt, ENTRY_ID: _ENTRY_FIELDS, MSR_ID: _MSR_FIELDS}
    return {
        number: f"name: {NAMES[number]}\nID: {number}\n{_COMMON}{text}"
        for number, text in fields.items()
    }


def raw_event(event: KvmExit | KvmMsr | KvmEntry, thread: int, vcpu: int) -> tuple[int, bytes]:
    """Event number and raw fields of one event, as the kernel would have stored them."""
    match event:
        case KvmExit(reason, intr_info):
            number = EXIT_ID
            raw = _EXIT_RAW.pack(reason, 0, ISA_VMX, 0, 0, intr_info, 0, vcpu, 0)
        case KvmEntry(intr_info):
            number = ENTRY_ID
            raw = _ENTRY_RAW.pack(vcpu, 0, 0, intr_info, 0)
        case KvmMsr(write, ecx, data, fault):
            number = MSR_ID
            raw = _MSR_RAW.pack(write, ecx, data, fault)
    return number, _COMMON_RAW.pack(number, 0, 0, thread) + raw


def tracing_data() -> bytes:
    """What HEADER_TRACING_DATA holds: enough to make sense of the raw fields."""
    page = _HEADER_PAGE.encode()
    parts = [
        _MAGIC,
        _VERSION + b"\0",
        bytes((0, _LONG_BYTES)),
        struct.pack("<I", _PAGE_BYTES),
        _sized(b"header_page\0", page),
        _sized(b"header_event\0", b""),
        # No event of ftrace's own; one system.
        struct.pack("<II", 0, 1),
        b"kvm\0",
        struct.pack("<I", len(NAMES)),
        *(_sized(b"", text.encode()) for text in formats().values()),
        # Neither symbols, nor printk formats, nor commands by thread.
        struct.pack("<IIQ", 0, 0, 0),
    ]
    return b"".join(parts)


def _sized(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<Q", len(data)) + data
