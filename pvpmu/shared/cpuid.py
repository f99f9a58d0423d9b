"""CPUID leaf 0xA (architectural performance monitoring) and what follows from it.

Source: SDM vol. 2A, CPUID leaf 0AH; KVM ``cpuid.c`` clamps version to 2 and fixed counters to 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.shared.errors import UsageError

LEAF = 0xA
MAX_GP = 8
MAX_FIXED = 3
FIXED_BASE = 32
"""Global index of fixed counter 0: GP counter i is bit i, fixed counter j is bit 32 + j."""

EVTSEL_INT = 1 << 20
EVTSEL_EN = 1 << 22
EVTSEL_USR = 1 << 16
EVTSEL_OS = 1 << 17
_EVTSEL_ANY = 1 << 21
FIXED_OS = 1
FIXED_USR = 2
FIXED_EN = FIXED_OS | FIXED_USR
FIXED_PMI = 8
_FIXED_ANY = 4

LVT_MASKED = 1 << 16
LVT_NMI = 0x400
LVT_MODE = 0x700
_LVT_KEPT = 0xFF | LVT_MODE | 1 << 12 | LVT_MASKED

OVF_BUFFER = 1 << 62
COND_CHANGED = 1 << 63


@dataclass(frozen=True, slots=True)
class PmuCpuid:
    """The PMU that CPUID leaf 0xA describes.

    ``gp`` 1-8 and ``fixed`` 0-3 are numbers of counters, ``gp_width`` and ``fixed_width``
    their widths in bits (32-48), ``unavailable`` the EBX vector (bit e set: architectural
    event e is absent).

    Raises :class:`UsageError` for a value outside its range.
    """

    gp: int = 8
    fixed: int = 3
    gp_width: int = 48
    fixed_width: int = 48
    unavailable: int = 0
    version: int = 2

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("gp counters", self.gp, 1, MAX_GP),
            ("fixed counters", self.fixed, 0, MAX_FIXED),
            ("gp counter width in bits", self.gp_width, 32, 48),
            ("fixed counter width in bits", self.fixed_width, 32, 48),
            ("unavailable event vector", self.unavailable, 0, 0x7F),
            ("PMU version", self.version, 2, 2),
        ):
            if not low <= value <= high:
                raise UsageError(f"{name}: {value} is outside {low}..{high}")

    @property
    def gp_mask(self) -> int:
        """Values a GP counter can hold."""
        return (1 << self.gp_width) - 1

    @property
    def fixed_mask(self) -> int:
        """Values a fixed counter can hold."""
        return (1 << self.fixed_width) - 1

    @property
    def counters(self) -> int:
        """Bitmap of existing counters by global index: valid GLOBAL_CTRL bits."""
        return (1 << self.gp) - 1 | ((1 << self.fixed) - 1) << FIXED_BASE

    @property
    def evtsel_reserved(self) -> int:
        """IA32_PERFEVTSELx bits that #GP: AnyThread and 63:32 (no TSX here)."""
        return 0xFFFF_FFFF_0000_0000 | _EVTSEL_ANY

    @property
    def fixed_ctrl_reserved(self) -> int:
        """IA32_FIXED_CTR_CTRL bits that #GP: AnyThread and nibbles of absent counters."""
        allowed = 0
        for j in range(self.fixed):
            allowed |= (0xF & ~_FIXED_ANY) << 4 * j
        return ~allowed & 0xFFFF_FFFF_FFFF_FFFF

    @property
    def global_ctrl_reserved(self) -> int:
        """IA32_PERF_GLOBAL_CTRL bits that #GP: counters that do not exist."""
        return ~self.counters & 0xFFFF_FFFF_FFFF_FFFF

    @property
    def ovf_ctrl_reserved(self) -> int:
        """IA32_PERF_GLOBAL_OVF_CTRL bits that #GP."""
        return ~(self.counters | OVF_BUFFER | COND_CHANGED) & 0xFFFF_FFFF_FFFF_FFFF

    @property
    def lvtpc_reserved(self) -> int:
        """x2APIC LVT perf bits that #GP: 63:32."""
        return 0xFFFF_FFFF_0000_0000

    @property
    def lvtpc_kept(self) -> int:
        """x2APIC LVT perf bits that the APIC keeps; others are dropped without a fault."""
        return _LVT_KEPT

    def encode(self) -> tuple[int, int, int, int]:
        """Return (EAX, EBX, ECX, EDX), 32 bits each."""
        eax = self.version | self.gp << 8 | self.gp_width << 16 | 7 << 24
        edx = self.fixed | self.fixed_width << 5 | 1 << 15
        return eax, self.unavailable, 0, edx

    @classmethod
    def decode(cls, eax: int, ebx: int, edx: int) -> PmuCpuid:
        """Read leaf 0xA's registers back; raises :class:`UsageError` when out of range."""
        return cls(
            gp=eax >> 8 & 0xFF,
            fixed=edx & 0x1F,
            gp_width=eax >> 16 & 0xFF,
            fixed_width=edx >> 5 & 0xFF,
            unavailable=ebx & 0x7F,
            version=eax & 0xFF,
        )
