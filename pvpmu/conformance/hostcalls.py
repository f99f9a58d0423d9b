"""What a VMM asks of its vCPUs through ioctls, as operations of the inline target.

Each runs at a CALL exit, while the vCPU is stopped: the page is imported before and published
after, as at any exit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pvpmu.conformance.target import Reply
from pvpmu.host.migrate import VcpuState, restore, save
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared.errors import UsageError

Fields = Mapping[str, Any]


class Stopped(Protocol):
    """A vCPU for which a VMM can call."""

    host: HostVcpu

    def call(self, what: Callable[[], None]) -> None:
        """Do it while the vCPU is stopped."""

    def replace_host(self, gp: int | None) -> None:
        """A new host vCPU for the same guest, with ``gp`` counters if given."""


@dataclass(slots=True)
class HostCalls:
    """The calls for one vCPU."""

    vcpu: Stopped
    _saved: dict[str, VcpuState] = field(default_factory=dict)
    _restored: int = 0

    def operations(self) -> dict[str, Callable[[Fields], Reply]]:
        """By operation name."""
        return {
            "save": self._save,
            "restore": self._restore,
        }

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

    def _result(self, what: Callable[[], Any]) -> Any:
        results: list[Any] = []
        self.vcpu.call(lambda: results.append(what()))
        return results[0]
