"""The random layer: many programs from one printed seed, until one shows a difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from pvpmu.conformance.lockstep import Difference, compare
from pvpmu.conformance.ops import PathName
from pvpmu.conformance.program import Author, Program
from pvpmu.conformance.shrink import shrink
from pvpmu.conformance.target import Target
from pvpmu.conformance.vector import PATHS, PROFILES

LENGTH = 50
"""Operations at top level of one program, less the final look at every register."""


@dataclass(frozen=True, slots=True)
class Found:
    """A difference: ``program`` is shrunk, ``seed`` alone makes the whole one again."""

    seed: int
    profile: str
    program: Program
    difference: Difference


@dataclass(frozen=True, slots=True)
class Outcome:
    """``operations`` that every machine did; ``found``: the difference that ended it."""

    operations: int
    programs: int
    found: Found | None


def profile_of(seed: int, profile: str) -> str:
    """The asked-for profile; with none the seeds take turns."""
    return profile or PROFILES[seed % len(PROFILES)]


def run(
    target: Target,
    *,
    operations: int,
    seed: int,
    profile: str = "",
    paths: tuple[PathName, ...] = PATHS,
    on_program: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Play programs of seeds ``seed``, ``seed`` + 1, ... until ``operations`` are done.

    ``on_program`` hears how many are done after each.
    """
    done = programs = 0
    while done < operations:
        name = profile_of(seed + programs, profile)
        author = Author(Random(seed + programs), name, LENGTH)
        program = author.write()
        done += author.done
        difference = compare(program, target, paths)
        if difference is not None:
            found = _shrunk(target, program, paths)
            return Outcome(done, programs + 1, Found(seed + programs, name, *found))
        programs += 1
        on_program(done)
    return Outcome(done, programs, None)


def _shrunk(
    target: Target, program: Program, paths: tuple[PathName, ...]
) -> tuple[Program, Difference]:
    small = shrink(program, lambda each: compare(each, target, paths) is not None)
    difference = compare(small, target, paths)
    assert difference is not None
    return small, difference
