"""The pass of ``--record``: each design's runs once more, in a VM of its own that is recorded.

The passes that count and time are as ever. Runs are deterministic, so that what was recorded must
be what they counted; :func:`as_counted` says whether it is.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pvpmu.bench.totals import OP_OF, Totals
from pvpmu.bench.vm import Vm, VmConfig, open_vm
from pvpmu.guest.traced import described
from pvpmu.recording.file import Outcome, append_recording
from pvpmu.recording.format import SPURIOUS, Kind, Op, Pmi
from pvpmu.recording.options import RecordTo, warn
from pvpmu.recording.reader import Recording, Stream
from pvpmu.shared.design import Design
from pvpmu.shared.tally import CALL_KINDS

if TYPE_CHECKING:
    from pvpmu.bench.measure import BenchConfig

RECORDED_AS_COUNTED = "the recording holds what was counted, to the last one"
"""The check's name."""
PMI_NAMES = {what: what.name.lower() for what in Pmi} | {Pmi.INJECTED: "delivered"}
_OPS = {int(op): op.name.lower() for op in Op}

RunAll = Callable[[Vm], None]
"""Does the runs of one design on a VM."""


@dataclass(slots=True)
class Recorded:
    """What a recording holds of one design, all vCPUs and runs, in their measured windows.

    ``exits``: by reason number. ``exits_host``, ``accesses``: by (op, address). ``calls``: by kind
    of perf call; ``pmi``: as host statistics name them. ``lost``: records.
    """

    exits: Counter[int] = field(default_factory=Counter)
    exits_host: Counter[tuple[str, int]] = field(default_factory=Counter)
    accesses: Counter[tuple[str, int]] = field(default_factory=Counter)
    calls: list[int] = field(default_factory=lambda: [0] * len(CALL_KINDS))
    pmi: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    handlers: int = 0
    spurious: int = 0
    lost: int = 0


def record(
    config: BenchConfig, record_to: RecordTo, vm_config: VmConfig, design: Design, run: RunAll
) -> Outcome:
    """Record one design's runs behind what the file has; the first design starts it anew.

    Raises what a VM raises, and :class:`UsageError` for a file that cannot be written.
    """
    first = design is config.designs[0]
    meta = {
        "design": design.name,
        "driver": config.guest(design.name).driver,
        "transport": config.transport,
        "runs": config.runs,
        **described(config.scenario, config.seed),
    }
    recording = record_to.open(meta, append=not first)
    if config.transport == "inline":
        with open_vm(replace(vm_config, recording=recording), config.transport) as vm:
            run(vm)
        return recording.outcome
    # The host records for itself: its part goes behind the guest's when both are closed.
    handle, name = tempfile.mkstemp(prefix=f"{record_to.path.name}.", dir=record_to.path.parent)
    os.close(handle)
    part = RecordTo(Path(name), record_to.records)
    try:
        own = replace(vm_config, recording=recording, host_record=part)
        with open_vm(own, config.transport) as vm:
            run(vm)
        return _joined(recording.outcome, part)
    except BaseException:
        # Whoever ends a run early wants to see what it did.
        with suppress(OSError):
            append_recording(record_to.path, part.path)
        raise
    finally:
        with suppress(FileNotFoundError):
            part.path.unlink()


def _joined(guest: Outcome, part: RecordTo) -> Outcome:
    with Recording(part.path) as host:
        written = sum(stream.count for stream in host.streams)
        lost = sum(stream.lost for stream in host.streams)
        problem = guest.problem or host.problem
    try:
        append_recording(guest.path, part.path)
    except OSError as error:
        # What is there is read up to where it is cut off.
        return replace(guest, lost=guest.lost + written + lost, problem=error.strerror or "")
    return replace(guest, written=guest.written + written, lost=guest.lost + lost, problem=problem)


def read_back(record_to: RecordTo) -> dict[str, Recorded]:
    """What the file holds, by design."""
    found: dict[str, Recorded] = {}
    with Recording(record_to.path) as recording:
        for stream in recording.streams:
            count(found.setdefault(stream.design, Recorded()), stream)
    return found


def count(into: Recorded, stream: Stream) -> None:
    """Add what one stream holds in its measured windows."""
    into.lost += stream.lost
    for record in stream.window():
        match record.kind:
            case Kind.EXIT:
                into.exits[record.code] += 1
                if record.code in OP_OF:
                    into.exits_host[OP_OF[record.code], record.detail] += 1
            case Kind.PERF_CALL if record.code < len(CALL_KINDS):
                into.calls[record.code] += 1
            case Kind.PMI if record.code in PMI_NAMES:
                into.pmi[PMI_NAMES[Pmi(record.code)]] += 1
            case Kind.ACCESS if record.code in _OPS:
                into.accesses[_OPS[record.code], record.detail] += 1
            case Kind.SAMPLE:
                into.samples += 1
            case Kind.HANDLER_EXIT:
                into.handlers += 1
                into.spurious += bool(record.flags & SPURIOUS)
            case _:
                pass


def as_counted(recorded: Recorded, totals: Totals) -> bool:
    """Whether a recording holds, one by one, what the runs counted."""
    calls = [sum(tally[kind] for tally in totals.tallies) for kind in range(len(CALL_KINDS))]
    guest = totals.guest
    return (
        not recorded.lost
        and recorded.exits == +totals.exits
        and recorded.exits_host == +totals.exits_host
        and recorded.accesses == +totals.accesses
        and recorded.calls == calls
        and all(recorded.pmi[name] == totals.pmi[name] for name in PMI_NAMES.values())
        and (recorded.samples, recorded.handlers, recorded.spurious)
        == (guest["samples"], guest["handlers"], guest["spurious"])
    )


def tell(record_to: RecordTo, outcomes: Sequence[Outcome]) -> None:
    """Say on standard error what was recorded, and what is missing of it."""
    written = sum(outcome.written for outcome in outcomes)
    print(f"{written:,} records in {record_to.path}", file=sys.stderr)
    lacking = missing(outcomes)
    if lacking is not None:
        warn("pvpmu bench", lacking)


def missing(outcomes: Iterable[Outcome]) -> Outcome | None:
    """All that is missing in a file, by what became of its parts; None if nothing is."""
    parts = [each for each in outcomes if each.warning]
    if not parts:
        return None
    return Outcome(
        parts[0].path,
        sum(each.written for each in parts),
        sum(each.lost for each in parts),
        next((each.problem for each in parts if each.problem), ""),
    )
