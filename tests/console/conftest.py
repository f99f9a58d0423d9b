"""Snapshots of VMs made of numbers."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pvpmu.console.snapshot import GuestPart, VcpuSnapshot, VmSnapshot
from pvpmu.guest.liveview import GuestLive
from pvpmu.host.liveview import HostLive
from pvpmu.shared import liveview, memory
from pvpmu.shared.liveview import PMI_WORDS, Key, State, Status
from pvpmu.shared.memory import Segment

SHM = Path("/dev/shm")  # noqa: S108 (where the names are)


def vm(
    name: str = "vm0",
    design: str = "page",
    *,
    exits: Sequence[Mapping[Key, int]] = ({},),
    series: Sequence[Mapping[Key, Mapping[int, int]]] = (),
    pmis: Sequence[Mapping[str, int]] = (),
    state: State = State.RUNNING,
    status: Status = Status.SERVING,
    lives: bool = True,
    spurious: int = 0,
    dropped: int = 0,
) -> VmSnapshot:
    """As many vCPUs as the longest list has; those with series record, by bucket."""
    count = max(len(exits), len(series), len(pmis))
    vcpus = []
    for number in range(count):
        guest = None
        if number < len(series):
            guest = GuestPart(
                timer_ns=40,
                record_ns=380,
                floor_ns=8000,
                spurious=spurious,
                dropped=dropped,
                series=series[number],
                counts={key: sum(found.values()) for key, found in series[number].items()},
            )
        own = pmis[number] if number < len(pmis) else {}
        vcpus.append(
            VcpuSnapshot(
                number=number,
                state=state,
                generation=1,
                pmis=dict.fromkeys(PMI_WORDS, 0) | dict(own),
                exits=exits[number] if number < len(exits) else {},
                guest=guest,
            )
        )
    return VmSnapshot(
        name=name, design=design, status=status, lives=lives, guest=4711, used=count, vcpus=vcpus
    )


@pytest.fixture(scope="session")
def new_vm() -> Callable[..., VmSnapshot]:
    return vm


@dataclass
class Published:
    """A VM that this process publishes: the host's segment, and the guest's if it records."""

    name: str
    host: Segment
    guest: Segment | None

    def vcpu(self, number: int) -> HostLive:
        return HostLive(self.host.words[liveview.host_area(number)])

    def live(self, number: int) -> GuestLive:
        assert self.guest is not None
        words = self.guest.words[liveview.guest_area(number)]
        return GuestLive(words, lambda: 0, timer_ns=0, record_ns=380)

    def end(self, status: Status) -> None:
        """As a host ends: it says how, and its names go."""
        self.host.words[liveview.VM_STATUS] = status
        for segment in (self.host, self.guest):
            if segment is not None:
                (SHM / segment.name).unlink(missing_ok=True)


@pytest.fixture
def publish() -> Iterator[Callable[..., Published]]:
    """Makes VMs of names of their own; they are gone afterwards."""
    with contextlib.ExitStack() as stack:

        def make(
            *, vcpus: int = 1, design: str = "page", records: bool = True, serving: bool = True
        ) -> Published:
            name = f"top-{uuid.uuid4().hex[:12]}"
            host = Segment.create(
                memory.segment_name(name, liveview.HOST_SIDE), liveview.host_bytes(vcpus)
            )
            stack.callback(_gone, host)
            liveview.begin_host(host.words, vcpus=vcpus, design=design, wants=records)
            guest = None
            if records:
                guest = Segment.create(
                    memory.segment_name(name, liveview.GUEST_SIDE), liveview.guest_bytes(vcpus)
                )
                stack.callback(_gone, guest)
                liveview.begin_guest(guest.words, vcpus=vcpus)
            if serving:
                host.words[liveview.VM_GUEST] = 4711
                host.words[liveview.VM_GUEST_VCPUS] = vcpus
                host.words[liveview.VM_STATUS] = Status.SERVING
            return Published(name, host, guest)

        yield make


def _gone(segment: Segment) -> None:
    (SHM / segment.name).unlink(missing_ok=True)
    # Windows cut from it are held by a test's objects: it is unmapped with the last of them.
    segment._shm._buf = segment._shm._mmap = None  # type: ignore[attr-defined]
