"""The guest's end of the test port: ask the host for a VMM's call."""

from __future__ import annotations

from typing import Any

from pvpmu.guest.cpu import Vcpu
from pvpmu.shared import port
from pvpmu.shared.errors import PeerError, RefusedError
from pvpmu.shared.exits import Control, ExitReason


class PortCalls:
    """Calls through one vCPU's area. ``slot``: the exit slot with what follows it.

    Raises :class:`PeerError` when the host has no test port.
    """

    def __init__(self, vcpu: Vcpu, slot: memoryview[int]) -> None:
        area = port.area_of(slot)
        if area is None:
            raise PeerError("the host has no test port (pvpmu-host --test-port)")
        self._vcpu = vcpu
        self._area = area

    def __call__(self, call: str, **arguments: Any) -> dict[str, Any]:
        """One call; raises :class:`RefusedError` with the host's words when it refuses."""
        port.put(self._area, {"call": call, **arguments})
        self._vcpu.exit(ExitReason.CONTROL, value=Control.CALL)
        answer = port.take(self._area)
        if "error" in answer:
            raise RefusedError(f"{call}: {answer['error']}")
        return answer
