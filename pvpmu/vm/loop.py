"""The host's loop: enter the guest, turn KVM's exit into the exit slot, let the vPMU serve it.

There is no logic of the vPMU here: a reason and its operands go in, reply flags come out and become
an answered MSR, a #GP, an NMI.

**NMIs.** KVM holds an NMI back until IRET by itself, but never tells user space that they are
unblocked again. So the guest says in its request word that NMIs are blocked (as in the process
binding; a guest that lies has NMIs later, by KVM's own rule), and makes the NMI-window exit itself
when the reply asked for one: the loop tells it by a word of its state.
"""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Callable

from pvpmu.shared import exits
from pvpmu.shared.errors import PeerError
from pvpmu.shared.exits import ExitReason
from pvpmu.vm import kvm, layout
from pvpmu.vm.build import RDPMC_MSR
from pvpmu.vm.machine import Machine

_READ, _WRITE = int(ExitReason.MSR_READ), int(ExitReason.MSR_WRITE)
_RDPMC, _HLT = int(ExitReason.RDPMC), int(ExitReason.HLT)
_PMI = int(ExitReason.EXCEPTION_NMI)
_WRMSR_KEY, _RDMSR_KEY = (kvm.EXIT_WRMSR, 0), (kvm.EXIT_RDMSR, 0)
_BY_PORT = {
    layout.PORT_REASON + reason: int(reason)
    for reason in (
        ExitReason.EXCEPTION_NMI,
        ExitReason.EXTERNAL_INTERRUPT,
        ExitReason.INTERRUPT_WINDOW,
        ExitReason.NMI_WINDOW,
    )
}
"""Exits that no instruction of the guest makes: it asks for them by OUT."""
_GUESTS_FLAGS = exits.NMI_BLOCKED | exits.RETIRED_USER | exits.RETIRED_KERNEL | exits.STRAY_PMI
_STOPS = (layout.PORT_READY, layout.PORT_NMI)


class Loop:
    """Runs one vCPU from one of its doorbells to the next.

    ``slot``: its exit slot; ``serve``: handles the exit in the slot. ``by_reason``: exits by KVM's
    reason and, for IO, port. ``on_signal``: a signal has interrupted a VM-entry; returns whether to
    go on with an EXCEPTION_NMI exit.
    """

    def __init__(
        self, machine: Machine, slot: memoryview[int], serve: Callable[[], object]
    ) -> None:
        self._machine = machine
        self._slot = slot
        self.serve = serve
        self.on_signal: Callable[[], bool] = _nothing
        self.by_reason: Counter[tuple[int, int]] = Counter()
        self._handlers: dict[int, Callable[[], int]] = {
            kvm.EXIT_WRMSR: self._wrmsr,
            kvm.EXIT_RDMSR: self._rdmsr,
            kvm.EXIT_IO: self._io,
            kvm.EXIT_HLT: self._hlt,
        }

    def command(self, command: layout.Command, address: int = 0, value: int = 0) -> int:
        """Give the guest a command and run it until it stops; returns the port.

        An NMI whose handler takes commands stops it, too.
        """
        box = self._machine.box
        box[layout.COMMAND], box[layout.ADDRESS], box[layout.VALUE] = command, address, value
        return self.run()

    def run(self) -> int:
        """Run to the next doorbell; returns its port. Raises :class:`PeerError`."""
        machine, handlers = self._machine, self._handlers
        fd, ioctl, run32, reason_at = machine.vcpu.fd, fcntl.ioctl, machine.run32, kvm.EXIT_REASON
        while True:
            try:
                ioctl(fd, kvm.RUN, 0)
            except InterruptedError:
                if self.on_signal():
                    self._interrupted()
                continue
            handler = handlers.get(run32[reason_at])
            if handler is None:
                raise machine.refuse(run32[reason_at])
            port = handler()
            if port:
                return port

    def _serve(self, reason: int, address: int) -> int:
        """Have the exit served, and inject the NMI that the reply may ask for: the reply."""
        slot = self._slot
        slot[exits.ADDRESS] = address
        slot[exits.REQUEST] = reason | slot[exits.REQUEST] & _GUESTS_FLAGS
        self.serve()
        # What the guest said is said; its next word begins anew.
        slot[exits.REQUEST] = 0
        reply = slot[exits.REPLY]
        if reply & exits.INJECT_NMI:
            self._machine.inject_nmi()
        if reply & exits.WANT_NMI_WINDOW:
            self._machine.want_nmi_window()
        return reply

    def _interrupted(self) -> None:
        """The physical PMI, between any two instructions of the guest: KVM knows of the NMIs there.

        The guest may just have stored its words for the exit that it is about to make.
        """
        slot = self._slot
        said = slot[exits.REQUEST] & exits.NMI_BLOCKED, slot[exits.ADDRESS]
        slot[exits.REQUEST] = exits.NMI_BLOCKED if self._machine.vcpu.events.nmi_masked else 0
        self._serve(_PMI, 0)
        slot[exits.REQUEST], slot[exits.ADDRESS] = said

    def _wrmsr(self) -> int:
        machine = self._machine
        self.by_reason[_WRMSR_KEY] += 1
        self._slot[exits.VALUE] = machine.run64[kvm.MSR_DATA]
        reply = self._serve(_WRITE, machine.run32[kvm.MSR_INDEX])
        machine.run8[kvm.MSR_ERROR] = reply & exits.FAULT_GP
        return 0

    def _rdmsr(self) -> int:
        machine = self._machine
        self.by_reason[_RDMSR_KEY] += 1
        address, reason = machine.run32[kvm.MSR_INDEX], _READ
        if address == RDPMC_MSR:
            address, reason = self._slot[exits.ADDRESS], _RDPMC
        reply = self._serve(reason, address)
        machine.run8[kvm.MSR_ERROR] = reply & exits.FAULT_GP
        machine.run64[kvm.MSR_DATA] = self._slot[exits.RESULT]
        return 0

    def _hlt(self) -> int:
        self.by_reason[kvm.EXIT_HLT, 0] += 1
        self._serve(_HLT, 0)
        return 0

    def _io(self) -> int:
        port = self._machine.run16[kvm.IO_PORT]
        self.by_reason[kvm.EXIT_IO, port] += 1
        if port in _STOPS:
            return port
        if port != layout.PORT_EMPTY:
            self._serve(self._reason(port), 0)
        return 0

    def _reason(self, port: int) -> int:
        reason = _BY_PORT.get(port)
        if reason is not None:
            return reason
        if port == layout.PORT_BROKEN:
            where = f"{self._machine.box[layout.DETAIL]:#x}"
            raise PeerError(f"the guest gives up: a valid access of {where} raised #GP")
        if port == layout.PORT_FAULT:
            rip = self._machine.vcpu.registers.rax
            raise PeerError(f"the guest gives up: a fault outside an access, {rip:#x} on its stack")
        raise PeerError(f"the guest wrote to port {port:#x}, where nothing is")


def _nothing() -> bool:
    return False
