"""CPUID leaf 0xA (architectural performance monitoring) and what follows from it.

Source: SDM vol. 2A, CPUID leaf 0AH and leaf 1 (PDCM); KVM ``cpuid.c`` offers at most version 2 and
3 fixed counters, ``intel_pmu_refresh`` clamps every field of a guest's leaf to the host's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from pvpmu.shared.errors import UsageError

LEAF = 0xA
FEATURE_LEAF = 1
PDCM = 1 << 15
"""CPUID leaf 1 ECX: IA32_PERF_CAPABILITIES exists."""
MAX_VERSION = 2
MAX_GP = 8
MAX_FIXED = 3
MAX_EVENTS = 7
"""Architectural events known here: the longest EBX vector."""
MIN_WIDTH, MAX_WIDTH = 32, 48
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
LVT_VECTOR = 0xFF
LVT_MODE = 0x700
LVT_FIXED = 0
LVT_NMI = 0x400
_ANY_THREAD_DEPRECATED = 1 << 15
_LVT_KEPT = LVT_VECTOR | LVT_MODE | 1 << 12 | LVT_MASKED

OVF_BUFFER = 1 << 62
COND_CHANGED = 1 << 63
_ALL = 0xFFFF_FFFF_FFFF_FFFF

Leaf: TypeAlias = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX of one CPUID leaf, 32 bits each."""


@dataclass(frozen=True, slots=True)
class PmuCpuid:
    """The PMU that CPUID leaf 0xA, the PDCM bit and PERF_CAPABILITIES describe.

    ``version`` 0-2, ``gp`` 1-8 and ``fixed`` 0-3 counters of ``gp_width`` and ``fixed_width`` bits
    (32-48). ``unavailable``: the EBX vector (bit e set: architectural event e is absent), of which
    the first ``events`` bits (0-7) mean something. ``pdcm``: PERF_CAPABILITIES exists;
    ``full_width``: its bit 13, IA32_A_PMCx exist.

    What a version lacks is taken out, whatever was asked for: version 1 has no fixed counters,
    version 0 has nothing at all (and ``gp`` 0). Without ``pdcm`` there is no ``full_width``.

    Raises :class:`UsageError` for a value outside its range.
    """

    gp: int = MAX_GP
    fixed: int = MAX_FIXED
    gp_width: int = MAX_WIDTH
    fixed_width: int = MAX_WIDTH
    unavailable: int = 0
    version: int = MAX_VERSION
    events: int = MAX_EVENTS
    full_width: bool = True
    pdcm: bool = True

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("PMU version", self.version, 0, MAX_VERSION),
            ("gp counters", self.gp, 1 if self.version else 0, MAX_GP),
            ("fixed counters", self.fixed, 0, MAX_FIXED),
            ("gp counter width in bits", self.gp_width, MIN_WIDTH, MAX_WIDTH),
            ("fixed counter width in bits", self.fixed_width, MIN_WIDTH, MAX_WIDTH),
            ("unavailable event vector", self.unavailable, 0, (1 << MAX_EVENTS) - 1),
            ("length of the event vector", self.events, 0, MAX_EVENTS),
        ):
            if not low <= value <= high:
                raise UsageError(f"{name}: {value} is outside {low}..{high}")
        absent: dict[str, int | bool] = {}
        if self.version < 2:
            absent |= {"fixed": 0, "fixed_width": MAX_WIDTH}
        if self.version < 1:
            absent |= {"gp": 0, "gp_width": MAX_WIDTH, "unavailable": 0, "events": 0, "pdcm": False}
        if not self.version or not self.pdcm:
            absent["full_width"] = False
        for name, nothing in absent.items():
            object.__setattr__(self, name, nothing)

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
        return self.gp_counters | ((1 << self.fixed) - 1) << FIXED_BASE

    @property
    def gp_counters(self) -> int:
        """The GP counters' part of :attr:`counters`."""
        return (1 << self.gp) - 1

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
        return ~allowed & _ALL

    @property
    def has_globals(self) -> bool:
        """Whether 0x38D to 0x390 exist (version 2); without them only EVTSEL.EN gates a counter."""
        return self.version >= 2

    @property
    def global_ctrl_reserved(self) -> int:
        """IA32_PERF_GLOBAL_CTRL bits that #GP: counters that do not exist."""
        return ~(self.counters if self.has_globals else 0) & _ALL

    @property
    def ovf_ctrl_reserved(self) -> int:
        """IA32_PERF_GLOBAL_OVF_CTRL bits that #GP."""
        allowed = self.counters | OVF_BUFFER | COND_CHANGED
        return ~(allowed if self.has_globals else 0) & _ALL

    @property
    def feature_ecx(self) -> int:
        """The PMU's part of CPUID leaf 1 ECX."""
        return PDCM if self.pdcm else 0

    def available(self, kind: int) -> bool:
        """Whether leaf 0xA announces architectural event ``kind``."""
        return kind < self.events and not self.unavailable >> kind & 1

    @property
    def lvtpc_reserved(self) -> int:
        """x2APIC LVT perf bits that #GP: 63:32."""
        return 0xFFFF_FFFF_0000_0000

    @property
    def lvtpc_kept(self) -> int:
        """x2APIC LVT perf bits that the APIC keeps; others are dropped without a fault."""
        return _LVT_KEPT

    def encode(self) -> Leaf:
        """Leaf 0xA; all zeros for version 0."""
        if not self.version:
            return 0, 0, 0, 0
        eax = self.version | self.gp << 8 | self.gp_width << 16 | self.events << 24
        edx = _ANY_THREAD_DEPRECATED
        if self.version >= 2:
            edx |= self.fixed | self.fixed_width << 5
        return eax, self.unavailable, 0, edx

    @classmethod
    def decode(
        cls, eax: int, ebx: int, edx: int, *, pdcm: bool = True, full_width: bool = True
    ) -> PmuCpuid:
        """Read leaf 0xA's registers back; raises :class:`UsageError` when out of range.

        Events beyond those known here are left out. ``pdcm`` is bit 15 of leaf 1's ECX,
        ``full_width`` bit 13 of PERF_CAPABILITIES: neither is in the leaf.
        """
        version = eax & 0xFF
        if not version:
            return cls(version=0)
        return cls(
            gp=eax >> 8 & 0xFF,
            fixed=edx & 0x1F if version >= 2 else 0,
            gp_width=eax >> 16 & 0xFF,
            fixed_width=edx >> 5 & 0xFF if version >= 2 else MAX_WIDTH,
            unavailable=ebx & (1 << MAX_EVENTS) - 1,
            version=version,
            events=min(eax >> 24, MAX_EVENTS),
            full_width=full_width,
            pdcm=pdcm,
        )


HOST_CAPABILITY = PmuCpuid()
"""What this host's vPMU supports at most (``kvm_pmu_cap``)."""


def clamped(
    leaf: Leaf,
    capability: PmuCpuid = HOST_CAPABILITY,
    *,
    pdcm: bool = True,
    full_width: bool = True,
) -> PmuCpuid:
    """The PMU that a guest gets from a leaf 0xA that its VMM set, on such a host.

    Version, numbers, widths and the length of the event vector are the lower of both; a version
    above 2 adds nothing (``intel_pmu_refresh``). ``pdcm`` and ``full_width`` as in
    :meth:`PmuCpuid.decode`.

    Raises :class:`UsageError` for what no PMU has: widths below 32 bits, or no GP counter.
    """
    eax, ebx, _, edx = leaf
    version = min(eax & 0xFF, capability.version)
    if not version:
        return PmuCpuid(version=0)
    asked = PmuCpuid(
        gp=min(eax >> 8 & 0xFF, capability.gp),
        gp_width=min(eax >> 16 & 0xFF, capability.gp_width),
        unavailable=ebx & (1 << MAX_EVENTS) - 1,
        version=version,
        events=min(eax >> 24 & 0xFF, capability.events),
        full_width=full_width and capability.full_width,
        pdcm=pdcm and capability.pdcm,
    )
    if version < 2:
        return asked
    return replace(
        asked,
        fixed=min(edx & 0x1F, capability.fixed),
        fixed_width=min(edx >> 5 & 0xFF, capability.fixed_width) if edx & 0x1F else MAX_WIDTH,
    )
