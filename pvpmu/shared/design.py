"""A design: what the guest may keep in the page and how the host answers, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pvpmu.shared.datafile import data_text, load_toml, shipped_names
from pvpmu.shared.errors import UsageError
from pvpmu.shared.profile import KVM_5_14, KVM_6_12, Profile

_FOLDER = "designs"
_HOSTS = {"5.14": KVM_5_14, "6.12": KVM_6_12}
Host = Literal["5.14", "6.12"]
DriverName = Literal["linux-5.14", "linux-6.12"]
DRIVERS: tuple[DriverName, ...] = get_args(DriverName)
_LONGEST_NAME = 48
ALL = "all"
"""Stands for every shipped design where several can be named."""


class HostAxes(NamedTuple):
    """The host's own choices, which no guest can tell."""

    pmi_path: str
    host_freeze: str
    rearm: str


KVM_AXES = HostAxes("callback", "pause", "all")
"""What KVM's emulated PMU does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestDesign:
    """The guest's side of a design. ``driver``: the generation of its PMU driver."""

    driver: DriverName = "linux-5.14"


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """One PMU interface design.

    The host: ``host``, the kernel whose behaviour it has; ``is_paused``: it skips perf calls on
    paused counters (after the 2021 patch). ``pmi_path``: a guest counter's overflow goes through
    perf's callback and requests, or directly from the host's PMI handler to the guest.
    ``host_freeze``: a counter that stops by GLOBAL_CTRL or a freeze is paused, or VM-entry masks
    it. ``rearm``: which counters an enable gives a new period. ``context_lock``: the perf context's
    lock is taken by each call, or once by each exit.

    The interface: ``page``: the host offers the per-vCPU page. ``freeze``: it also offers to stop
    counting at the entry that injects a PMI. ``lvtpc_auto``: where delivery masks LVTPC, it offers
    to unmask at the COMMIT.

    ``driver``: the guest's driver generation unless asked otherwise. ``equivalent``: at zero skid
    and latency it must give the same samples as the other equivalent designs; ``differences``: what
    a guest may see otherwise than on the trap path. ``gives_up``: conformance cases, by id or
    glob, that it fails on purpose, each with the reason. ``sources`` and ``leaves_out``: the facts
    it rests on, and what of its model is missing here. ``origin``: the file that it came from,
    empty for a shipped one.
    """

    name: str
    summary: str
    is_paused: bool
    page: bool
    freeze: bool = False
    lvtpc_auto: bool = False
    host: Host = "5.14"
    driver: DriverName = "linux-5.14"
    pmi_path: Literal["callback", "direct"] = "callback"
    host_freeze: Literal["pause", "entry-mask"] = "pause"
    rearm: Literal["all", "changed"] = "all"
    context_lock: Literal["per-call", "per-exit"] = "per-call"
    equivalent: bool = True
    differences: tuple[str, ...] = ()
    gives_up: dict[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    leaves_out: tuple[str, ...] = ()
    origin: str = ""

    def __post_init__(self) -> None:
        if not (self.name.isprintable() and 0 < len(self.name) <= _LONGEST_NAME):
            raise ValueError(f"name must be 1 to {_LONGEST_NAME} printable characters")
        for feature in ("freeze", "lvtpc_auto"):
            if getattr(self, feature) and not self.page:
                raise ValueError(f"{feature} needs page = true")
        if not self.equivalent and not self.differences:
            raise ValueError("equivalent = false needs differences: what a guest may see")

    @property
    def host_axes(self) -> HostAxes:
        """The axes that decide how the vPMU works."""
        return HostAxes(self.pmi_path, self.host_freeze, self.rearm)

    @property
    def shares_lock(self) -> bool:
        """Whether an exit takes the perf context's lock once for all its calls."""
        return self.context_lock == "per-exit"

    @property
    def guest(self) -> GuestDesign:
        """What a guest must know of it."""
        return GuestDesign(driver=self.driver)

    @property
    def profile(self) -> Profile:
        """How its host behaves where kernels differ."""
        return _HOSTS[self.host]


def design_names() -> list[str]:
    """The shipped designs, sorted."""
    return shipped_names(_FOLDER)


def design_named(name: str) -> Design:
    """Load a shipped design by name, or a TOML file by path.

    Raises :class:`UsageError`: the designs that exist, or file, line and field.
    """
    text, source = data_text(name, folder=_FOLDER, what="design")
    design = load_toml(text, source=source, kind=Design)
    if name in design_names():
        return design
    return replace(design, origin=str(Path(name).resolve()))


def designs_named(names: Iterable[str]) -> list[Design]:
    """Load several designs, each once; ALL stands for every shipped one.

    Raises :class:`UsageError`, also for two files that give their designs the same name.
    """
    wanted = [each for name in names for each in (design_names() if name == ALL else [name])]
    designs = [design_named(name) for name in dict.fromkeys(wanted)]
    by_name: dict[str, Design] = {}
    for design in designs:
        other = by_name.setdefault(design.name, design)
        if other != design:
            places = " and ".join(each.origin or "a shipped one" for each in (other, design))
            raise UsageError(f"two designs are called {design.name!r}: {places}")
    return list(by_name.values())
