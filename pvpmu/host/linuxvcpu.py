"""A vCPU's host side whose perf is the kernel's, by :mod:`pvpmu.host.perf_linux`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from pvpmu.host.perf import PerfContext
from pvpmu.host.perf_mirrored import MirroredContext, MixedContext
from pvpmu.host.perf_sources import Sources, sources_here, why_not
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared.design import Design
from pvpmu.shared.errors import ResourceError, UsageError
from pvpmu.shared.events import MODELLED
from pvpmu.shared.exits import Control
from pvpmu.shared.tally import HANDLER


class TimedVcpu(HostVcpu):
    """One whose perf calls are made on real events: its statistics say what they took.

    ``shape``: as of :class:`HostVcpu`. ``missing``: what becomes of events that this machine lacks.
    """

    def __init__(self, *shape: Any, missing: str = MODELLED) -> None:
        self.sources: Sources = sources_here(missing)
        super().__init__(*shape)

    def watched(self, perf: PerfContext) -> PerfContext:
        old = getattr(self, "perf", None)
        if isinstance(old, MirroredContext):
            old.close()
        return self._context(perf)

    def _context(self, perf: PerfContext) -> PerfContext:
        raise NotImplementedError

    def _control(self, control: int) -> bool:
        done = super()._control(control)
        perf = self.perf
        assert isinstance(perf, MirroredContext)
        if control == Control.START:
            perf.restart()
        elif control == Control.STOP and self.result is not None:
            times = perf.times
            times.handler_ns = perf.ns_in(self.result.tallies[HANDLER])
            self.result.times = times
            perf.restart()
        return done


class MirroringVcpu(TimedVcpu):
    """The model counts; its calls are made on real events of this thread as well."""

    def _context(self, perf: PerfContext) -> PerfContext:
        return MirroredContext(perf.pmu, self.sources, time.perf_counter_ns)


class LinuxVcpu(TimedVcpu):
    """The kernel counts, on this thread, which is the vCPU's; an EXCEPTION_NMI exit looks.

    What it has no event for may be the model's, which counts what the exits tell. No page half or
    vPMU of its own: only where perf's calls go differs.
    """

    def _context(self, perf: PerfContext) -> PerfContext:
        return MixedContext(perf.pmu, self.sources, time.perf_counter_ns)

    def _exception_nmi(self, address: int) -> int:
        self.take_overflows(in_guest=True)
        return super()._exception_nmi(address)


PERFS = ("model", "linux")
"""Whose perf the host's is."""


def check_perf(perf: str, designs: Iterable[Design], *, recorded: bool = False) -> None:
    """Refuse what cannot be had: designs by name, a recording, or the kernel's events altogether.

    Raises :class:`UsageError`, :class:`ResourceError`. The model can be had always.
    """
    if perf == "model":
        return
    for design in designs:
        refuse_for_linux(design)
    if recorded:
        raise UsageError("--record: not with --perf linux, whose calls take their own time")
    reason = why_not()
    if reason is not None:
        raise ResourceError(reason)


def refuse_for_linux(design: Design) -> None:
    """Raise :class:`UsageError` for a design whose host needs what only a kernel can do."""
    reason = None
    if design.vpmu == "mediated":
        reason = "its host has no events"
    elif design.host_freeze == "entry-mask":
        reason = "its host leaves counters off at VM-entry, which only a kernel can"
    elif design.shares_lock:
        reason = "its host takes the context's lock once per exit, which no system call can"
    if reason is not None:
        raise UsageError(f"design {design.name} cannot have --perf linux: {reason}")
