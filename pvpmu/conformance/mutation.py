"""A mutant: one deliberate mistake in this project's host or guest, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["host", "guest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """``patches``: (class or module, name of what is replaced, what stands in for it).

    ``mistake``: what it does, in a few words. ``likely``: vectors to try first, as ids or globs.
    """

    name: str
    role: Role
    mistake: str
    patches: tuple[tuple[Any, str, Callable[..., Any]], ...]
    likely: tuple[str, ...]


@contextmanager
def in_force(mutant: Mutant) -> Iterator[None]:
    """The mistake is there inside the block, and nowhere else."""
    # As they stand there: getattr would unwrap a static method.
    right = [(owner, name, vars(owner)[name]) for owner, name, _ in mutant.patches]
    for owner, name, wrong in mutant.patches:
        setattr(owner, name, wrong)
    try:
        yield
    finally:
        for owner, name, before in right:
            setattr(owner, name, before)


def was(owner: Any, attribute: str) -> Callable[..., Any]:
    """The right one, for a mistake that calls it."""
    found: Callable[..., Any] = getattr(owner, attribute)
    return found


def host_mutant(
    name: str, mistake: str, owner: Any, attribute: str, wrong: Any, *likely: str
) -> Mutant:
    """A broken host with one patch."""
    return Mutant(
        name=name, role="host", mistake=mistake,
        patches=((owner, attribute, wrong),), likely=likely,
    )  # fmt: skip
