"""The target of a real VM: the vectors' accesses are made by the guest's driver code in C.

A vCPU's operations go to its guest as commands, one after another, also within the handler of an
NMI, which takes commands until its end. What a VMM does to the host's half goes to it directly: the
vCPU is stopped between two commands.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any, cast

from pvpmu.conformance.machine import FEATURES, Board, MachineTarget
from pvpmu.guest.cpu import Vcpu
from pvpmu.host.testport import TestPort
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits, port
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import Design, GuestDesign
from pvpmu.shared.errors import GeneralProtectionError, ResourceError
from pvpmu.shared.events import KINDS
from pvpmu.shared.exits import SLOT_SIZE, ExitReason
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.vm import build, kvm, layout
from pvpmu.vm.cpl import user_or_kernel
from pvpmu.vm.cpu import VmCpu
from pvpmu.vm.layout import Command, MemoryMap
from pvpmu.vm.session import refuse_impossible

NOT_HERE = {
    "nmi-at": "no NMI can be ordered between two given instructions of a real guest",
    "race": "no other CPU's store can be ordered after a load of the host",
    "interrupt-flag": "the guest takes no fixed interrupts",
    "privilege": "RDPMC is KVM's own",
    "forced-emulation": "RDPMC is KVM's own",
    "set-cpuid": "KVM refuses another CPUID once the vCPU has run",
}
"""Features that the other targets of this project have, and why this one has not."""
_ANY = Design(name="none yet", summary="the first call configures it", is_paused=True, page=False)
_RETIRED = exits.RETIRED_USER | exits.RETIRED_KERNEL
_DIRECT = (ExitReason.CONTROL, ExitReason.FLOOR)


class RealTarget(MachineTarget):
    """A VM for each case. ``limit_s``: how long one command may take."""

    def __init__(self, limit_s: float, design: Design | None = None) -> None:
        features = tuple(each for each in FEATURES if each not in NOT_HERE)
        super().__init__("vm", features, design)
        if design is not None:
            refuse_impossible(design)
        reason = kvm.unusable()
        if reason is not None:
            raise ResourceError(reason)
        self._limit_s = limit_s
        self._program = build.program()
        self._user = user_or_kernel().user
        self._vcpus: list[RealVcpu] = []

    def boards(self, vcpus: int, pages: int) -> Sequence[Board]:
        """New ones; the guests are made when they are first asked something."""
        self.close()
        where = MemoryMap(vcpus, len(self._program), pages)
        memory = memoryview(mmap.mmap(-1, where.memory_bytes)).cast("Q")
        slots = memoryview(mmap.mmap(-1, where.slots_bytes)).cast("Q")
        boards = []
        for number in range(vcpus):
            # The test port's area lies behind a slot of its own: the guest has no business there.
            slot = memoryview(bytearray(SLOT_SIZE + port.PORT_BYTES)).cast("Q")
            host = HostVcpu(slot, memory[: pages * PAGE_SIZE // 8], _ANY, PmuCpuid())
            area = port.area_of(slot)
            assert area is not None
            TestPort(host, area)
            shared = slots[number * SLOT_SIZE // 8 : (number + 1) * SLOT_SIZE // 8]
            plug = _Plug(self, host, slot, shared, memory, slots, where, number)
            boards.append(Board(slot, memory[: pages * PAGE_SIZE // 8], host.serve, vcpu=plug))
        return boards

    def made(self, vcpu: RealVcpu) -> None:
        """Told of each vCPU, so that it can be ended."""
        self._vcpus.append(vcpu)

    @property
    def user(self) -> bool:
        """Whether guests run at CPL 3 here."""
        return self._user

    @property
    def limit_s(self) -> float:
        """How long one command may take."""
        return self._limit_s

    def close(self) -> None:
        """End every vCPU."""
        super().close()
        while self._vcpus:
            self._vcpus.pop().end()


class _Plug:
    """Makes the vCPU of one board, with the crossing that its machine gives it."""

    def __init__(
        self,
        target: RealTarget,
        host: HostVcpu,
        slot: memoryview[int],
        shared: memoryview[int],
        memory: memoryview[int],
        slots: memoryview[int],
        where: MemoryMap,
        number: int,
    ) -> None:
        self._target = target
        self._host = host
        self._slot = slot
        self._shared = shared
        self._rest = memory, slots, where, number

    def __call__(self, slot: memoryview[int], cross: Callable[[], object]) -> Vcpu:
        vcpu = RealVcpu(slot, cross, self._start, self._shared)
        self._target.made(vcpu)
        return vcpu

    def _start(self, serve: Callable[[], object]) -> VmCpu:
        memory, slots, where, number = self._rest
        cpu = VmCpu(
            memory,
            slots,
            self._host,
            self._shared,
            vcpus=where.vcpus,
            number=number,
            user=self._target.user,
            limit_s=self._target.limit_s,
            pages=where.pages,
        )
        cpu.loop.serve = serve
        return cpu


class _RealSeam:
    """The seam of the guest in C, as the machine asks for it."""

    def __init__(self, vcpu: RealVcpu) -> None:
        self._vcpu = vcpu
        self.page: object = None

    def rdmsr(self, address: int) -> int:
        return self._vcpu.access(Command.READ, "rdmsr", address)

    def wrmsr(self, address: int, value: int) -> None:
        self._vcpu.access(Command.WRITE, "wrmsr", address, value)

    def rdpmc(self, ecx: int) -> int:
        return self._vcpu.access(Command.RDPMC, "rdpmc", ecx)

    def handler_begins(self) -> None:
        """The guest's own handler has looked already."""

    def handler_ends(self) -> None:
        """Likewise."""

    def detach(self) -> None:
        self.page = None


class RealVcpu(Vcpu):
    """A vCPU whose every exit a real guest makes.

    ``start``: makes it, with what serves its exits; ``shared``: its exit slot, in its own memory.
    The host's half works on ``slot``, which nobody else sees.
    """

    def __init__(
        self,
        slot: memoryview[int],
        cross: Callable[[], object],
        start: Callable[[Callable[[], object]], VmCpu],
        shared: memoryview[int],
    ) -> None:
        super().__init__(slot, cross)
        self._seam = _RealSeam(self)
        self.seam = cast("Any", self._seam)
        self._start = start
        self._shared = shared
        self._cpu: VmCpu | None = None
        self._told = False

    def exit(self, reason: int, address: int = 0, value: int = 0) -> int:
        """One exit, made by the guest; what only measurements ask for goes to the host itself."""
        if reason in _DIRECT:
            return super().exit(reason, address, value)
        cpu = self._running()
        box = cpu.machine.box
        box[layout.REASON] = reason
        self._command(Command.EXIT, address, value)
        if box[layout.FAULT]:
            raise self._fault(reason & exits.REASON_MASK, address, value)
        return int(box[layout.RESULT])

    def access(self, command: Command, op: str, address: int, value: int = 0) -> int:
        """An access by the guest's seam; raises :class:`GeneralProtectionError`."""
        box = self._running().machine.box
        self._command(command, address, value)
        if box[layout.FAULT]:
            raise GeneralProtectionError(op, address, value)
        return int(box[layout.RESULT])

    def cpuid(self, leaf: int) -> tuple[int, int, int, int]:
        """CPUID as the guest executes it."""
        box = self._running().machine.box
        self._command(Command.CPUID, leaf)
        low, high = box[layout.RESULT], box[layout.DETAIL]
        return low & 0xFFFF_FFFF, low >> 32, high & 0xFFFF_FFFF, high >> 32

    def register_page(
        self,
        memory: memoryview[int],  # noqa: ARG002 (the guest has its own)
        address: int,  # noqa: ARG002
        features: int = 0,  # noqa: ARG002
        guest: GuestDesign | None = None,
        *,
        retry: bool = False,  # noqa: ARG002
    ) -> bool:
        """Have the guest discover and register its page."""
        box = self._running().machine.box
        self._command(Command.REGISTER, value=int(guest is not None and guest.reload))
        self._seam.page = box if box[layout.REGISTERED] else None
        return self._seam.page is not None

    def unregister_page(self) -> None:
        """Have the guest give its page up."""
        self._command(Command.UNREGISTER)
        self._seam.page = None

    def forget_page(self) -> None:
        """The guest starts anew."""
        if self._cpu is not None:
            self._command(Command.FORGET)
        self._seam.page = None

    def end(self) -> None:
        """The VM goes."""
        if self._cpu is not None:
            self._cpu.close()
            self._cpu = None

    def _running(self) -> VmCpu:
        if self._cpu is None:
            self._cpu = self._start(self._serve)
        return self._cpu

    def _serve(self) -> None:
        """An exit of the guest: through the host's own slot, and back."""
        mine, theirs = self._slot, self._shared
        request = theirs[exits.REQUEST]
        for word in (exits.REQUEST, exits.ADDRESS, exits.VALUE):
            mine[word] = theirs[word]
        if request & _RETIRED:
            self._told = True
            for first in (exits.RETIRED_USER_AT, exits.RETIRED_KERNEL_AT):
                mine[first : first + KINDS] = theirs[first : first + KINDS]
        self._cross()
        for word in (exits.REPLY, exits.RESULT, exits.RESULT_HIGH):
            theirs[word] = mine[word]

    def _command(self, command: Command, address: int = 0, value: int = 0) -> None:
        cpu = self._running()
        self._tell_retired(cpu)
        port_number = cpu.run(command, address, value)
        while port_number == layout.PORT_NMI:
            self._handle()
            port_number = cpu.run(Command.IRET)
        self._clear_told()
        if self._seam.page is not None and not cpu.machine.box[layout.REGISTERED]:
            self._seam.page = None

    def _handle(self) -> None:
        """The guest's NMI handler waits for what to do."""
        self._clear_told()
        before = self._flags
        self._flags |= exits.NMI_BLOCKED
        self.on_injection()
        self.on_nmi()
        self._flags = self._flags & ~exits.NMI_BLOCKED | before & exits.NMI_BLOCKED

    def _tell_retired(self, cpu: VmCpu) -> None:
        """Have the next exit carry what was retired; an access that stays in the page has none."""
        for flag, first, counts in (
            (exits.RETIRED_USER, exits.RETIRED_USER_AT, self._user),
            (exits.RETIRED_KERNEL, exits.RETIRED_KERNEL_AT, self._kernel),
        ):
            if self._flags & flag:
                for kind, count in enumerate(counts):
                    self._shared[first + kind] = count
        cpu.machine.box[layout.FLAGS] = self._flags & _RETIRED
        self._told = False

    def _clear_told(self) -> None:
        if self._told:
            self._told = False
            self._user, self._kernel = [0] * KINDS, [0] * KINDS
            self._flags &= ~_RETIRED
            self._pmi_due = None
