"""Both sides of what the live view reads: for every design they count the same accesses."""

from __future__ import annotations

import pytest

from pvpmu.console.snapshot import GUEST_HEAD, guest_of, vcpu_of
from pvpmu.guest.liveview import GuestLive
from pvpmu.guest.machine import Machine, RunJob
from pvpmu.guest.scenario import load_scenario
from pvpmu.host.liveview import HostLive, publishing
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, liveview
from pvpmu.shared.design import design_named, design_names
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import BUCKETS
from pvpmu.shared.liveview import HANDLER_KEY, AccessPath
from pvpmu.shared.page import PAGE_SIZE

REGISTERS = (ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC)


def words_of(size: int) -> memoryview:
    return memoryview(bytearray(size)).cast("Q")


@pytest.mark.parametrize("name", design_names())
@pytest.mark.parametrize("seed", [1, 2])
def test_host_and_guest_publish_the_same_exits(name: str, seed: int) -> None:
    design, scenario = design_named(name), load_scenario("short")
    slot, memory = words_of(exits.SLOT_SIZE), words_of(PAGE_SIZE)
    host = HostVcpu(slot, memory, design, scenario.cpuid, design.profile)
    published = words_of(liveview.HOST_VCPU.size)
    recorded = words_of(liveview.GUEST_VCPU.size)
    machine = Machine(
        slot,
        publishing(host, slot, HostLive(published)),
        memory,
        0,
        live=GuestLive(recorded, lambda: 0, timer_ns=0, record_ns=0),
    )
    job = RunJob(scenario, seed, clock=lambda: 0, guest=design.guest)
    report = job.do(machine, lambda _: None)

    def histogram(number: int) -> memoryview:
        first = GUEST_HEAD + number * BUCKETS
        return recorded[first : first + BUCKETS]

    guest = guest_of(recorded.tolist(), histogram)
    vcpu = vcpu_of(0, published.tolist(), guest)
    accesses = {key: count for key, count in vcpu.exits.items() if key.reason in REGISTERS}
    exited = (AccessPath.EXIT, AccessPath.COMMIT)
    assert accesses == {
        key: count
        for key, count in guest.counts.items()
        if key.path in exited and key.reason in REGISTERS
    }
    assert guest.counts[HANDLER_KEY] == report.counts.handlers
    assert vcpu.pmis["delivered"] >= report.counts.handlers > 0
    commits = sum(n for key, n in accesses.items() if key.path is AccessPath.COMMIT)
    assert (commits > 0) == (design.page and design.commit != "natural")
    without = (AccessPath.PAGE, AccessPath.PASSED)
    avoided = sum(n for key, n in guest.counts.items() if key.path in without)
    assert (avoided > 0) == (design.page or design.vpmu == "mediated")
