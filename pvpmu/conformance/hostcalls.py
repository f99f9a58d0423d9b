"""What a VMM asks of its vCPUs through ioctls, as operations of the inline target.

Each runs at a CALL exit, while the vCPU is stopped: the page is imported before and published
after, as at any exit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pvpmu.conformance.target import Reply
from pvpmu.host.filter import Action, EventFilter, masked_entry
from pvpmu.host.migrate import VcpuState, restore, save
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared.errors import UsageError

Fields = Mapping[str, Any]
_NO_ACTION = 7
"""For ``bad``: an action that does not exist."""
_ACTIONS = {"allow": int(Action.ALLOW), "deny": int(Action.DENY), "bad": _NO_ACTION}


class Stopped(Protocol):
    """A vCPU for which a VMM can call."""

    host: HostVcpu

    def call(self, what: Callable[[], None]) -> None:
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
        }

    def _get(self, f: Fields) -> Reply:
        def get() -> int | None:
            self.vcpu.host.import_page()
            return self.vcpu.host.vpmu.host_rdmsr(f["msr"])

        value = self._result(get)
        return Reply(refused=True) if value is None else Reply(value=value)

    def _set(self, f: Fields) -> Reply:
        def put() -> bool:
            self.vcpu.host.import_page()
            done = self.vcpu.host.vpmu.host_wrmsr(f["msr"], f["value"])
            _changed(self.vcpu.host)
            return done

        return Reply(refused=not self._result(put))

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

            def put(host: HostVcpu = vcpu.host) -> None:
                host.import_page()
                host.vpmu.set_filter(wanted)
                _changed(host)

            vcpu.call(put)
        return Reply()

    def _result(self, what: Callable[[], Any]) -> Any:
        results: list[Any] = []
        self.vcpu.call(lambda: results.append(what()))
        return results[0]


def _changed(host: HostVcpu) -> None:
    if host.page is not None:
        host.page.registers_changed()


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
