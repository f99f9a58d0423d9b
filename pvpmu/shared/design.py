"""A design: what the guest may keep in the page and how the host answers, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec

from pvpmu.shared.datafile import data_text, load_toml, shipped_names
from pvpmu.shared.errors import UsageError
from pvpmu.shared.profile import KVM_5_14, KVM_6_12, Profile
from pvpmu.shared.registers import Role

_FOLDER = "designs"
_HOSTS = {"5.14": KVM_5_14, "6.12": KVM_6_12}
Host = Literal["5.14", "6.12"]
DriverName = Literal["linux-5.14", "linux-6.12"]
Commit = Literal["write", "handler-end", "natural"]
PAGE, READ, WRITE, EXIT = ROUTES = "page", "read", "write", "exit"
"""Which accesses of a register stay in the page: all, its reads, its writes, none."""
RDPMC = "RDPMC"
OVF_CTRL = Role.OVF_CTRL.name
ROUTED = (
    *(role.name for role in Role if role not in (Role.CAPABILITIES, Role.PV_PAGE, Role.PV_STATUS)),
    RDPMC,
)
"""What a design can route: the registers that the page has, by role, and RDPMC."""
STATES = ("running", "frozen", "pmi")
_EVERY = "all"
DRIVERS: tuple[DriverName, ...] = get_args(DriverName)
_LONGEST_NAME = 48
DEFAULT_DESIGNS = ("trap-5.14", "trap", "page")
"""What is run side by side if nothing else is asked for."""
ALL = "all"
"""Stands for every shipped design where several can be named."""


class HostAxes(NamedTuple):
    """The host's own choices, which no guest can tell."""

    pmi_path: str
    host_freeze: str
    rearm: str


KVM_AXES = HostAxes("callback", "pause", "all")
"""What KVM's emulated PMU does."""
LEAN_AXES = HostAxes("direct", "entry-mask", "changed")
_MEDIATED = {"page": False, **KVM_AXES._asdict(), "context_lock": "per-call"}
"""Settings that a mediated PMU leaves no choice in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestDesign:
    """The guest's side of a design, as there; each access that ``routes`` lacks is the page's."""

    driver: DriverName = "linux-5.14"
    routes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    commit: Commit = "write"
    natural_exit_us: int = 0
    reload: bool = False

    @property
    def keeps_protocol(self) -> bool:
        """Whether its seam is the protocol's own."""
        return not self.routes and self.commit == "write" and not self.reload

    def routes_of(self, state: str) -> dict[str, str]:
        """The routes of a state by register, where any are given."""
        given = self.routes.get(state, {})
        return {**dict.fromkeys(ROUTED, given.get(_EVERY, PAGE)), **given}


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """One PMU interface design.

    The host: ``host``, the kernel whose behaviour it has; ``is_paused``: it skips perf calls on
    paused counters (after the 2021 patch). ``pmi_path``: a guest counter's overflow goes through
    perf's callback and requests, or directly from the host's PMI handler to the guest.
    ``host_freeze``: a counter that stops by GLOBAL_CTRL or a freeze is paused, or VM-entry masks
    it. ``rearm``: which counters an enable gives a new period. ``context_lock``: the perf context's
    lock is taken by each call, or once by each exit. ``vpmu``: host events stand behind the
    guest's counters, or it has the hardware's (then the other choices of the host mean nothing).

    The interface: ``page``: the host offers the per-vCPU page. ``freeze``: it also offers to stop
    counting at the entry that injects a PMI. ``lvtpc_auto``: where delivery masks LVTPC, it offers
    to unmask at the COMMIT. ``routes``: by state (``running``, ``frozen``, ``pmi``: frozen from a
    freeze until counters run again), then by register or ``all``, which accesses the guest keeps
    in the page: both kinds, its reads, its writes, or none. ``commit``: the guest commits at the
    write that makes counters live, at the end of a PMI's handler, or never by itself: the host
    looks at the next exit of any kind. ``natural_exit_us``: how often there is one. ``reload``:
    while counters run their words hold what they are to reload, and the host does so at the PMI.

    ``driver``: the guest's driver generation unless asked otherwise. ``equivalent``: at zero skid
    and latency it must give the same samples as the other equivalent designs with its driver;
    ``differences``: what a guest may see otherwise than on the trap path. ``gives_up``: conformance
    cases, by id or glob, that it fails on purpose, each with the reason. ``sources`` and
    ``leaves_out``: the facts it rests on, and what of its model is missing here. ``origin``: the
    file that it came from, empty for a shipped one.
    """

    name: str
    summary: str
    is_paused: bool
    page: bool
    freeze: bool = False
    lvtpc_auto: bool = False
    routes: dict[str, dict[str, str]] = field(default_factory=dict)
    commit: Commit = "write"
    natural_exit_us: int = 0
    reload: bool = False
    host: Host = "5.14"
    driver: DriverName = "linux-5.14"
    pmi_path: Literal["callback", "direct"] = "callback"
    host_freeze: Literal["pause", "entry-mask"] = "pause"
    rearm: Literal["all", "changed"] = "all"
    context_lock: Literal["per-call", "per-exit"] = "per-call"
    vpmu: Literal["emulated", "mediated"] = "emulated"
    equivalent: bool = True
    differences: tuple[str, ...] = ()
    gives_up: dict[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    leaves_out: tuple[str, ...] = ()
    origin: str = ""

    def __post_init__(self) -> None:
        if not (self.name.isprintable() and 0 < len(self.name) <= _LONGEST_NAME):
            raise ValueError(f"name must be 1 to {_LONGEST_NAME} printable characters")
        for feature in ("freeze", "lvtpc_auto", "routes"):
            if getattr(self, feature) and not self.page:
                raise ValueError(f"{feature} needs page = true")
        self._check_routes()
        self._check_commit()
        needs = self.page and not self.freeze and self.commit == "write"
        if self.reload and not (needs and self.host_axes == LEAN_AXES):
            raise ValueError(
                'reload needs page = true, freeze = false, commit = "write", pmi_path = "direct", '
                'host_freeze = "entry-mask" and rearm = "changed": nothing may stop at a PMI, or '
                "arm again what did"
            )
        if self.vpmu == "mediated":
            for name, only in _MEDIATED.items():
                if getattr(self, name) != only:
                    shown = msgspec.json.encode(only).decode()
                    raise ValueError(f'vpmu = "mediated" needs {name} = {shown}')
        if not self.equivalent and not self.differences:
            raise ValueError("equivalent = false needs differences: what a guest may see")

    def _check_routes(self) -> None:
        for state, routes in self.routes.items():
            if state not in STATES:
                raise ValueError(f"routes.{state}: unknown state; known: {', '.join(STATES)}")
            for name, route in routes.items():
                if route not in ROUTES:
                    known = ", ".join(ROUTES)
                    raise ValueError(f"routes.{state}.{name}: {route!r}, expected one of {known}")
                if name not in (*ROUTED, _EVERY):
                    known = ", ".join((_EVERY, *ROUTED))
                    raise ValueError(f"routes.{state}.{name}: unknown register; known: {known}")

    def _check_commit(self) -> None:
        if self.commit != "write" and not self.page:
            raise ValueError(f'commit = "{self.commit}" needs page = true')
        if self.commit == "handler-end" and not self.freeze:
            raise ValueError('commit = "handler-end" needs freeze = true')
        if (self.commit == "natural") != bool(self.natural_exit_us):
            raise ValueError(
                'natural_exit_us must be above 0 with commit = "natural", which waits for such '
                f"exits, and 0 without; it is {self.natural_exit_us}"
            )
        if self.natural_exit_us < 0:
            raise ValueError(f"natural_exit_us {self.natural_exit_us} is below 0")
        state = {"handler-end": "pmi", "natural": "frozen"}.get(self.commit)
        if state is not None and self.guest.routes_of(state)["GLOBAL_CTRL"] not in (PAGE, WRITE):
            raise ValueError(
                f"routes.{state}.GLOBAL_CTRL must keep writes in the page with "
                f'commit = "{self.commit}"'
            )

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
        return GuestDesign(
            driver=self.driver,
            routes=self.routes,
            commit=self.commit,
            natural_exit_us=self.natural_exit_us,
            reload=self.reload,
        )

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
