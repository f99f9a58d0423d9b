"""Whose perf a host's is, by name, and what cannot be had with it."""

from __future__ import annotations

from collections.abc import Iterable

from pvpmu.shared.design import Design
from pvpmu.shared.errors import ResourceError, UsageError

PERFS = ("model", "linux")
"""Whose perf the host's is."""


def check_perf(perf: str, designs: Iterable[Design], *, recorded: bool = False) -> None:
    """Refuse what cannot be had: designs by name, a recording, or the kernel's events altogether.

    Raises :class:`UsageError`, :class:`ResourceError`. The model can be had always.
    """
    if perf == "model":
        return
    for design in designs:
        refuse_for_linux(design)
    if recorded:
        raise UsageError("--record: not with --perf linux, whose calls take their own time")
    from pvpmu.host.perf_sources import why_not  # noqa: PLC0415 (the model needs nothing of it)

    reason = why_not()
    if reason is not None:
        raise ResourceError(reason)


def refuse_for_linux(design: Design) -> None:
    """Raise :class:`UsageError` for a design whose host needs what only a kernel can do."""
    reason = None
    if design.vpmu == "mediated":
        reason = "its host has no events"
    elif design.host_freeze == "entry-mask":
        reason = "its host leaves counters off at VM-entry, which only a kernel can"
    elif design.shares_lock:
        reason = "its host takes the context's lock once per exit, which no system call can"
    if reason is not None:
        raise UsageError(f"design {design.name} cannot have --perf linux: {reason}")
