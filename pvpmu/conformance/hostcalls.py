"""What a VMM asks of its vCPUs through ioctls, as operations of the inline target.

Each runs at a CALL exit, while the vCPU is stopped: the page is imported before and published
after, as at any exit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from pvpmu.conformance.target import Reply
from pvpmu.host import vmm
from pvpmu.host.filter import Action, EventFilter, masked_entry
from pvpmu.host.hardware import PHYSICAL_GP
from pvpmu.host.migrate import VcpuState, restore, save
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import BRANCHES, FIXED_KIND

Fields = Mapping[str, Any]
_FIXED_KINDS = list(FIXED_KIND.values())
_NO_ACTION = 7
"""For ``bad``: an action that does not exist."""
_ACTIONS = {"allow": int(Action.ALLOW), "deny": int(Action.DENY), "bad": _NO_ACTION}


class Stopped(Protocol):
    """A vCPU for which a VMM can call; ``frame``: where its page lies."""

    host: HostVcpu
    frame: int

    def shape(self, changes: Fields) -> PmuCpuid:
        """The PMU of its configuration with some fields of leaf 0xA changed."""

    def call(self, what: Callable[[], object]) -> None:
        """Do it while the vCPU is stopped."""

    def replace_host(self, gp: int | None) -> None:
        """A new host vCPU for the same guest, with ``gp`` counters if given."""


@dataclass(slots=True)
class HostCalls:
    """The calls for one vCPU; ``vm`` are all vCPUs of its VM."""

    vcpu: Stopped
    vm: Sequence[Stopped] = ()
    _saved: dict[str, VcpuState] = field(default_factory=dict)
    _restored: int = 0

    def operations(self) -> dict[str, Callable[[Fields], Reply]]:
        """By operation name."""
        return {
            "host_get": self._get,
            "host_set": self._set,
            "msr_list": self._list,
            "save": self._save,
            "restore": self._restore,
            "filter": self._filter,
            "set_cpuid": self._set_cpuid,
            "host_load": self._load,
            "preempt": self._preempt,
            "dirty": self._dirty,
        }

    def _get(self, f: Fields) -> Reply:
        value = self._result(lambda: vmm.get_msr(self.vcpu.host, f["msr"]))
        return Reply(refused=True) if value is None else Reply(value=value)

    def _set(self, f: Fields) -> Reply:
        done = self._result(lambda: vmm.set_msr(self.vcpu.host, f["msr"], f["value"]))
        return Reply(refused=not done)

    def _list(self, f: Fields) -> Reply:
        listed = self.vcpu.host.vpmu.msr_list()
        return Reply(value=int(f["msr"] in listed) if "msr" in f else len(listed))

    def _save(self, f: Fields) -> Reply:
        self._saved[f["name"]] = self._result(lambda: save(self.vcpu.host))
        return Reply()

    def _restore(self, f: Fields) -> Reply:
        if f["fresh"]:
            self.vcpu.replace_host(f.get("gp"))

        def put() -> bool:
            try:
                restore(self.vcpu.host, self._saved[f["name"]])
            except UsageError:
                return False
            # A new host counts its live versions from 1, and the guest compares for equality: it
            # must not find the number that it knows.
            self._restored += 1
            self.vcpu.host.hardware.version += self._restored << 32
            return True

        return Reply(refused=not self._result(put))

    def _filter(self, f: Fields) -> Reply:
        try:
            wanted = None if f["action"] == "none" else _event_filter(f)
        except UsageError:
            return Reply(refused=True)
        for vcpu in self.vm:
            vcpu.call(partial(vmm.set_filter, vcpu.host, wanted))
        return Reply()

    def _set_cpuid(self, f: Fields) -> Reply:
        shape = self.vcpu.shape(f)
        return Reply(refused=not self._result(lambda: vmm.set_cpuid(self.vcpu.host, shape)))

    def _load(self, f: Fields) -> Reply:
        count = f["counters"]
        kinds = [BRANCHES] * min(count, PHYSICAL_GP) + _FIXED_KINDS[: max(count - PHYSICAL_GP, 0)]
        return Reply(value=self._result(lambda: vmm.load(self.vcpu.host, kinds)))

    def _preempt(self, f: Fields) -> Reply:
        for _ in range(f["times"]):
            self.vcpu.call(lambda: vmm.preempt(self.vcpu.host))
        return Reply()

    def _dirty(self, _: Fields) -> Reply:
        frames = self._result(lambda: vmm.take_dirty(self.vcpu.host))
        return Reply(value=int(self.vcpu.frame in frames))

    def _result(self, what: Callable[[], Any]) -> Any:
        results: list[Any] = []
        self.vcpu.call(lambda: results.append(what()))
        return results[0]


def _event_filter(f: Fields) -> EventFilter:
    """Raises UsageError as the call would refuse."""
    masked = f["masked"]
    events = []
    for entry in f.get("events", ()):
        event, umask, mask = entry["event"], entry["umask"], entry["mask"]
        if masked:
            mask = 0xFF if mask is None else mask
            events.append(masked_entry(event, mask, umask, exclude=entry["exclude"]))
        else:
            events.append(event | umask << 8)
    events += f.get("raw", ())
    events += [number & 0xFF | 0xFF00 for number in range(f["fill"])]
    flags = f.get("flags", int(masked))
    return EventFilter(_ACTIONS[f["action"]], tuple(events), f["fixed"], flags)
