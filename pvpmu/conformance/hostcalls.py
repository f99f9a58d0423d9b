"""What a VMM asks of its vCPUs through ioctls, as operations, made through the test port.

Each is a CALL exit, at which the vCPU is stopped: the page is imported before and published after,
as at any exit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pvpmu.conformance.target import Reply
from pvpmu.guest.testport import PortCalls
from pvpmu.host.filter import Action, masked_entry
from pvpmu.host.hardware import PHYSICAL_GP
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import RefusedError
from pvpmu.shared.events import BRANCHES, FIXED_KIND, KINDS

Fields = Mapping[str, Any]
_FIXED_KINDS = list(FIXED_KIND.values())
_NO_ACTION = 7
"""For ``bad``: an action that does not exist."""
_ACTIONS = {"allow": int(Action.ALLOW), "deny": int(Action.DENY), "bad": _NO_ACTION}


class Stopped(Protocol):
    """A vCPU for which a VMM can call.

    ``frame``: where its page lies. ``current``: the PMU that it has now.
    """

    call: PortCalls
    frame: int
    current: PmuCpuid

    def shape(self, changes: Fields) -> PmuCpuid:
        """The PMU of its configuration with some fields of leaf 0xA changed."""

    def configure(self, gp: int | None = None) -> None:
        """Put a new host vCPU in the place of this guest's, with ``gp`` counters if given."""


@dataclass(slots=True)
class HostCalls:
    """The calls for one vCPU; ``vm`` are all vCPUs of its VM."""

    vcpu: Stopped
    vm: Sequence[Stopped] = ()
    _saved: dict[str, Any] = field(default_factory=dict)

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
            "move": self._move,
            "dirty": self._dirty,
        }

    def _get(self, f: Fields) -> Reply:
        value = self.vcpu.call("get_msr", address=f["msr"])["value"]
        return Reply(refused=True) if value is None else Reply(value=value)

    def _set(self, f: Fields) -> Reply:
        return self._done("set_msr", address=f["msr"], value=f["value"])

    def _list(self, f: Fields) -> Reply:
        listed = self.vcpu.call("msr_list")["addresses"]
        return Reply(value=int(f["msr"] in listed) if "msr" in f else len(listed))

    def _save(self, f: Fields) -> Reply:
        self._saved[f["name"]] = self.vcpu.call("save")["state"]
        return Reply()

    def _restore(self, f: Fields) -> Reply:
        if f["fresh"]:
            self.vcpu.configure(f.get("gp"))
        try:
            self.vcpu.call("restore", state=self._saved[f["name"]])
        except RefusedError:
            return Reply(refused=True)
        return Reply()

    def _filter(self, f: Fields) -> Reply:
        wanted = _filter_arguments(f)
        try:
            for vcpu in self.vm:
                vcpu.call("set_filter", **wanted)
        except RefusedError:
            return Reply(refused=True)
        return Reply()

    def _set_cpuid(self, f: Fields) -> Reply:
        shape = self.vcpu.shape(f)
        reply = self._done("set_cpuid", shape=asdict(shape))
        if not reply.refused:
            self.vcpu.current = shape
        return reply

    def _load(self, f: Fields) -> Reply:
        count = f["counters"]
        kinds = [BRANCHES] * min(count, PHYSICAL_GP) + _FIXED_KINDS[: max(count - PHYSICAL_GP, 0)]
        counting = self.vcpu.call("load", kinds=kinds)["counting"]
        if f["work"]:
            self.vcpu.call("work", counts=[f["work"]] * KINDS)
        return Reply(value=counting)

    def _preempt(self, f: Fields) -> Reply:
        for _ in range(f["times"]):
            self.vcpu.call("do", what="preempt")
        return Reply()

    def _move(self, _: Fields) -> Reply:
        self.vcpu.call("do", what="move")
        return Reply()

    def _dirty(self, _: Fields) -> Reply:
        return Reply(value=int(self.vcpu.frame in self.vcpu.call("take_dirty")["frames"]))

    def _done(self, call: str, **arguments: Any) -> Reply:
        return Reply(refused=not self.vcpu.call(call, **arguments)["done"])


def _filter_arguments(f: Fields) -> dict[str, Any]:
    """Whatever the vector says, wrong or not: to judge it is the host's part."""
    if f["action"] == "none":
        return {"action": None}
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
    return {
        "action": _ACTIONS[f["action"]],
        "events": events,
        "fixed_counters": f["fixed"],
        "flags": f.get("flags", int(masked)),
    }
