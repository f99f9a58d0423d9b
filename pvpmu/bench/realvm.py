"""Measure designs on a real VM (``--transport vm``): who runs when, and what is kept."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pvpmu.bench.measure import Progress
from pvpmu.bench.realvm_recorded import RealRecording, record_real
from pvpmu.host.perf_linux import group_times
from pvpmu.recording.file import RecordingFile
from pvpmu.recording.options import RecordTo
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.events import MODELLED
from pvpmu.shared.units import NS_PER_S
from pvpmu.vm.cpl import Execution, user_or_kernel
from pvpmu.vm.jobs import MOST_PMIS, MOST_STAMPED, FloorJob, OperationsJob, PmiJob, PmiReport
from pvpmu.vm.session import Perf, VmConfig, VmSession, open_session

DEFAULT_DESIGNS = ("trap-5.14", "trap", "trap-lean", "page", "page-direct", "page-reload")
LINUX_DESIGNS = ("trap-5.14", "trap", "trap-direct", "page", "page-direct")
"""Likewise with the kernel's perf, which cannot leave a counter off at VM-entry."""
Cpl = Literal["auto", "0", "3"]
_STAMPED = 200
_OPERATIONS = 20
_FLOORS = 200
_GROUP, _GROUP_ROUNDS = 4, 300
_SCALING_ROUNDS = 3
_SCALING_PMIS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class RealConfig:
    """What to measure. ``pmis``: of each design, in ``turns`` chunks.

    ``period``: branches, or with the kernel's perf cycles, which are ns where it has only clocks.
    ``cpl``: where driver and program run; auto is 3 where the machine emulates CPL 0, else 0.
    ``record_to``: where one more chunk of each design is recorded to. ``live``: let the live view
    see the VM of each design; what that takes is then in each exit. ``missing_events``: what
    becomes of those that the kernel's perf lacks.
    """

    designs: Sequence[Design]
    pmis: int
    period: int
    turns: int
    cpl: Cpl = "auto"
    perf: Perf = "model"
    missing_events: str = MODELLED
    pin: str = "same"
    record_to: RecordTo | None = None
    live: bool = False

    def vm_name(self, number: int) -> str:
        """Of the design of that number; the next is that of the two vCPUs at once."""
        return f"bench-{os.getpid()}-{number}"

    @property
    def vm_names(self) -> list[str]:
        """The VM of each design."""
        return [self.vm_name(number) for number in range(len(self.designs))]


@dataclass(slots=True)
class Totals:
    """Of one design, by turn: chunks with the vPMU, and with a table, behind the loop.

    ``stamped``: one whose accesses were; ``operations``: exits and cycles of the driver's others.
    """

    vpmu: list[PmiReport] = field(default_factory=list)
    table: list[PmiReport] = field(default_factory=list)
    stamped: PmiReport | None = None
    operations: dict[str, tuple[float, list[int]]] = field(default_factory=dict)


@dataclass(slots=True)
class RealMeasured:
    """Everything measured.

    ``floors``: TSC cycles by name. ``groups``: ns of stopping and starting four events, see
    :func:`pvpmu.host.perf_linux.group_times`. ``scaling``: PMIs per second of one vCPU and of two
    at once, and their ratio, by round; empty where there is one CPU. ``recording``: what became of
    it, if one was made.
    """

    execution: Execution
    user: bool
    designs: dict[str, Totals] = field(default_factory=dict)
    floors: dict[str, list[float]] = field(default_factory=dict)
    groups: dict[str, list[int]] = field(default_factory=dict)
    scaling: list[tuple[float, float, float]] = field(default_factory=list)
    recording: RealRecording | None = None


def measure_real(config: RealConfig, progress: Progress) -> RealMeasured:
    """Measure every design; raises what a VM raises."""
    progress(0.0, "how guest code is executed here")
    execution = user_or_kernel()
    user = execution.user if config.cpl == "auto" else config.cpl == "3"
    measured = RealMeasured(execution, user)
    names = [design.name for design in config.designs]
    measured.designs = {name: Totals() for name in names}
    with contextlib.ExitStack() as stack:
        vms = {
            design.name: stack.enter_context(_opened(config, design, number, user=user))
            for number, design in enumerate(config.designs)
        }
        steps = config.turns * len(vms)
        share = -(-config.pmis // config.turns)
        for turn in range(config.turns):
            order = names[turn % len(names) :] + names[: turn % len(names)]
            for done, name in enumerate(order):
                progress((turn * len(vms) + done) / steps, f"{name}: turn {turn + 1}")
                _one_turn(config, vms[name], measured.designs[name], share)
            _floors(measured, vms[order[0]])
        for name, vm in vms.items():
            progress(1.0, f"{name}: accesses, ticks and task switches")
            stamped = PmiJob(min(_STAMPED, MOST_STAMPED), config.period, stamps=True)
            (measured.designs[name].stamped,) = vm.run([stamped])
            (measured.designs[name].operations,) = vm.run([OperationsJob(_OPERATIONS)])
    if config.perf == "linux":
        measured.groups = group_times(_GROUP, _GROUP_ROUNDS, time.perf_counter_ns)
    if len(os.sched_getaffinity(0)) > 1:
        progress(1.0, "two vCPUs at once")
        measured.scaling = _scaling(config, user=user)
    if config.record_to is not None:
        progress(1.0, "recording")
        measured.recording = _recorded(config, config.record_to, user=user)
    return measured


def _recorded(config: RealConfig, record_to: RecordTo, *, user: bool) -> RealRecording:
    def opened(
        design: Design, recording: RecordingFile
    ) -> contextlib.AbstractContextManager[VmSession]:
        return _opened(config, design, len(config.designs), user=user, recording=recording)

    job = PmiJob(min(config.pmis, MOST_PMIS), config.period)
    return record_real(record_to, config.designs, job, opened)


def _opened(
    config: RealConfig,
    design: Design,
    number: int,
    *,
    user: bool,
    vcpus: int = 1,
    recording: RecordingFile | None = None,
) -> contextlib.AbstractContextManager[VmSession]:
    return open_session(
        VmConfig(
            design=design,
            cpuid=PmuCpuid(),
            user=user,
            vcpus=vcpus,
            name=config.vm_name(number),
            pin=config.pin,
            perf=config.perf,
            missing_events=config.missing_events,
            recording=recording,
            publish=config.live,
        )
    )


def _one_turn(config: RealConfig, vm: VmSession, totals: Totals, share: int) -> None:
    left = share
    while left:
        (report,) = vm.run([PmiJob(min(left, MOST_PMIS), config.period)])
        totals.vpmu.append(report)
        left -= min(left, MOST_PMIS)
    (table,) = vm.run([PmiJob(min(share, _SCALING_PMIS), config.period, table=True)])
    totals.table.append(table)


def _floors(measured: RealMeasured, vm: VmSession) -> None:
    (found,) = vm.run([FloorJob(_FLOORS)])
    for name, cycles in found.items():
        measured.floors.setdefault(name, []).extend(cycles)


def _scaling(config: RealConfig, *, user: bool) -> list[tuple[float, float, float]]:
    job = PmiJob(min(config.pmis, _SCALING_PMIS), config.period)
    rounds = []
    with _opened(config, config.designs[0], len(config.designs), user=user, vcpus=2) as vm:
        for _ in range(_SCALING_ROUNDS):
            # The two CPUs need not be equally fast: each vCPU alone, then both.
            alone = [_rate(vm.run([job], first=vcpu)) for vcpu in (0, 1)]
            both = _rate(vm.run([job, job]))
            one = sum(alone) / len(alone)
            rounds.append((one, both, both / one))
    return rounds


def _rate(reports: Sequence[PmiReport]) -> float:
    return sum(report.pmis * NS_PER_S / report.ns for report in reports)
