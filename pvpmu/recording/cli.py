"""``pvpmu trace``: what a recording holds, and the same in other tools' formats."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pvpmu.recording import names
from pvpmu.recording.chrome import chrome
from pvpmu.recording.elf import program_elf
from pvpmu.recording.format import Kind, Record
from pvpmu.recording.jsonl import jsonl
from pvpmu.recording.perfdata import write_kvm, write_samples
from pvpmu.recording.reader import SIDES, Recording, Stream, merged, text_of
from pvpmu.recording.samples import guests_of, phases_of, samples
from pvpmu.recording.text import ftrace, ftrace_guest, perf_script, perf_script_samples
from pvpmu.shared.errors import ResourceError, UsageError
from pvpmu.shared.process import integer, writable
from pvpmu.shared.units import NS_PER_S

FORMATS = ("ftrace", "perf-script", "chrome", "jsonl", "perf.data")
_OF_ONE_SIDE = ("ftrace", "perf-script", "perf.data")
"""A kernel's formats: they show the host or the guest, of one design."""
_KIND_NAMES = {int(kind): kind.name.lower() for kind in Kind}


def add_commands(commands: Any) -> None:  # argparse names the type privately
    """Add ``trace`` to the subparsers of ``pvpmu``."""
    trace = commands.add_parser(
        "trace",
        help="look at a recording (--record), or export it for perf, trace-cmd, Perfetto",
        description="Look at a recording that pvpmu bench, pvpmu-host or pvpmu-guest made with "
        "--record, or export it (docs/recordings.md).",
    )
    verbs = trace.add_subparsers(metavar="COMMAND", required=True)
    info = verbs.add_parser("info", help="say what a recording holds")
    info.set_defaults(command=_info)
    info.add_argument("file", nargs="+", metavar="FILE", help="recordings")
    info.add_argument("--json", action="store_true", help="print it as JSON")
    export = verbs.add_parser(
        "export",
        help="write a recording in another tool's format",
        description="Write recordings in another tool's format; several are put together, as a "
        "host's and its guest's.",
    )
    export.set_defaults(command=_export)
    export.add_argument("file", nargs="+", metavar="FILE", help="recordings")
    export.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    export.add_argument(
        "-o", "--output", default="-", metavar="OUT|-", help="where to (standard output)"
    )
    export.add_argument(
        "--design", metavar="NAME", help="of this design only (needed where there are several, by "
        f"{', '.join(_OF_ONE_SIDE)})"
    )  # fmt: skip
    export.add_argument(
        "--vcpu", action="append", type=integer, metavar="N", help="of this vCPU only; may be "
        "repeated"
    )  # fmt: skip
    export.add_argument(
        "--side",
        choices=SIDES,
        help="host: kvm_exit, kvm_entry and kvm_msr; guest: samples with perf-script or perf.data, "
        f"MSR accesses with ftrace ({', '.join(_OF_ONE_SIDE)}: host; else both)",
    )
    export.add_argument(
        "--elf",
        metavar="FILE",
        help="with perf.data and --side guest: write the program's phases as symbols there, for "
        "perf report to name",
    )
    export.add_argument(
        "--all",
        action="store_true",
        help="also what lies outside the measured windows: boot and shutdown",
    )


# Info --------------------------------------------------------------------------------------------


def _info(args: argparse.Namespace) -> int:
    with _opened(args.file) as recordings:
        answer = [_described(recording) for recording in recordings]
        _tell_losses([stream for recording in recordings for stream in recording.streams])
    if args.json:
        print(json.dumps(answer, indent=2))
        return 0
    for recording in answer:
        for line in _lines(recording):
            print(line)
    return 0


def _described(recording: Recording) -> dict[str, Any]:
    return {
        "file": str(recording.path),
        "bytes": recording.size,
        "complete": not recording.problem,
        "sections": recording.sections,
        "streams": [_stream(stream) for stream in recording.streams],
    }


def _stream(stream: Stream) -> dict[str, Any]:
    kinds: Counter[int] = Counter()
    first = last = 0
    windows = 0
    for record in stream.records():
        kinds[record.kind] += 1
        first = first or record.wall
        last = record.wall
        windows += record.kind == Kind.MARK and names.control_name(record.code) == "START"
    return {
        "design": stream.design,
        "side": stream.side,
        "vcpu": stream.vcpu,
        "records": stream.count,
        "lost": stream.lost,
        "windows": windows,
        "wall_ns": last - first,
        "kinds": {
            _KIND_NAMES.get(kind, f"kind_{kind}"): count
            for kind, count in sorted(kinds.items())
            if kind
        },
    }


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    records = sum(stream["records"] for stream in answer["streams"])
    lost = sum(stream["lost"] for stream in answer["streams"])
    yield (
        f"{answer['file']}: {records:,} records, {lost:,} lost, {answer['bytes']:,} bytes"
        f"{'' if answer['complete'] else ', not complete'}"
    )
    for section in answer["sections"]:
        said = ("tool", "design", "scenario", "transport", "driver", "runs", "seed", "vm")
        named = (f"{name} {text_of(section[name])}" for name in said if name in section)
        yield "  " + ", ".join(named)
    for stream in answer["streams"]:
        kinds = ", ".join(f"{count:,} {name}" for name, count in stream["kinds"].items())
        yield (
            f"  {stream['design']} vCPU {stream['vcpu']} {stream['side']}: "
            f"{stream['wall_ns'] / NS_PER_S:.3f} s, windows: {stream['windows']}, "
            f"lost: {stream['lost']:,}"
        )
        yield f"    {kinds or 'no records'}"


# Export ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is to be exported. ``command``: how it was asked for; ``elf``: where symbols go."""

    streams: Sequence[Stream]
    everything: bool
    sections: Sequence[dict[str, Any]]
    command: str
    elf: Path | None

    def records(self) -> Iterator[tuple[Stream, Record]]:
        """In order of wall time."""
        return merged(self.streams, everything=self.everything)


def _export(args: argparse.Namespace) -> int:
    with _opened(args.file) as recordings:
        chosen = _choose(args, recordings)
        if not any(stream.count for stream in chosen.streams):
            raise UsageError(f"{', '.join(args.file)}: no records of what was asked for")
        with _output(args, recordings) as out:
            _WRITERS[args.format](chosen, args.side or "", out)
        _tell_losses(chosen.streams)
    return 0


def _choose(args: argparse.Namespace, recordings: Sequence[Recording]) -> _Chosen:
    streams = [stream for recording in recordings for stream in recording.streams]
    designs = list(dict.fromkeys(stream.design for stream in streams))
    if args.design is not None and args.design not in designs:
        raise UsageError(
            f"no design {args.design!r} in {', '.join(args.file)}; recorded: {', '.join(designs)}"
        )
    if args.design is None and len(designs) > 1 and args.format in _OF_ONE_SIDE:
        raise UsageError(
            f"designs {', '.join(designs)} were recorded, and {args.format} holds one: say which "
            "with --design"
        )
    if args.elf is not None and (args.format, args.side) != ("perf.data", "guest"):
        raise UsageError("--elf: needs --format perf.data --side guest, whose samples it is for")
    _check_vcpus(args, streams)
    side = args.side or ("host" if args.format in _OF_ONE_SIDE else None)
    wanted = [
        stream
        for stream in streams
        if args.design in (None, stream.design)
        and (args.vcpu is None or stream.vcpu in args.vcpu)
        and side in (None, stream.side)
    ]
    if not wanted and side == "guest":
        guests_of(wanted)
    if not wanted and side == "host" and streams:
        raise UsageError(
            "a recording of the guest alone has no exits as the host saw them; they are in that "
            "of the host"
        )
    for number, stream in enumerate(streams):
        stream.number = number
    sections = [section for recording in recordings for section in recording.sections]
    elf = None if args.elf is None else writable(Path(args.elf))
    if elf is not None:
        output = [Path(args.output)] if args.output != "-" else []
        for other in (*(recording.path for recording in recordings), *output):
            if _same(elf, other):
                raise UsageError(f"--elf {elf}: is {other}, which it would overwrite")
    return _Chosen(wanted, args.all, sections, shlex.join(["pvpmu", *args.argv]), elf)


def _check_vcpus(args: argparse.Namespace, streams: Sequence[Stream]) -> None:
    vcpus = {stream.vcpu for stream in streams if args.design in (None, stream.design)}
    missing = sorted(set(args.vcpu or ()) - vcpus)
    if missing and vcpus:
        raise UsageError(
            f"no vCPU {_listed(missing)} in {', '.join(args.file)}; recorded: "
            f"{_listed(sorted(vcpus))}"
        )


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


@contextlib.contextmanager
def _opened(files: Sequence[str]) -> Iterator[list[Recording]]:
    """The recordings; where one ends too early, that is said."""
    with contextlib.ExitStack() as stack:
        recordings = [stack.enter_context(Recording(Path(file))) for file in files]
        for recording in recordings:
            if recording.problem:
                _warn(recording.problem)
        yield recordings


@contextlib.contextmanager
def _output(args: argparse.Namespace, recordings: Sequence[Recording]) -> Iterator[BinaryIO]:
    """Where to write to, seekable for perf.data; a file that could not be finished is removed."""
    if args.output != "-":
        path = writable(Path(args.output))
        if any(_same(path, recording.path) for recording in recordings):
            raise UsageError(f"{path}: is the recording itself")
        out = path.open("wb")
        try:
            if args.format == "perf.data":
                _check_seekable(path, out)
            yield out
            out.close()
        except BaseException as error:
            with contextlib.suppress(OSError):
                # What it still holds cannot be written either.
                out.close()
            with contextlib.suppress(OSError):
                path.unlink() if path.is_file() else None
            if isinstance(error, OSError):
                raise ResourceError(f"{path}: cannot be written: {error.strerror}") from None
            raise
    elif args.format == "perf.data":
        if sys.stdout.isatty():
            raise UsageError("perf.data is binary: give a file with -o")
        with tempfile.TemporaryFile() as unnamed:
            yield unnamed
            unnamed.seek(0)
            shutil.copyfileobj(unnamed, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    else:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


def _check_seekable(path: Path, out: BinaryIO) -> None:
    if not out.seekable():
        raise UsageError(f"{path}: perf.data needs a file that can be sought in")


def _same(path: Path, other: Path) -> bool:
    """Whether two paths are one file, which need not be there yet."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


def _tell_losses(streams: Sequence[Stream]) -> None:
    lost = sum(stream.lost for stream in streams)
    if lost:
        _warn(f"{lost:,} records were lost when it was recorded: counts are too small")
    unknown = sum(stream.unknown for stream in streams)
    if unknown:
        _warn(
            f"{unknown:,} records of no known kind: the recording is damaged; only jsonl has them"
        )


def _warn(line: str) -> None:
    print(f"pvpmu: warning: {line}", file=sys.stderr, flush=True)


def _text(lines: Iterable[str], out: BinaryIO) -> None:
    out.writelines(line.encode() for line in lines)


def _ftrace(chosen: _Chosen, side: str, out: BinaryIO) -> None:
    lines = ftrace_guest if side == "guest" else ftrace
    _text(lines(chosen.records()), out)


def _perf_script(chosen: _Chosen, side: str, out: BinaryIO) -> None:
    if side == "guest":
        guests = guests_of(chosen.streams)
        taken = samples(guests, everything=chosen.everything)
        _text(perf_script_samples(taken, guests), out)
    else:
        _text(perf_script(chosen.records()), out)


def _chrome(chosen: _Chosen, _side: str, out: BinaryIO) -> None:
    arrows = any(stream.side == "guest" for stream in chosen.streams)
    _text(chrome(chosen.records(), {"sections": chosen.sections}, arrows=arrows), out)


def _jsonl(chosen: _Chosen, _side: str, out: BinaryIO) -> None:
    _text(jsonl(chosen.records(), chosen.sections), out)


def _perf_data(chosen: _Chosen, side: str, out: BinaryIO) -> None:
    if side == "guest":
        guests = guests_of(chosen.streams)
        taken = samples(guests, everything=chosen.everything)
        program = ""
        if chosen.elf is not None:
            chosen.elf.write_bytes(program_elf(max(map(phases_of, guests))))
            program = str(chosen.elf.absolute())
        write_samples(out, taken, guests, chosen.command, program)
    else:
        write_kvm(out, chosen.records(), chosen.streams, chosen.command)


_WRITERS: dict[str, Callable[[_Chosen, str, BinaryIO], None]] = {
    "ftrace": _ftrace,
    "perf-script": _perf_script,
    "chrome": _chrome,
    "jsonl": _jsonl,
    "perf.data": _perf_data,
}
