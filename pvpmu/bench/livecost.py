"""What the live view costs who is watched, in batches: an exit published, an access recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pvpmu.guest.liveview import record_costs
from pvpmu.host.liveview import HostLive, publishing
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, liveview
from pvpmu.shared import registers as msr
from pvpmu.shared.clock import Clock, timer_cost
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.page import PAGE_SIZE

_ROUNDS, _BATCH = 41, 100


@dataclass(frozen=True, slots=True)
class LiveCosts:
    """Mean ns of each batch, the same without it subtracted.

    ``publish``: what publishing adds to an exit. ``record``: what a guest adds to an access of the
    page with ``--live``, reading the clock twice included.
    """

    publish: list[float]
    record: list[float]


def live_costs(clock: Clock) -> LiveCosts:
    """Measure both in this process."""
    return LiveCosts(_publish_costs(clock), record_costs(clock, timer_cost(clock)))


def _publish_costs(clock: Clock) -> list[float]:
    """A trapped read of GLOBAL_STATUS served with publishing and without, in turns."""
    design = design_named("trap")
    slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
    memory = memoryview(bytearray(PAGE_SIZE)).cast("Q")
    vcpu = HostVcpu(slot, memory, design, PmuCpuid(), design.profile)
    words = memoryview(bytearray(liveview.HOST_VCPU.size)).cast("Q")
    published = publishing(vcpu, slot, HostLive(words))
    slot[exits.REQUEST] = ExitReason.MSR_READ
    slot[exits.ADDRESS] = msr.GLOBAL_STATUS
    costs = []
    for _ in range(_ROUNDS):
        start = clock()
        _serve(vcpu.serve)
        middle = clock()
        _serve(published)
        costs.append((clock() - middle - (middle - start)) / _BATCH)
    return costs


def _serve(serve: Callable[[], int]) -> None:
    for _ in range(_BATCH):
        serve()
