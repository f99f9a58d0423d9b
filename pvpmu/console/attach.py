"""Find running hosts, and read what they and their guests publish; nothing is ever stored."""

from __future__ import annotations

import contextlib

from pvpmu.console.snapshot import (
    GUEST_HEAD,
    GuestPart,
    VmSnapshot,
    design_of,
    guest_of,
    status_of,
    vcpu_of,
)
from pvpmu.shared import liveview, memory
from pvpmu.shared.closing import Closing
from pvpmu.shared.errors import PeerError, UsageError
from pvpmu.shared.histogram import BUCKETS
from pvpmu.shared.layout import WORD_BYTES
from pvpmu.shared.liveview import GUEST_SIDE, HOST_SIDE, VIEW_VERSION, Status
from pvpmu.shared.memory import Copies
from pvpmu.shared.process import MAX_VCPUS

_VM_WORDS = liveview.VM.size // WORD_BYTES


def running() -> list[str]:
    """Names of the VMs whose hosts can be looked at."""
    return memory.live_vms(HOST_SIDE)


def unpublished() -> list[str]:
    """Names of the VMs whose hosts run and publish nothing."""
    seen = running()
    return [name for name in memory.live_vms("host") if name not in seen]


class Attached(Closing):
    """One VM that is looked at. A context manager.

    Raises :class:`UsageError` when there is no such host, or none that can be read.
    """

    def __init__(self, name: str) -> None:
        self.name = memory.checked_vm_name(name)
        try:
            self._host = Copies(memory.segment_name(name, HOST_SIDE), liveview.host_bytes(1))
        except PeerError as error:
            raise UsageError(_nothing_there(name, str(error))) from None
        self._guest: Copies | None = None
        words = self._host.words(0, _VM_WORDS)
        version, vcpus = words[liveview.VM_VERSION], words[liveview.VM_VCPUS]
        problem = ""
        if version != VIEW_VERSION:
            problem = f"publishes version {version}, expected {VIEW_VERSION}"
        elif not 1 <= vcpus <= MAX_VCPUS:
            problem = f"publishes {vcpus} vCPUs, expected 1 to {MAX_VCPUS}"
        elif not self._host.owner_lives():
            problem = "has ended"
        if problem:
            self._host.close()
            raise UsageError(f"the host of {name!r} {problem}")
        self._vcpus = vcpus
        self._design = design_of(words)

    @property
    def host(self) -> int:
        """The host's process id."""
        return self._host.owner

    def read(self) -> VmSnapshot:
        """What is published now; what was published last, if the host has ended."""
        # First: what the host stored before it ended is then read after its end.
        lives = self._host.owner_lives()
        words = self._host.words(0, _VM_WORDS)
        status = status_of(words)
        if self._guest is None and status is not Status.WAITING:
            self._guest = self._open_guest()
        vcpus = []
        for number in range(self._vcpus):
            area = liveview.host_area(number)
            own = self._host.words(area.start, liveview.HOST_VCPU.used // WORD_BYTES)
            vcpus.append(vcpu_of(number, own, self._guest_part(number)))
        return VmSnapshot(
            name=self.name,
            design=self._design,
            status=status,
            lives=lives,
            guest=words[liveview.VM_GUEST],
            used=min(words[liveview.VM_GUEST_VCPUS], self._vcpus) or self._vcpus,
            vcpus=vcpus,
            wants=bool(words[liveview.VM_WANTS]),
        )

    def close(self) -> None:
        """Let go."""
        self._host.close()
        if self._guest is not None:
            self._guest.close()

    def _open_guest(self) -> Copies | None:
        """The guest's segment, if it records latencies."""
        name = memory.segment_name(self.name, GUEST_SIDE)
        with contextlib.suppress(PeerError):
            guest = Copies(name, liveview.guest_bytes(1))
            words = guest.words(0, liveview.GUEST_VM.size // WORD_BYTES)
            if words[liveview.GUEST_VERSION] == VIEW_VERSION and guest.owner_lives():
                return guest
            guest.close()
        return None

    def _guest_part(self, number: int) -> GuestPart | None:
        guest = self._guest
        if guest is None:
            return None
        first = liveview.guest_area(number).start

        def histogram(series: int) -> list[int]:
            # A list is several times faster to go through than the words are.
            return guest.words(first + GUEST_HEAD + series * BUCKETS, BUCKETS).tolist()

        # A guest may use fewer vCPUs than there are, and may have cut what is its own.
        with contextlib.suppress(PeerError):
            return guest_of(guest.words(first, GUEST_HEAD), histogram)
        return None


def _nothing_there(name: str, why: str) -> str:
    if "No such file" not in why:
        return f"the host of {name!r} cannot be read: {why}"
    unseen = unpublished()
    if name in unseen:
        return f"the host of {name!r} publishes nothing for the view (--no-publish)"
    known = [f"running: {', '.join(names)}"] if (names := running()) else []
    if unseen:
        known.append(f"not published: {', '.join(unseen)}")
    return f"no host of {name!r}; {'; '.join(known) or 'none is running'}"
