"""``pvpmu-host --vm``: launch a real VM and serve it, until it has done enough or the user has."""

from __future__ import annotations

from collections.abc import Callable

from pvpmu.host.perf_sources import sources_here
from pvpmu.host.perfs import check_perf
from pvpmu.recording.file import Outcome, RecordingFile
from pvpmu.recording.options import RecordTo
from pvpmu.shared.errors import PeerError
from pvpmu.vm.cpl import user_or_kernel
from pvpmu.vm.jobs import PmiJob, PmiReport
from pvpmu.vm.session import VmConfig, VmSession, open_session

PERIODS = {"model": 600, "linux": 2_000_000}
"""Branches, or cycles (ns of a clock), from one PMI to the next."""
_CHUNK = 500


def serve_vm(
    make: Callable[[bool, RecordingFile | None], VmConfig],
    pmis: int | None,
    say: Callable[[str], None],
    record: RecordTo | None = None,
    recorded: Callable[[Outcome], None] = lambda _: None,
) -> None:
    """Run the VM's program, so many PMIs on each vCPU; None: until this process is interrupted.

    ``make``: the VM, given whether its program runs at CPL 3 and what it is recorded to. Raises
    :class:`PeerError` when a PMI is lost, and what a VM raises.
    """
    execution = user_or_kernel()
    recording = None
    if record is not None:
        of = make(execution.user, None)
        said = {"design": of.design.name, "vm": of.name, "period": PERIODS[of.perf]}
        recording = record.open({"transport": "vm", **said})
    config = make(execution.user, recording)
    check_perf(config.perf, [config.design], recorded=record is not None)
    try:
        with open_session(config) as vm:
            what = f"design {config.design.name}, vCPUs: {config.vcpus}, perf {config.perf}"
            say(f"{config.name}: a real VM, {what}; {execution.described}")
            if config.perf == "linux":
                say(f"{config.name}: {sources_here(config.missing_events).described}")
            _run(vm, config, pmis, say)
    finally:
        if recording is not None:
            recorded(recording.outcome)


def _run(vm: VmSession, config: VmConfig, pmis: int | None, say: Callable[[str], None]) -> None:
    done, period = 0, PERIODS[config.perf]
    while pmis is None or done < pmis:
        chunk = _CHUNK if pmis is None else min(_CHUNK, pmis - done)
        reports = vm.run([PmiJob(chunk, period)] * config.vcpus)
        done += chunk
        say(f"{config.name}: {done:,} PMIs on each vCPU; {'; '.join(map(_told, reports))}")
        lost = sum(map(_lost, reports))
        if lost:
            raise PeerError(f"{config.name}: {lost} PMIs lost")


def _told(report: PmiReport) -> str:
    exits = report.exits["to_user_rdmsr"] + report.exits["to_user_wrmsr"]
    path = "page" if report.registered else "trap"
    return f"{path}, {exits / max(report.nmis, 1):.2f} MSR exits per PMI"


def _lost(report: PmiReport) -> int:
    stats = report.stats
    assert stats is not None
    pmi = stats.pmi
    gone = pmi["delivered"] + pmi["coalesced"] + pmi["dropped"] + stats.undelivered
    return pmi["raised"] + pmi["stray"] - gone
