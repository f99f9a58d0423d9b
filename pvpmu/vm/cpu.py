"""One vCPU of the VM with its host's half: what a worker's jobs work with."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pvpmu.host.linuxvcpu import LinuxVcpu
from pvpmu.host.perf_linux import OVERFLOW_SIGNALS
from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared import exits
from pvpmu.shared.cpuid import FEATURE_LEAF, LEAF
from pvpmu.shared.errors import PeerError
from pvpmu.shared.events import KINDS
from pvpmu.shared.exits import LEAF_FEATURES, LEAF_SIGNATURE, Control, ExitReason
from pvpmu.vm import build, layout
from pvpmu.vm.layout import Command, MemoryMap
from pvpmu.vm.loop import Loop
from pvpmu.vm.machine import Machine
from pvpmu.vm.retired import LoopsTold

_LEAVES = (FEATURE_LEAF, LEAF, LEAF_SIGNATURE, LEAF_FEATURES)
LOOP = [0] * KINDS
LOOP[:6] = (12, 12, 12, 1, 0, 3)
"""What one loop of the program retires, by event kind: exactly 12 instructions, 3 of them branches;
as many cycles, by definition, and one cache reference."""


@dataclass(frozen=True, slots=True)
class ProgrammedEvent:
    """An event of the guest's driver. ``index``: its counter; ``period``: 0, it only counts."""

    index: int
    selector: int
    modes: int
    period: int


_MOST_SIGNALS = 16
"""Taken at once: a clock with a short period sends them faster than they can be taken here, and
only the exit that is made for them gives it another."""


class VmCpu:
    """A vCPU that waits for its next command.

    ``memory``, ``slots``: both segments' windows; ``host``: the vCPU's half there. ``user``: the
    program runs at CPL 3. ``limit_s``: how long one command may take. ``real_perf``: the host's
    events are the kernel's, and interrupt VM-entries; ``models``: some that it lacks are modelled,
    so that it must be told what retires. ``pages``: see :class:`MemoryMap`.
    ``serve``: what handles an exit, if not the host's half alone. ``reloads``: the design's page
    holds reload values.
    """

    def __init__(
        self,
        memory: memoryview[int],
        slots: memoryview[int],
        host: HostVcpu,
        slot: memoryview[int],
        *,
        vcpus: int,
        number: int,
        user: bool,
        limit_s: float,
        pages: int = 0,
        serve: Callable[[], object] | None = None,
        reloads: bool = False,
    ) -> None:
        program = build.program()
        self.real_perf = isinstance(host, LinuxVcpu)
        self.models = isinstance(host, LinuxVcpu) and host.sources.models(range(KINDS))
        self.slot = slot
        self.host = host
        self.memory = memory
        self.number = number
        self.user = user
        self.reloads = reloads
        leaves = {leaf: host.leaf(leaf) for leaf in _LEAVES}
        where = MemoryMap(vcpus, len(program), pages)
        self.machine = Machine(memory, slots, where, number, program, leaves, user=user)
        self.serve = serve or host.serve
        if self.models:
            self.serve = LoopsTold(slot, self.machine.box, self.serve, LOOP, user=user).serve
        self.loop = Loop(self.machine, slot, self.serve)
        self.loop.on_signal = self._interrupted
        if self.real_perf:
            # It is pending until somebody takes it, so that none comes between a look and an entry.
            signal.pthread_sigmask(signal.SIG_BLOCK, OVERFLOW_SIGNALS)
            self.machine.vcpu.unblock_in_run([])
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self.loop.run()

    def control(self, what: Control) -> None:
        """A measurement's request to the host's half."""
        self.slot[exits.VALUE] = int(what)
        self.slot[exits.REQUEST] = int(ExitReason.CONTROL)
        self.host.serve()
        self.slot[exits.REQUEST] = 0

    def command(self, command: Command, address: int = 0, value: int = 0) -> None:
        """Have the guest do it, with an empty log; raises as :meth:`run`."""
        self.machine.box[layout.LOGGED] = 0
        self.run(command, address, value)

    def run(self, command: Command, address: int = 0, value: int = 0) -> int:
        """Have the guest do it; returns the port where it stops, done or in an NMI's handler.

        Raises :class:`PeerError`, also when it takes too long.
        """
        self._deadline = time.monotonic() + self._limit_s
        return self.loop.command(command, address, value)

    def prepare(self, events: Sequence[ProgrammedEvent], *, loops: int, page: bool = True) -> None:
        """Reset the host's half and the driver; register the page where one is offered."""
        self.control(Control.RESET)
        box = self.machine.box
        box[layout.LOOPS] = loops
        box[layout.EVENT_COUNT] = len(events)
        for number, event in enumerate(events):
            at = layout.EVENTS_AT + layout.EVENT_WORDS * number
            words = (event.index, event.selector, event.modes, event.period)
            for offset, word in enumerate(words):
                box[at + offset] = word
        for kind, count in enumerate(LOOP):
            box[layout.COUNTS_AT + kind] = count
        self.command(Command.PREPARE, int(self.reloads), int(page))
        if box[layout.FAULT]:
            raise PeerError("the guest needs a PMU of version 2")

    def logged_pairs(self) -> list[tuple[int, int]]:
        """The log of the last command, two words at a time."""
        words = self.machine.log[: self.machine.box[layout.LOGGED]].tolist()
        return list(zip(words[::2], words[1::2], strict=True))

    def spans(self) -> list[int]:
        """Cycles from first to second stamp of each logged pair."""
        return [end - begin for begin, end in self.logged_pairs()]

    def close(self) -> None:
        """Everything of KVM's goes."""
        self.machine.close()

    def _interrupted(self) -> bool:
        if time.monotonic() >= self._deadline:
            raise PeerError(
                f"vCPU {self.number}: the guest does not end its command in {self._limit_s:g} s"
            )
        overflow = False
        for _ in range(_MOST_SIGNALS if self.real_perf else 0):
            if signal.sigtimedwait(OVERFLOW_SIGNALS, 0) is None:
                break
            overflow = True
        return overflow
