"""A design: what the guest may keep in the page and how the host answers, as data."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from pvpmu.shared.datafile import load_toml
from pvpmu.shared.errors import UsageError

_FOLDER = "designs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """One PMU interface design.

    ``is_paused``: KVM skips perf calls on paused counters (after the 2021 patch). ``page``: the
    host offers the per-vCPU page. ``freeze``: it also offers to stop counting at the entry that
    injects a PMI. ``lvtpc_auto``: where delivery masks LVTPC, it offers to unmask at the COMMIT.
    ``equivalent``: at zero skid and latency it must give the same samples as the
    other equivalent designs.
    """

    name: str
    summary: str
    is_paused: bool
    page: bool
    freeze: bool = False
    lvtpc_auto: bool = False
    equivalent: bool = True

    def __post_init__(self) -> None:
        for feature in ("freeze", "lvtpc_auto"):
            if getattr(self, feature) and not self.page:
                raise ValueError(f"{feature} needs page = true")


def design_names() -> list[str]:
    """The shipped designs, sorted."""
    folder = resources.files("pvpmu") / _FOLDER
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def design_named(name: str) -> Design:
    """Load a shipped design; raises :class:`UsageError`, naming those that exist."""
    if name not in design_names():
        raise UsageError(f"unknown design {name!r}; known: {', '.join(design_names())}")
    text = (resources.files("pvpmu") / _FOLDER / f"{name}.toml").read_text("utf-8")
    return load_toml(text, source=f"design {name}", kind=Design)
