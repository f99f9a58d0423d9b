"""Write ``perf.data`` files that perf(1) reads: KVM's tracepoints, or a guest's samples.

Source: ``tools/perf/Documentation/perf.data-file-format.txt``, ``include/uapi/linux/perf_event.h``.

**Invariants**: records are in order of time; memory does not depend on their number.
"""

from __future__ import annotations

import enum
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pvpmu import __version__
from pvpmu.recording.elf import CODE_BASE, mapped_bytes
from pvpmu.recording.format import Record
from pvpmu.recording.kvm import Lost, kvm_events, thread_of
from pvpmu.recording.reader import LOST, Stream, text_of
from pvpmu.recording.samples import GuestEvent, guest_events, phases_of, program_of
from pvpmu.recording.tracefmt import NAMES, raw_event, tracing_data
from pvpmu.shared.events import EVENTS
from pvpmu.shared.exits import MODE_KERNEL, MODE_USER
from pvpmu.shared.units import Ns

CPUID = "GenuineIntel,6,106,6"
"""What the file says the CPU is: perf takes exit reasons for VMX's on one of Intel's. Ice Lake SP,
on which the 2021 mail was measured."""

_MAGIC = b"PERFILE2"
_FILE_HEADER = struct.Struct("<8sQQQQQQQQQQQQ")
_SECTION = struct.Struct("<QQ")
_ATTR = struct.Struct("<IIQQQQQIIQQQQIiQIHH")
"""perf_event_attr of PERF_ATTR_SIZE_VER5."""
_HEAD = struct.Struct("<IHH")
_SAMPLE = struct.Struct("<QQIIQIIQ")
"""id, ip, pid, tid, time, cpu, reserved, period: what comes before raw data."""
_SAMPLE_ID = struct.Struct("<IIQIIQ")
"""pid, tid, time, cpu, reserved, id: behind any other record (sample_id_all)."""
_MMAP2 = struct.Struct("<IIQQQIIQQII")
_ROUND_RECORDS = 1 << 14
_PROT_READ_EXEC, _MAP_PRIVATE = 5, 2


class _Type(enum.IntEnum):
    LOST = 2
    COMM = 3
    SAMPLE = 9
    MMAP2 = 10
    FINISHED_ROUND = 68


class _Feature(enum.IntEnum):
    TRACING_DATA = 1
    HOSTNAME = 3
    OSRELEASE = 4
    VERSION = 5
    ARCH = 6
    NRCPUS = 7
    CPUDESC = 8
    CPUID = 9
    CMDLINE = 11
    EVENT_DESC = 12


_TYPE_HARDWARE, _TYPE_TRACEPOINT = 0, 2
_HARDWARE = {"cpu-cycles": 0, "instructions": 1, "cache-references": 2, "cache-misses": 3,
             "branch-instructions": 4, "branch-misses": 5, "ref-cycles": 9}  # fmt: skip
"""PERF_COUNT_HW_*."""
_IP, _TID, _TIME, _CPU, _PERIOD, _RAW, _IDENTIFIER = (1 << n for n in (0, 1, 2, 7, 8, 10, 16))
_SAMPLED = _IP | _TID | _TIME | _CPU | _PERIOD | _IDENTIFIER
_F_EXCLUDE_USER, _F_EXCLUDE_KERNEL, _F_EXCLUDE_HV = (1 << n for n in (4, 5, 6))
_F_MMAP, _F_COMM, _F_FREQ, _F_TASK, _F_SAMPLE_ID_ALL, _F_MMAP2 = (
    1 << n for n in (8, 9, 10, 13, 18, 23)
)
_MISC_KERNEL, _MISC_USER = 1, 2
_PARANOID_ALL = _F_SAMPLE_ID_ALL | _F_MMAP | _F_COMM | _F_TASK | _F_MMAP2


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the file. ``id``: by which samples name it; ``per``: period, or frequency."""

    name: str
    id: int
    type: int
    config: int
    flags: int
    per: int
    sampled: int = _SAMPLED

    @property
    def attr(self) -> bytes:
        """perf_event_attr."""
        return _ATTR.pack(
            self.type, _ATTR.size, self.config, self.per, self.sampled, 0, self.flags,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Where:
    """Who a record is of, and when."""

    pid: int
    tid: int
    cpu: int
    time: Ns


def write_kvm(
    out: BinaryIO, records: Iterable[tuple[Stream, Record]], streams: Sequence[Stream], command: str
) -> None:
    """``kvm:kvm_exit``, ``kvm:kvm_entry`` and ``kvm:kvm_msr`` of the hosts among the streams.

    ``out`` must be seekable.
    """
    events = [
        Event(f"kvm:{name}", number, _TYPE_TRACEPOINT, number, _PARANOID_ALL, 1, _SAMPLED | _RAW)
        for number, name in NAMES.items()
    ]
    hosts = [stream for stream in streams if stream.side == "host"]
    commands = [(_host_place(stream, 0), f"CPU {stream.vcpu}/KVM") for stream in hosts]

    def body() -> Iterator[bytes]:
        for where, comm in commands:
            yield _comm(where, comm)
        for wall, stream, event in kvm_events(records):
            where = _host_place(stream, wall)
            if isinstance(event, Lost):
                yield _lost(where, event.count)
                continue
            number, raw = raw_event(event, where.tid, stream.vcpu)
            yield _sample(where, number, _MISC_KERNEL, 0, 1, raw)

    features = {_Feature.TRACING_DATA: tracing_data()}
    _write(out, events, body(), features, streams, command)


def write_samples(
    out: BinaryIO,
    records: Iterable[tuple[Ns, Stream, Record]],
    guests: Sequence[Stream],
    command: str,
    program: str = "",
) -> None:
    """The guests' samples: hardware events, the task's command and where its code lies.

    ``records``: in order of guest clock. ``program``: path of the file that the code is from;
    without it there is none, and it is named as the command. ``out`` must be seekable.
    """
    events = [_hardware(number, event) for number, event in enumerate(guest_events(guests))]

    def body() -> Iterator[bytes]:
        for stream in guests:
            where = _guest_place(stream, 0)
            name = program_of(stream)
            yield _comm(where, name)
            yield _mmap2(where, program or name, phases_of(stream))
        for time, stream, record in records:
            where = _guest_place(stream, time)
            if record.kind == LOST:
                yield _lost(where, record.a)
            elif record.code < len(events):
                yield _sample(where, record.code + 1, _MISC_USER, record.a, record.b)

    _write(out, events, body(), {}, guests, command)


def _hardware(number: int, event: GuestEvent) -> Event:
    flags = _PARANOID_ALL | _F_EXCLUDE_HV
    flags |= 0 if event.modes & MODE_USER else _F_EXCLUDE_USER
    flags |= 0 if event.modes & MODE_KERNEL else _F_EXCLUDE_KERNEL
    flags |= _F_FREQ if event.frequency else 0
    config = _HARDWARE[EVENTS[event.kind].name]
    per = event.frequency or event.period
    return Event(event.name, number + 1, _TYPE_HARDWARE, config, flags, per)


def _host_place(stream: Stream, time: Ns) -> Where:
    return Where(stream.pid, thread_of(stream), stream.vcpu, time)


def _guest_place(stream: Stream, time: Ns) -> Where:
    return Where(thread_of(stream), thread_of(stream), stream.vcpu, time)


# Records -----------------------------------------------------------------------------------------


def _record(kind: _Type, misc: int, body: bytes) -> bytes:
    return _HEAD.pack(kind, misc, _HEAD.size + len(body)) + body


def _sample(where: Where, number: int, misc: int, ip: int, period: int, raw: bytes = b"") -> bytes:
    head = _SAMPLE.pack(number, ip, where.pid, where.tid, where.time, where.cpu, 0, period)
    if raw:
        # The size before it counts towards the alignment of what follows.
        padding = -(len(raw) + 4) % 8
        head += struct.pack("<I", len(raw) + padding) + raw + bytes(padding)
    return _record(_Type.SAMPLE, misc, head)


def _identified(kind: _Type, misc: int, where: Where, body: bytes) -> bytes:
    tail = _SAMPLE_ID.pack(where.pid, where.tid, where.time, where.cpu, 0, 1)
    return _record(kind, misc, body + tail)


def _comm(where: Where, comm: str) -> bytes:
    text = _padded(comm)
    return _identified(_Type.COMM, 0, where, struct.pack("<II", where.pid, where.tid) + text)


def _mmap2(where: Where, name: str, phases: int) -> bytes:
    size = mapped_bytes(phases)
    body = _MMAP2.pack(
        where.pid, where.tid, CODE_BASE, size, 0, 0, 0, 0, 0, _PROT_READ_EXEC, _MAP_PRIVATE
    )
    return _identified(_Type.MMAP2, _MISC_USER, where, body + _padded(name))


def _lost(where: Where, count: int) -> bytes:
    return _identified(_Type.LOST, 0, where, struct.pack("<QQ", 1, count))


def _padded(text: str) -> bytes:
    data = text.encode("utf-8", "replace") + b"\0"
    return data + bytes(-len(data) % 8)


# The file ----------------------------------------------------------------------------------------


def _write(
    out: BinaryIO,
    events: Sequence[Event],
    body: Iterator[bytes],
    features: dict[_Feature, bytes],
    streams: Sequence[Stream],
    command: str,
) -> None:
    ids_at = _FILE_HEADER.size
    attrs_at = ids_at + 8 * len(events)
    entry = _ATTR.size + _SECTION.size
    data_at = attrs_at + entry * len(events)
    out.write(bytes(ids_at))
    out.write(b"".join(struct.pack("<Q", event.id) for event in events))
    out.writelines(
        event.attr + _SECTION.pack(ids_at + 8 * number, 8) for number, event in enumerate(events)
    )
    size = 0
    while part := b"".join(itertools.islice(body, _ROUND_RECORDS)):
        # Everything is in order: perf may show what it has.
        part += _record(_Type.FINISHED_ROUND, 0, b"")
        out.write(part)
        size += len(part)
    features = {**features, **_environment(events, streams, command)}
    _write_features(out, data_at + size, features)
    bitmap = sum(1 << feature for feature in features)
    words = [bitmap >> 64 * n & (1 << 64) - 1 for n in range(4)]
    out.seek(0)
    out.write(
        _FILE_HEADER.pack(
            _MAGIC, _FILE_HEADER.size, entry, attrs_at, entry * len(events), data_at, size, 0, 0,
            *words,
        )
    )  # fmt: skip


def _write_features(out: BinaryIO, at: int, features: dict[_Feature, bytes]) -> None:
    """The table of sections in order of their number, then the sections."""
    ordered = [features[feature] for feature in sorted(features)]
    at += _SECTION.size * len(ordered)
    for data in ordered:
        out.write(_SECTION.pack(at, len(data)))
        at += len(data)
    out.write(b"".join(ordered))


def _environment(
    events: Sequence[Event], streams: Sequence[Stream], command: str
) -> dict[_Feature, bytes]:
    meta = streams[0].meta if streams else {}
    cpus = max((stream.vcpu for stream in streams), default=0) + 1
    described = [struct.pack("<II", len(events), _ATTR.size)]
    for event in events:
        described += [event.attr, struct.pack("<I", 1), _text(event.name)]
        described.append(struct.pack("<Q", event.id))
    words = command.split()
    return {
        _Feature.HOSTNAME: _text(text_of(meta.get("node", ""))),
        _Feature.OSRELEASE: _text(text_of(meta.get("release", ""))),
        _Feature.VERSION: _text(f"pvpmu {__version__}"),
        _Feature.ARCH: _text("x86_64"),
        _Feature.NRCPUS: struct.pack("<II", cpus, cpus),
        _Feature.CPUDESC: _text(f"pvpmu's model, design {text_of(meta.get('design', ''))}"),
        _Feature.CPUID: _text(CPUID),
        _Feature.CMDLINE: struct.pack("<I", len(words)) + b"".join(map(_text, words)),
        _Feature.EVENT_DESC: b"".join(described),
    }


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "replace") + b"\0"
    data += bytes(-len(data) % 64)
    return struct.pack("<I", len(data)) + data
