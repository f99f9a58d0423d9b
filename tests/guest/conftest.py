"""A fake CPU for the driver: registers without a host, and a log of every access."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pvpmu.guest.perf import PerfCore
from pvpmu.guest.perf_event import EventConfig
from pvpmu.guest.pmu import LINUX_5_14, PmuDriver
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.events import BY_NAME

MASK = (1 << 48) - 1


@dataclass
class FakeCpu:
    """The three instructions, on a dictionary; ``log`` holds (op, address, value).

    ``full_width``: what IA32_PERF_CAPABILITIES bit 13 says. ``on_rdpmc`` runs once, after the
    value of the next RDPMC was read and before the driver sees it.
    """

    full_width: bool = True
    status: int = 0
    late_status: int = 0
    log: list[tuple[str, int, int]] = field(default_factory=list)
    registers: dict[int, int] = field(default_factory=dict)
    on_rdpmc: Callable[[], None] | None = None

    def rdmsr(self, address: int) -> int:
        if address == 0x345:
            value = 1 << 13 if self.full_width else 0
        elif address == 0x38E:
            value = self.status
        else:
            value = self.registers.get(address, 0)
        self.log.append(("rdmsr", address, value))
        return value

    def wrmsr(self, address: int, value: int) -> None:
        self.log.append(("wrmsr", address, value))
        if address == 0x390:
            self.status = self.status & ~value | self.late_status
            self.late_status = 0
        elif 0xC1 <= address <= 0xC8:
            low = value & 0xFFFF_FFFF
            extended = low | 0xFFFF_FFFF_0000_0000 if low >> 31 else low
            self.registers[address + 0x400] = extended & MASK
        else:
            self.registers[address] = value

    def rdpmc(self, ecx: int) -> int:
        value = self.registers.get(_counter(ecx), 0)
        self.log.append(("rdpmc", ecx, value))
        hook, self.on_rdpmc = self.on_rdpmc, None
        if hook is not None:
            hook()
        return value

    def advance(self, ecx: int, count: int) -> None:
        """Let a counter, named by its RDPMC index, count."""
        address = _counter(ecx)
        self.registers[address] = self.registers.get(address, 0) + count & MASK

    def overflow(self, *indices: int, past: int = 0) -> None:
        """Let counters, named by global index, overflow and stand ``past`` after the wrap."""
        for index in indices:
            self.status |= 1 << index
            address = 0x309 + index - 32 if index >= 32 else 0x4C1 + index
            self.registers[address] = past

    def taken(self) -> list[tuple[str, int, int]]:
        """The log so far; it starts anew."""
        log, self.log = self.log, []
        return log


def _counter(ecx: int) -> int:
    return 0x309 + (ecx & 0xFF) if ecx >> 30 & 1 else 0x4C1 + ecx


@dataclass
class Rig:
    """A fake CPU with driver and perf core; the log starts after the driver's probe."""

    cpu: FakeCpu
    driver: PmuDriver
    core: PerfCore

    def shape(self) -> list[tuple[str, int]]:
        """(op, address) of what was logged; the log starts anew."""
        return [(op, address) for op, address, _ in self.cpu.taken()]


@pytest.fixture
def rig() -> Callable[..., Rig]:
    """Build a rig: event names or configs, then cpu=, cpuid=, hz=, max_sample_rate=, capacity=."""

    def build(
        *events: str | EventConfig,
        cpu: FakeCpu | None = None,
        cpuid: PmuCpuid | None = None,
        **core: Any,
    ) -> Rig:
        fake = cpu or FakeCpu()
        driver = PmuDriver(fake, cpuid or PmuCpuid(), core.get("generation", LINUX_5_14))
        configs = [
            EventConfig(BY_NAME[event], 1000, initial_period=100_000)
            if isinstance(event, str)
            else event
            for event in events
        ]
        made = PerfCore(
            driver,
            configs,
            hz=core.get("hz", 1000),
            max_sample_rate=core.get("max_sample_rate", 10_000),
            sample_capacity=core.get("capacity", 0),
        )
        fake.taken()
        return Rig(fake, driver, made)

    return build


@pytest.fixture
def fake_cpu() -> type[FakeCpu]:
    """The fake CPU's class."""
    return FakeCpu


@pytest.fixture
def mail_rig(rig: Callable[..., Rig]) -> Rig:
    """The four events of the 2021 measurement, scheduled in; the log is empty."""
    made = rig("cpu-cycles", "instructions", "branch-instructions", "cache-misses")
    made.core.sched_in(0)
    made.cpu.taken()
    return made
