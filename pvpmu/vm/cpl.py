"""How this machine executes a guest's code, and at which privilege level it therefore runs here.

Hardware virtualization runs all of it. PVM (pagetable-based, for hosts that are VMs) runs
code of CPL 3 on the CPU and emulates that of CPL 0, instruction by instruction.
"""

from __future__ import annotations

import mmap
import statistics
from dataclasses import dataclass
from pathlib import Path

from pvpmu.host.vcpu import HostVcpu
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.vm import build, layout
from pvpmu.vm.cpu import VmCpu
from pvpmu.vm.layout import Command, MemoryMap

_MODULES = Path("/sys/module")
_BATCHES = 3
_LOAD_INSTRUCTIONS = 4
"""Of a load in a batch of WORDS, about."""
_EMULATED_CYCLES = 100
"""An instruction that takes longer than this was not executed by the CPU alone."""
_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Execution:
    """``kernel_cycles``: TSC cycles of an instruction at CPL 0. ``module``: KVM's back end."""

    kernel_cycles: float
    module: str

    @property
    def user(self) -> bool:
        """Whether driver and program run at CPL 3, since CPL 0 is emulated."""
        return self.kernel_cycles > _EMULATED_CYCLES

    @property
    def described(self) -> str:
        """In a few words, for people."""
        how = "emulated" if self.user else "executed by the CPU"
        return f"{self.module}: CPL 0 {how}, {self.kernel_cycles:,.1f} TSC cycles per instruction"


def user_or_kernel() -> Execution:
    """Measure it on a VM of its own. Raises :class:`ResourceError`."""
    program = build.program()
    where = MemoryMap(1, len(program))
    memory = memoryview(mmap.mmap(-1, where.memory_bytes)).cast("Q")
    slots = memoryview(mmap.mmap(-1, PAGE_SIZE)).cast("Q")
    slot = slots[: PAGE_SIZE // 8]
    host = HostVcpu(slot, memory, design_named("trap"), PmuCpuid())
    cpu = VmCpu(memory, slots, host, slot, vcpus=1, number=0, user=False, limit_s=_LIMIT_S)
    try:
        cpu.command(Command.WORDS, value=_BATCHES)
        per_load = statistics.median(cpu.spans()) / layout.WORDS_BATCH
    finally:
        cpu.close()
    return Execution(per_load / _LOAD_INSTRUCTIONS, _module())


def _module() -> str:
    for name in ("kvm_intel", "kvm_amd", "kvm_pvm"):
        if (_MODULES / name).is_dir():
            return name
    return "kvm"
