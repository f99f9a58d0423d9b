"""Published measurements to print beside our own, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources

from pvpmu.shared.datafile import load_toml
from pvpmu.shared.errors import UsageError

_FOLDER = "references"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One published run.

    ``exits``: by reason name, of the PMU; ``all_exits``: the same of all causes. ``msr_write`` and
    ``msr_read``: by trace name. ``handler_ns``: by design name. ``overhead_percent``: how much
    longer a program took with the profile, by kind of virtual PMU; ``stands_for``: by kind, the
    designs that are such a one, the best first. ``counterpart``: the scenario of another published
    workload of the same set-up.
    """

    name: str
    summary: str
    exits: dict[str, int] = field(default_factory=dict)
    all_exits: dict[str, int] = field(default_factory=dict)
    msr_write: dict[str, int] = field(default_factory=dict)
    msr_read: dict[str, int] = field(default_factory=dict)
    handler_ns: dict[str, float] = field(default_factory=dict)
    overhead_percent: dict[str, float] = field(default_factory=dict)
    stands_for: dict[str, tuple[str, ...]] = field(default_factory=dict)
    counterpart: str = ""


def load_reference(name: str) -> Reference | None:
    """Load a shipped reference; None for no name. Raises :class:`UsageError`."""
    if not name:
        return None
    folder = resources.files("pvpmu") / _FOLDER
    known = sorted(e.name[:-5] for e in folder.iterdir() if e.name.endswith(".toml"))
    if name not in known:
        raise UsageError(f"unknown reference {name!r}; known: {', '.join(known)}")
    text = (folder / f"{name}.toml").read_text("utf-8")
    return load_toml(text, source=f"reference {name}", kind=Reference)
