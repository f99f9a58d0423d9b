"""The constants that expressions of vectors may use."""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.shared import cpuid, exits, page, registration
from pvpmu.shared import registers as msr
from pvpmu.shared.events import EVENTS
from pvpmu.shared.registers import Role

TRAPPING, RUNNING, FROZEN = range(3)

PAGE_WORDS = {field.name: field.index for field in page.PAGE.fields}
"""Page word names, for ``word`` fields only."""

_EVENTS = {event.name.upper().replace("-", "_"): event.selector for event in EVENTS}
FIXED_NAMES = {
    "EVTSEL": msr.address_of(Role.EVTSEL),
    "PERFCTR": msr.address_of(Role.PERFCTR),
    "FULL": msr.address_of(Role.PMC),
    "FIXED": msr.address_of(Role.FIXED_CTR),
    "FIXED_CTRL": msr.FIXED_CTR_CTRL,
    "STATUS": msr.GLOBAL_STATUS,
    "GLOBAL_CTRL": msr.GLOBAL_CTRL,
    "OVF_CTRL": msr.OVF_CTRL,
    "CAPS": msr.CAPABILITIES,
    "LVTPC": msr.LVTPC,
    "PV_PAGE": msr.PV_PAGE,
    "PV_STATUS": msr.PV_STATUS,
    "RDPMC_FIXED": msr.RDPMC_FIXED,
    "RDPMC_FAST": msr.RDPMC_FAST,
    "USR": cpuid.EVTSEL_USR,
    "OS": cpuid.EVTSEL_OS,
    "EDGE": 1 << 18,
    "INT": cpuid.EVTSEL_INT,
    "ANY": 1 << 21,
    "EN": cpuid.EVTSEL_EN,
    "INV": 1 << 23,
    "CMASK": 1 << 24,
    "CYCLES": _EVENTS["CPU_CYCLES"],
    "INSTRUCTIONS": _EVENTS["INSTRUCTIONS"],
    "REF_CYCLES": _EVENTS["REF_CYCLES"],
    "CACHE_REFERENCES": _EVENTS["CACHE_REFERENCES"],
    "CACHE_MISSES": _EVENTS["CACHE_MISSES"],
    "BRANCHES": _EVENTS["BRANCH_INSTRUCTIONS"],
    "BRANCH_MISSES": _EVENTS["BRANCH_MISSES"],
    "NMI": cpuid.LVT_NMI,
    "MASKED": cpuid.LVT_MASKED,
    "ENABLE": registration.ENABLE,
    "FREEZE": page.FEATURE_FREEZE,
    "LVTPC_AUTO": page.FEATURE_LVTPC_AUTO,
    "PAGE_SIZE": page.PAGE_SIZE,
    "LEAF_PMU": cpuid.LEAF,
    "LEAF_PV": exits.LEAF_SIGNATURE,
    "LEAF_PV_FEATURES": exits.LEAF_FEATURES,
    "TRAPPING": TRAPPING,
    "RUNNING": RUNNING,
    "FROZEN": FROZEN,
    "U64": (1 << 64) - 1,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A PMU as its guest sees it: leaf 0xA, and whether full-width writes exist."""

    version: int
    gp: int
    fixed: int
    gp_width: int
    fixed_width: int
    full_width: bool

    @classmethod
    def from_leaf(cls, eax: int, edx: int, *, full_width: bool) -> Shape:
        """Decode leaf 0xA without judging it; a version below 2 has no fixed counters."""
        version = eax & 0xFF
        return cls(
            version=version,
            gp=eax >> 8 & 0xFF if version else 0,
            fixed=edx & 0x1F if version > 1 else 0,
            gp_width=eax >> 16 & 0xFF,
            fixed_width=edx >> 5 & 0xFF,
            full_width=full_width and version > 0,
        )

    def names(self) -> dict[str, int]:
        """NG, NF, WG, WF, MG, MF, FW, BASE, VERSION, ALL (every GLOBAL_CTRL bit), GP, FX."""
        gp, fixed = (1 << self.gp) - 1, ((1 << self.fixed) - 1) << cpuid.FIXED_BASE
        return FIXED_NAMES | {
            "VERSION": self.version,
            "NG": self.gp,
            "NF": self.fixed,
            "WG": self.gp_width,
            "WF": self.fixed_width,
            "MG": (1 << self.gp_width) - 1,
            "MF": (1 << self.fixed_width) - 1,
            "FW": int(self.full_width),
            "BASE": FIXED_NAMES["FULL" if self.full_width else "PERFCTR"],
            "ALL": gp | fixed,
            "GP": gp,
            "FX": fixed,
        }


SHAPE_NAMES = frozenset(Shape(0, 0, 0, 0, 0, full_width=False).names()) - set(FIXED_NAMES)
"""Names whose values come from CPUID."""
RUN_NAMES = frozenset({"MEMORY"})
"""Names whose values come from the configuration."""
