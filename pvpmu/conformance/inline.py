"""The target in this process: an exit is a call, the host's half serves it on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pvpmu.conformance.machine import FEATURES, Board, MachineTarget
from pvpmu.conformance.race import RacingMemory
from pvpmu.conformance.target import Json
from pvpmu.host.testport import TestPort
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import port
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design
from pvpmu.shared.exits import SLOT_SIZE
from pvpmu.shared.page import PAGE_SIZE

_ANY = Design(name="none yet", summary="the first call configures it", is_paused=True, page=False)


class InlineTarget(MachineTarget):
    """Host and guest in this process."""

    def __init__(self, design: Design | None = None) -> None:
        super().__init__("inline", (*FEATURES, "race"), design)
        self._races = False

    def reset(self, config: Mapping[str, Json]) -> None:
        """Make a VM of that configuration; ``race``: the host's memory can race."""
        self._races = bool(config.get("race"))
        super().reset(config)

    def boards(self, vcpus: int, pages: int) -> list[Board]:
        """New ones."""
        memory = memoryview(bytearray(pages * PAGE_SIZE)).cast("Q")
        return [_board(memory, RacingMemory(memory) if self._races else None) for _ in range(vcpus)]


def _board(memory: memoryview[int], racing: RacingMemory | None) -> Board:
    slot = memoryview(bytearray(SLOT_SIZE + port.PORT_BYTES)).cast("Q")
    host = HostVcpu(slot, cast("Any", memory if racing is None else racing), _ANY, PmuCpuid())
    area = port.area_of(slot)
    assert area is not None
    TestPort(host, area)
    return Board(slot, memory, host.serve, racing.arm if racing is not None else None)
