"""Names of VM-exits: VMX basic exit reasons as Linux prints them (``VMX_EXIT_REASONS``).

Source: SDM vol. 3D, appendix C, "VMX Basic Exit Reasons".
"""

from __future__ import annotations

EXIT_REASONS = {
    "EXCEPTION_NMI": 0,
    "EXTERNAL_INTERRUPT": 1,
    "INTERRUPT_WINDOW": 7,
    "NMI_WINDOW": 8,
    "CPUID": 10,
    "HLT": 12,
    "INVLPG": 14,
    "RDPMC": 15,
    "RDTSC": 16,
    "VMCALL": 18,
    "CR_ACCESS": 28,
    "DR_ACCESS": 29,
    "IO_INSTRUCTION": 30,
    "MSR_READ": 31,
    "MSR_WRITE": 32,
    "MWAIT_INSTRUCTION": 36,
    "MONITOR_INSTRUCTION": 39,
    "PAUSE_INSTRUCTION": 40,
    "TPR_BELOW_THRESHOLD": 43,
    "APIC_ACCESS": 44,
    "EOI_INDUCED": 45,
    "EPT_VIOLATION": 48,
    "EPT_MISCONFIG": 49,
    "PREEMPTION_TIMER": 52,
    "WBINVD": 54,
    "XSETBV": 55,
    "APIC_WRITE": 56,
    "PML_FULL": 62,
}
"""What a scenario may name as exits of other causes."""
