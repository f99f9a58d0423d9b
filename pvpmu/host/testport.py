"""The test port: the VMM's calls on one vCPU, asked for by a conformance kit in the guest.

Only a host that was started for it has one: these calls are the host's, and an ordinary guest must
not have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import msgspec

from pvpmu.host import migrate, vmm
from pvpmu.host.filter import EventFilter
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import port
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.errors import PvpmuError
from pvpmu.shared.profile import Profile
from pvpmu.shared.units import U64_MASK


class _Call(msgspec.Struct, tag_field="call", forbid_unknown_fields=True):
    """One call: its tag names it, its fields are the arguments."""

    def do(self, host: HostVcpu) -> dict[str, Any]:
        """Do it; returns the answer."""
        raise NotImplementedError


class Configure(_Call, tag="configure"):
    """Another host takes this one's place: :meth:`HostVcpu.start_over`."""

    design: Design
    shape: PmuCpuid
    profile: Profile

    def do(self, host: HostVcpu) -> dict[str, Any]:
        host.start_over(self.design, self.shape, self.profile)
        return {}


class GetMsr(_Call, tag="get_msr"):
    """Answer: ``value``, None for an error."""

    address: int

    def do(self, host: HostVcpu) -> dict[str, Any]:
        return {"value": vmm.get_msr(host, self.address)}


class SetMsr(_Call, tag="set_msr"):
    """Answer: ``done``."""

    address: int
    value: int

    def do(self, host: HostVcpu) -> dict[str, Any]:
        fits = 0 <= self.value <= U64_MASK
        return {"done": fits and vmm.set_msr(host, self.address, self.value)}


class MsrList(_Call, tag="msr_list"):
    """Answer: ``addresses``."""

    def do(self, host: HostVcpu) -> dict[str, Any]:
        return {"addresses": host.vpmu.msr_list()}


class SetCpuid(_Call, tag="set_cpuid"):
    """Answer: ``done``."""

    shape: PmuCpuid

    def do(self, host: HostVcpu) -> dict[str, Any]:
        return {"done": vmm.set_cpuid(host, self.shape)}


class SetFilter(_Call, tag="set_filter"):
    """The fields of :class:`EventFilter`; ``action`` None removes the filter."""

    action: int | None
    events: tuple[int, ...] = ()
    fixed_counters: int = 0
    flags: int = 0

    def do(self, host: HostVcpu) -> dict[str, Any]:
        wanted = None
        if self.action is not None:
            wanted = EventFilter(self.action, self.events, self.fixed_counters, self.flags)
        vmm.set_filter(host, wanted)
        return {}


class Save(_Call, tag="save"):
    """Answer: ``state``."""

    def do(self, host: HostVcpu) -> dict[str, Any]:
        return {"state": asdict(migrate.save(host))}


class Restore(_Call, tag="restore"):
    """``state``: as saved."""

    state: migrate.VcpuState

    def do(self, host: HostVcpu) -> dict[str, Any]:
        migrate.restore(host, self.state)
        return {}


class Do(_Call, tag="do"):
    """A call without arguments or answer."""

    what: Literal["reset", "init", "preempt", "move", "queue_nmi"]

    def do(self, host: HostVcpu) -> dict[str, Any]:
        _DO[self.what](host)
        return {}


class Load(_Call, tag="load"):
    """Answer: ``counting``, how many of the host's own events found a counter."""

    kinds: list[int]

    def do(self, host: HostVcpu) -> dict[str, Any]:
        return {"counting": vmm.load(host, self.kinds)}


class Work(_Call, tag="work"):
    """``counts`` by event kind, retired outside the guest on the vCPU's physical CPU."""

    counts: list[int]

    def do(self, host: HostVcpu) -> dict[str, Any]:
        vmm.work(host, self.counts)
        return {}


class Idle(_Call, tag="idle"):
    """``cycles`` pass on the vCPU's physical CPU while it halts."""

    cycles: int

    def do(self, host: HostVcpu) -> dict[str, Any]:
        vmm.idle(host, self.cycles)
        return {}


class TakeDirty(_Call, tag="take_dirty"):
    """Answer: ``frames``."""

    def do(self, host: HostVcpu) -> dict[str, Any]:
        return {"frames": vmm.take_dirty(host)}


class Describe(_Call, tag="describe"):
    """Answer: what :func:`pvpmu.host.vmm.describe` gives."""

    def do(self, host: HostVcpu) -> dict[str, Any]:
        return vmm.describe(host)


class Emulate(_Call, tag="emulate"):
    """The host emulates instructions; answer: ``changed``, whether a counter counted them."""

    kind: int
    count: int
    cpl: int

    def do(self, host: HostVcpu) -> dict[str, Any]:
        return {"changed": vmm.emulate(host, self.kind, self.count, self.cpl)}


Call = (
    Configure
    | GetMsr
    | SetMsr
    | MsrList
    | SetCpuid
    | SetFilter
    | Save
    | Restore
    | Do
    | Load
    | Work
    | Idle
    | TakeDirty
    | Describe
    | Emulate
)
_DO: dict[str, Callable[[HostVcpu], None]] = {
    "reset": vmm.reset,
    "init": vmm.init,
    "preempt": vmm.preempt,
    "move": vmm.move,
    "queue_nmi": HostVcpu.queue_nmi,
}


class TestPort:
    """Serves the calls that arrive in a vCPU's ``area``."""

    __test__ = False  # not a test case, for all its name

    def __init__(self, host: HostVcpu, area: memoryview[int]) -> None:
        self._host = host
        self._area = area
        host.on_call = self._serve

    def _serve(self) -> bool:
        try:
            call: Call = msgspec.convert(port.take(self._area), type=Call)
            answer = call.do(self._host)
        except (PvpmuError, msgspec.ValidationError) as error:
            answer = {"error": str(error)}
        port.put(self._area, answer)
        return True
