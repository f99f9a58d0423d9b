"""A vCPU's host side whose perf is the kernel's, by :mod:`pvpmu.host.perf_linux`."""

from __future__ import annotations

import time
from typing import Any

from pvpmu.host.perf import PerfContext
from pvpmu.host.perf_mirrored import MirroredContext, MixedContext
from pvpmu.host.perf_sources import Sources, sources_here
from pvpmu.host.vcpu import HostVcpu
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
