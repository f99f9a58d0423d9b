"""``--record`` on a real VM: each design once more, its host's side recorded.

The guest is C and tells no tracer: what it does is seen by its exits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from pvpmu.bench.recorded import PMI_NAMES, Recorded, count
from pvpmu.bench.totals import OP_OF
from pvpmu.recording.file import Outcome, RecordingFile
from pvpmu.recording.options import RecordTo
from pvpmu.recording.reader import Recording
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.design import Design
from pvpmu.shared.errors import UsageError
from pvpmu.shared.tally import CALL_KINDS
from pvpmu.vm.jobs import PmiJob
from pvpmu.vm.session import VmSession

Opened = Callable[[Design, RecordingFile], AbstractContextManager[VmSession]]


@dataclass(slots=True)
class RealRecording:
    """What became of a recording. ``outcomes``: by design; ``wrong``: whose counts differ."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def record_real(
    record_to: RecordTo, designs: Sequence[Design], job: PmiJob, opened: Opened
) -> RealRecording:
    """Do ``job`` on each design's VM, made by ``opened``, and look at what the file holds of it."""
    recording = RealRecording()
    counted: dict[str, VcpuStats] = {}
    for number, design in enumerate(designs):
        meta = {"design": design.name, "transport": "vm", "pmis": job.pmis, "period": job.period}
        file = record_to.open(meta, append=number > 0)
        with opened(design, file) as vm:
            (report,) = vm.run([job])
        recording.outcomes[design.name] = file.outcome
        assert report.stats is not None
        counted[design.name] = report.stats
    held: dict[str, Recorded] = {}
    with suppress(UsageError), Recording(record_to.path) as read:
        # What could not be written may not be there to read: the outcomes say so.
        for stream in read.streams:
            count(held.setdefault(stream.design, Recorded()), stream)
    recording.wrong = [
        name
        for name, stats in counted.items()
        if name not in held or not host_as_counted(held[name], stats)
    ]
    return recording


def host_as_counted(recorded: Recorded, stats: VcpuStats) -> bool:
    """Whether a recording holds, one by one, what a host counted."""
    accesses = {(OP_OF[reason], address): n for reason, address, n in stats.accesses}
    calls = [sum(tally[kind] for tally in stats.tallies) for kind in range(len(CALL_KINDS))]
    return (
        not recorded.lost
        and recorded.exits == +Counter(stats.exits)
        and recorded.exits_host == +Counter(accesses)
        and recorded.calls == calls
        and all(recorded.pmi[name] == stats.pmi[name] for name in PMI_NAMES.values())
    )
