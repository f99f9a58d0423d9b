"""``--record`` and ``--record-buffer`` of commands that record, and what they say afterwards."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvpmu.recording.file import RING_RECORDS, Outcome, RecordingFile, ring_records
from pvpmu.recording.format import RECORD_BYTES
from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import at_least_one, writable

_MIB = 1 << 20
_MAX_MIB = 1 << 10


@dataclass(frozen=True, slots=True)
class RecordTo:
    """Where to record to. ``records``: capacity of each ring."""

    path: Path
    records: int = RING_RECORDS

    @property
    def options(self) -> list[str]:
        """The options that ask for it, of another command."""
        mebibytes = -(-self.records * RECORD_BYTES // _MIB)
        return ["--record", str(self.path), "--record-buffer", str(mebibytes)]

    def open(self, meta: dict[str, Any], *, append: bool = False) -> RecordingFile:
        """A recording to make streams of; raises :class:`UsageError`."""
        return RecordingFile(self.path, meta, append=append, records=self.records)


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """Add both options."""
    parser.add_argument(
        "--record",
        metavar="FILE",
        help="write every exit, MSR access, perf call, PMI and state change there, for "
        "pvpmu trace (docs/recordings.md)",
    )
    parser.add_argument(
        "--record-buffer",
        type=_mebibytes,
        default=RING_RECORDS * RECORD_BYTES // _MIB,
        metavar="MIB",
        help="memory for records on their way to the file, for each vCPU and side (%(default)s)",
    )


def record_to(args: argparse.Namespace, result: str | None = None) -> RecordTo | None:
    """What the options ask for; ``result``: where the command's own result goes, if to a file.

    Raises :class:`UsageError` for a file that cannot be written, that is the result's, or that is
    none.
    """
    if args.record is None:
        return None
    if args.record == "-":
        raise UsageError("--record -: a recording is a file, expected its name")
    path = writable(Path(args.record))
    device = path.exists() and not path.is_file()
    if result is not None and not device and path.resolve() == Path(result).resolve():
        raise UsageError(f"--record {path}: is where the result goes, which would overwrite it")
    return RecordTo(path, ring_records(args.record_buffer))


def warn(command: str, outcome: Outcome) -> None:
    """Say on standard error what is missing in a recording, if anything is."""
    if outcome.warning:
        print(f"{command}: warning: {outcome.warning}", file=sys.stderr, flush=True)


def _mebibytes(text: str) -> int:
    value = at_least_one(text)
    if value > _MAX_MIB:
        raise argparse.ArgumentTypeError(f"{value} MiB is outside 1..{_MAX_MIB}")
    return value
