"""What traces call VM-exits and MSRs: Intel's and AMD's names, as kernel and tools print them.

Source: VMX basic exit reasons, SDM vol. 3D appendix C; SVM exit codes, APM vol. 2 appendix C; the
names of ``arch/x86/include/uapi/asm/vmx.h`` and ``svm.h``, and of trace-cmd's KVM plugin.
"""

from __future__ import annotations

import enum

from pvpmu.shared.cpuid import MAX_FIXED, MAX_GP
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.shared.units import MsrAddress

READ, WRITE, RDPMC = range(3)
"""The three instructions that a trace can show."""
OP_NAMES = ("rdmsr", "wrmsr", "rdpmc")
TRACE_OPS = ("msr_read", "msr_write", "rdpmc")
ANY_COUNTER = 0xFFFF_FFFF
"""Stands for RDPMC's counter, which no trace names."""

VMX_EXITS = {
    0: "EXCEPTION_NMI", 1: "EXTERNAL_INTERRUPT", 2: "TRIPLE_FAULT", 3: "INIT_SIGNAL",
    4: "SIPI_SIGNAL", 6: "OTHER_SMI", 7: "INTERRUPT_WINDOW", 8: "NMI_WINDOW", 9: "TASK_SWITCH",
    10: "CPUID", 12: "HLT", 13: "INVD", 14: "INVLPG", 15: "RDPMC", 16: "RDTSC", 18: "VMCALL",
    19: "VMCLEAR", 20: "VMLAUNCH", 21: "VMPTRLD", 22: "VMPTRST", 23: "VMREAD", 24: "VMRESUME",
    25: "VMWRITE", 26: "VMOFF", 27: "VMON", 28: "CR_ACCESS", 29: "DR_ACCESS",
    30: "IO_INSTRUCTION", 31: "MSR_READ", 32: "MSR_WRITE", 33: "INVALID_STATE",
    34: "MSR_LOAD_FAIL", 36: "MWAIT_INSTRUCTION", 37: "MONITOR_TRAP_FLAG",
    39: "MONITOR_INSTRUCTION", 40: "PAUSE_INSTRUCTION", 41: "MCE_DURING_VMENTRY",
    43: "TPR_BELOW_THRESHOLD", 44: "APIC_ACCESS", 45: "EOI_INDUCED", 46: "GDTR_IDTR",
    47: "LDTR_TR", 48: "EPT_VIOLATION", 49: "EPT_MISCONFIG", 50: "INVEPT", 51: "RDTSCP",
    52: "PREEMPTION_TIMER", 53: "INVVPID", 54: "WBINVD", 55: "XSETBV", 56: "APIC_WRITE",
    57: "RDRAND", 58: "INVPCID", 59: "VMFUNC", 60: "ENCLS", 61: "RDSEED", 62: "PML_FULL",
    63: "XSAVES", 64: "XRSTORS", 67: "UMWAIT", 68: "TPAUSE", 74: "BUS_LOCK", 75: "NOTIFY",
    77: "TDCALL", 84: "MSR_READ_IMM", 85: "MSR_WRITE_IMM",
}  # fmt: skip

SVM_EXITS = {
    0x60: "INTR", 0x61: "NMI", 0x62: "SMI", 0x63: "INIT", 0x64: "VINTR", 0x65: "CR0_SEL_WRITE",
    0x66: "IDTR_READ", 0x67: "GDTR_READ", 0x68: "LDTR_READ", 0x69: "TR_READ", 0x6A: "IDTR_WRITE",
    0x6B: "GDTR_WRITE", 0x6C: "LDTR_WRITE", 0x6D: "TR_WRITE", 0x6E: "RDTSC", 0x6F: "RDPMC",
    0x70: "PUSHF", 0x71: "POPF", 0x72: "CPUID", 0x73: "RSM", 0x74: "IRET", 0x75: "SWINT",
    0x76: "INVD", 0x77: "PAUSE", 0x78: "HLT", 0x79: "INVLPG", 0x7A: "INVLPGA", 0x7B: "IOIO",
    0x7C: "MSR", 0x7D: "TASK_SWITCH", 0x7E: "FERR_FREEZE", 0x7F: "SHUTDOWN", 0x80: "VMRUN",
    0x81: "VMMCALL", 0x82: "VMLOAD", 0x83: "VMSAVE", 0x84: "STGI", 0x85: "CLGI", 0x86: "SKINIT",
    0x87: "RDTSCP", 0x88: "ICEBP", 0x89: "WBINVD", 0x8A: "MONITOR", 0x8B: "MWAIT",
    0x8C: "MWAIT_COND", 0x8D: "XSETBV", 0xA2: "INVPCID", 0xA5: "BUS_LOCK", 0xA6: "IDLE_HLT",
    0x400: "NPF", 0x401: "AVIC_INCOMPLETE_IPI", 0x402: "AVIC_UNACCELERATED_ACCESS",
    0x403: "VMGEXIT",
}  # fmt: skip
_NUMBERED = (("READ_CR", 0x00), ("WRITE_CR", 0x10), ("READ_DR", 0x20), ("WRITE_DR", 0x30))
_KERNEL_SVM = {
    "INTERRUPT": "INTR", "IO": "IOIO", "HYPERCALL": "VMMCALL", "BUSLOCK": "BUS_LOCK",
    "IDLE-HALT": "IDLE_HLT",
}  # fmt: skip
"""Where the kernel's text for AMD differs from the name of the exit code."""
_OLD_VMX = {"PENDING_INTERRUPT": "INTERRUPT_WINDOW"}
_PREFIXES = ("EXIT_REASON_", "VMEXIT_", "EXIT_")

MSR_EXITS = frozenset(("MSR_READ", "MSR_WRITE", "MSR", "MSR_READ_IMM", "MSR_WRITE_IMM"))
PMI_EXITS = frozenset(("EXCEPTION_NMI", "NMI", "NMI_WINDOW"))
"""Exits that bring PMIs (and other NMIs and exceptions): no design here changes their number."""

_VMX_NAMES = frozenset(VMX_EXITS.values())
_SVM_NAMES = frozenset(SVM_EXITS.values()) | {
    f"{stem}{number}" for stem, _ in _NUMBERED for number in range(16)
}
_EXCEPTIONS = ("DE", "DB", "BP", "OF", "BR", "UD", "NM", "DF", "TS", "NP", "SS", "GP", "PF", "MF")
_SVM_EXCEPTIONS = frozenset(f"EXCP_{name}" for name in (*_EXCEPTIONS, "AC", "MC", "XF"))


class MsrClass(enum.Enum):
    """How an MSR counts here."""

    PMU = "PMU"
    PMU_OUTSIDE = "PMU, outside the model"
    """AMD's PMU, counters beyond those modelled, PEBS, LBR: no design covers them."""
    FASTPATH = "fast path"
    """Writes that KVM handles before it leaves the inner loop: cheaper than other exits."""
    OTHER = "other"


_FASTPATH = {0x830: "IA32_X2APIC_ICR", 0x6E0: "IA32_TSC_DEADLINE"}
_OTHER = {
    0x10: "IA32_TIME_STAMP_COUNTER", 0x3A: "IA32_FEAT_CTL", 0x3B: "IA32_TSC_ADJUST",
    0x48: "IA32_SPEC_CTRL", 0x49: "IA32_PRED_CMD", 0xE7: "IA32_MPERF", 0xE8: "IA32_APERF",
    0x174: "IA32_SYSENTER_CS", 0x175: "IA32_SYSENTER_ESP", 0x176: "IA32_SYSENTER_EIP",
    0x199: "IA32_PERF_CTL", 0x19C: "IA32_THERM_STATUS", 0x1A0: "IA32_MISC_ENABLE",
    0x1B0: "IA32_ENERGY_PERF_BIAS", 0x277: "IA32_PAT", 0x802: "IA32_X2APIC_APICID",
    0x808: "IA32_X2APIC_TPR", 0x80B: "IA32_X2APIC_EOI", 0x80D: "IA32_X2APIC_LDR",
    0x80F: "IA32_X2APIC_SIVR", 0x828: "IA32_X2APIC_ESR", 0x832: "IA32_X2APIC_LVT_TIMER",
    0x833: "IA32_X2APIC_LVT_THERMAL", 0x835: "IA32_X2APIC_LVT_LINT0",
    0x836: "IA32_X2APIC_LVT_LINT1", 0x837: "IA32_X2APIC_LVT_ERROR",
    0x838: "IA32_X2APIC_INIT_COUNT", 0x839: "IA32_X2APIC_CUR_COUNT",
    0x83E: "IA32_X2APIC_DIV_CONF", 0x83F: "IA32_X2APIC_SELF_IPI", 0xD90: "IA32_BNDCFGS",
    0xDA0: "IA32_XSS", 0xC000_0080: "IA32_EFER", 0xC000_0102: "IA32_KERNEL_GS_BASE",
    0xC000_0103: "IA32_TSC_AUX", 0x4B56_4D00: "MSR_KVM_WALL_CLOCK_NEW",
    0x4B56_4D01: "MSR_KVM_SYSTEM_TIME_NEW", 0x4B56_4D02: "MSR_KVM_ASYNC_PF_EN",
    0x4B56_4D03: "MSR_KVM_STEAL_TIME", 0x4B56_4D04: "MSR_KVM_PV_EOI_EN",
    0x4B56_4D05: "MSR_KVM_POLL_CONTROL", 0x4B56_4D06: "MSR_KVM_ASYNC_PF_INT",
    0x4B56_4D07: "MSR_KVM_ASYNC_PF_ACK",
}  # fmt: skip
_PMU_OUTSIDE = {
    0x1D9: "IA32_DEBUGCTL", 0x1C8: "MSR_LBR_SELECT", 0x1C9: "MSR_LBR_TOS",
    0x329: "MSR_PERF_METRICS",
    0x391: "IA32_PERF_GLOBAL_STATUS_SET", 0x392: "IA32_PERF_GLOBAL_INUSE",
    0x3F1: "IA32_PEBS_ENABLE", 0x3F2: "MSR_PEBS_DATA_CFG", 0x3F6: "MSR_PEBS_LD_LAT",
    0x600: "IA32_DS_AREA", 0x1A6: "MSR_OFFCORE_RSP_0", 0x1A7: "MSR_OFFCORE_RSP_1",
    0xC000_0300: "MSR_AMD64_PERF_CNTR_GLOBAL_STATUS",
    0xC000_0301: "MSR_AMD64_PERF_CNTR_GLOBAL_CTL",
    0xC000_0302: "MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR",
    **{0xC1 + i: f"MSR_P6_PERFCTR{i}" for i in range(MAX_GP, 16)},
    **{0x186 + i: f"MSR_P6_EVNTSEL{i}" for i in range(MAX_GP, 16)},
    **{0x4C1 + i: f"MSR_IA32_PMC{i}" for i in range(MAX_GP, 16)},
    **{0x309 + j: f"MSR_CORE_PERF_FIXED_CTR{j}" for j in range(MAX_FIXED, 16)},
    **{0xC001_0000 + i: f"MSR_K7_EVNTSEL{i}" for i in range(4)},
    **{0xC001_0004 + i: f"MSR_K7_PERFCTR{i}" for i in range(4)},
    **{0xC001_0200 + 2 * i: f"MSR_F15H_PERF_CTL{i}" for i in range(6)},
    **{0xC001_0201 + 2 * i: f"MSR_F15H_PERF_CTR{i}" for i in range(6)},
}  # fmt: skip
_ADDRESS_OF = {
    name: address for table in (_FASTPATH, _OTHER, _PMU_OUTSIDE) for address, name in table.items()
} | {
    name.upper(): register.address
    for register in BY_ADDRESS.values()
    for name in (register.name, register.trace_name, register.sdm)
}


def exit_name(text: str) -> str:
    """One name for an exit reason, however a tool spells it; unknown ones stay as they are."""
    name = text.upper()
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return _OLD_VMX.get(name) or _KERNEL_SVM.get(name) or name


def exit_number_name(number: int, *, amd: bool = False) -> str:
    """The name of a VMX basic exit reason or, for ``amd``, of an SVM exit code."""
    found = (SVM_EXITS if amd else VMX_EXITS).get(number)
    return found or (f"SVM_EXIT_{number:#x}" if amd else f"VMX_EXIT_{number}")


def is_exit(text: str) -> bool:
    """Whether this is a known exit reason."""
    name = exit_name(text)
    return name in _VMX_NAMES or name in _SVM_NAMES or name in _SVM_EXCEPTIONS


def is_amd_exit(name: str) -> bool:
    """Whether only AMD has an exit of that (canonical) name."""
    return name not in _VMX_NAMES and (name in _SVM_NAMES or name in _SVM_EXCEPTIONS)


def msr_address(text: str) -> MsrAddress | None:
    """The address of an MSR given by name or as bare or 0x hex; None if it is neither."""
    found = _ADDRESS_OF.get(text.upper())
    if found is not None:
        return found
    try:
        address = int(text, 16)
    except ValueError:
        return None
    return address if 0 <= address <= 0xFFFF_FFFF else None


def msr_name(address: MsrAddress) -> str:
    """The name that a kvm_msr listing prints, or the address in hex."""
    register = BY_ADDRESS.get(address)
    if register is not None:
        return register.trace_name
    for table in (_FASTPATH, _OTHER, _PMU_OUTSIDE):
        if address in table:
            return table[address]
    return f"{address:#x}"


def msr_class(op: int, address: MsrAddress) -> MsrClass:
    """How an access to that MSR counts."""
    register = BY_ADDRESS.get(address)
    if register is not None and register.pmu:
        return MsrClass.PMU
    if address in _FASTPATH and op == WRITE:
        return MsrClass.FASTPATH
    if address in _PMU_OUTSIDE:
        return MsrClass.PMU_OUTSIDE
    return MsrClass.OTHER
