"""The target of real processes: ``pvpmu-host`` serves, this process plays its guest.

One host for each number of vCPUs, started when a case first asks for it; the test port gives it the
configuration of each case.
"""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

import posix_ipc

from pvpmu.conformance.machine import FEATURES, Board, MachineTarget
from pvpmu.conformance.target import Json, OnNmi, Reply
from pvpmu.guest.session import join
from pvpmu.shared.design import Design
from pvpmu.shared.errors import PeerError
from pvpmu.shared.handoff import Attached
from pvpmu.shared.hostprocess import WAIT_S, HostProcess, host_process
from pvpmu.shared.page import PAGE_SIZE

_LOOK_S = 0.1
"""How often a crossing that waits looks whether the host still lives."""
_serial = itertools.count()


class ProcessTarget(MachineTarget):
    """Host processes, each with the guest memory that its guest (this process) made.

    ``limit_s``: how long a VM-entry may take.
    """

    def __init__(self, limit_s: float, design: Design | None = None) -> None:
        super().__init__("process", (*FEATURES, "kill"), design)
        self._limit_s = limit_s
        self._vms: dict[tuple[int, int], _Vm] = {}
        self._vm: _Vm | None = None

    def boards(self, vcpus: int, pages: int) -> Sequence[Board]:
        """Those of a host that lives; raises :class:`PeerError` when none can be started."""
        shape = (vcpus, pages)
        vm = self._vms.get(shape)
        if vm is not None and not vm.host.lives():
            self._vms.pop(shape).close()
            vm = None
        if vm is None:
            vm = self._vms[shape] = _Vm(vcpus, pages, self._limit_s)
        self._vm = vm
        vm.clear()
        return vm.boards

    def op(self, name: str, vcpu: int, fields: Mapping[str, Json], on_nmi: OnNmi) -> Reply:
        """Do one operation. Once the host was killed on purpose, none is done any more."""
        vm = self._vm
        if vm is not None and name == "kill":
            vm.kill()
            return Reply()
        try:
            return super().op(name, vcpu, fields, on_nmi)
        except PeerError:
            if vm is not None and vm.killed:
                return Reply(refused=True)
            raise

    def close(self) -> None:
        """End the hosts and remove every name."""
        super().close()
        self._vm = None
        while self._vms:
            self._vms.popitem()[1].close()


class Crossing:
    """Hand one vCPU over to its host process and wait for VM-entry, but not for ever.

    ``inside``: it has not come back (from a host that hangs, or is gone).
    """

    def __init__(self, attached: Attached, host: HostProcess, limit_s: float) -> None:
        self._release = attached.exit_semaphore.release
        self._acquire = attached.entry_semaphore.acquire
        self._host = host
        self._limit_s = limit_s
        self.inside = False

    def __call__(self) -> None:
        """Raises :class:`PeerError` when the host has gone or takes too long."""
        self.inside = True
        self._release()
        waited = 0.0
        while not self._entered():
            waited += _LOOK_S
            if not self._host.lives():
                raise PeerError("the host has gone")
            if waited >= self._limit_s:
                raise PeerError(f"no VM-entry within {self._limit_s:g} s")
        self.inside = False

    def _entered(self) -> bool:
        try:
            self._acquire(_LOOK_S)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            # A signal's handler runs when this returns: a time limit raises there.
            return False
        return True


class _Vm:
    """One host process and what this process shares with it."""

    def __init__(self, vcpus: int, pages: int, limit_s: float) -> None:
        self.killed = False
        options = ["--test-port", "--pin", "none", "--vcpus", str(vcpus)]
        name = f"conform-{os.getpid()}-{next(_serial)}"
        with ExitStack() as stack:
            self.host = stack.enter_context(host_process(name, *options))
            self._admission = stack.enter_context(
                join(
                    name,
                    vcpus,
                    wait_s=WAIT_S,
                    memory_bytes=pages * PAGE_SIZE,
                    host_lives=self.host.lives,
                )
            )
            self._attached = [
                # Where the kit's own process runs is not the host's to say.
                replace(handoff, cpu=-1).attach()
                for handoff in self._admission.handoffs
            ]
            self._stack = stack.pop_all()
        self._crossings = [Crossing(each, self.host, limit_s) for each in self._attached]
        self.boards = [
            Board(each.slot, each.memory.words, crossing)
            for each, crossing in zip(self._attached, self._crossings, strict=True)
        ]

    def clear(self) -> None:
        """Zero the guest's memory."""
        words = self._attached[0].memory.words
        words[:] = memoryview(bytes(words.nbytes)).cast("Q")

    def kill(self) -> None:
        """SIGKILL the host."""
        self.host.kill()
        self.killed = True

    def close(self) -> None:
        """End the host, unmap, remove the names."""
        if any(crossing.inside for crossing in self._crossings) and self.host.lives():
            self.host.kill()
        self.boards = []
        # What still looks into the segments must be gone before they can be unmapped.
        gc.collect()
        for each in self._attached:
            each.slot.release()
            each.segment.close()
            each.memory.close()
        with suppress(PeerError, OSError):
            self._admission.leave()
        self._stack.close()
