"""All mutants, and the run that must catch each of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pvpmu.conformance.guests import cases
from pvpmu.conformance.guests.broken import JOINED, RIGHT
from pvpmu.conformance.guests.runner import GuestConfig, GuestRunner, KitHost
from pvpmu.conformance.inline import InlineTarget
from pvpmu.conformance.mutants_guest import GUEST
from pvpmu.conformance.mutants_host import HOST
from pvpmu.conformance.mutants_kvm import KVM
from pvpmu.conformance.mutation import Mutant, in_force
from pvpmu.conformance.runner import RunConfig, Runner
from pvpmu.conformance.vector import Vector
from pvpmu.conformance.verdict import CaseResult, Verdict
from pvpmu.shared.errors import UsageError
from pvpmu.shared.workers import python_command

MUTANTS: tuple[Mutant, ...] = (*HOST, *KVM, *GUEST, *JOINED)
_LIMIT_S = 30.0
"""Of one case on one path, or one session: no mistake here hangs, and a busy machine is slow."""


@dataclass(frozen=True, slots=True)
class Caught:
    """What became of a mutant: ``by`` is the first vector or case that failed, empty for none.

    ``tried``: vectors; ``cases``: of a guest that joins a VM. ``broken``: what went wrong instead,
    where the mistake raised (its own code is wrong, or no longer fits what it replaces); such a
    mutant says nothing about the vectors.
    """

    mutant: Mutant
    by: str
    path: str
    tried: tuple[Vector, ...] = ()
    cases: tuple[cases.Session | cases.RuleCase, ...] = ()
    broken: str = ""


def chosen(names: Sequence[str]) -> list[Mutant]:
    """Mutants by name or glob, all without; raises UsageError if one names none."""
    for name in names:
        if not any(fnmatchcase(mutant.name, name) for mutant in MUTANTS):
            raise UsageError(f"no mutant {name!r}; see pvpmu conform selftest --list")
    return [
        mutant
        for mutant in MUTANTS
        if not names or any(fnmatchcase(mutant.name, name) for name in names)
    ]


def catch(mutant: Mutant, vectors: Sequence[Vector], host: KitHost) -> Caught:
    """Run vectors on the broken machine, likely ones first, up to the first that fails.

    A case that ends in an error ends it as well: it is no vector that failed. A guest that joins a
    VM is run with ``host`` instead, for its likely cases.
    """
    if mutant in JOINED:
        return _catch_joined(mutant, host)
    likely = [v for v in vectors if any(fnmatchcase(v.id, each) for each in mutant.likely)]
    rest = [vector for vector in vectors if vector not in likely]
    tried: list[Vector] = []
    with in_force(mutant):
        runner = Runner(InlineTarget, RunConfig(limit_s=_LIMIT_S))
        for vector in (*likely, *rest):
            tried.append(vector)
            results = runner.run_vector(vector)
            for result in results:
                if result.verdict is Verdict.ERROR:
                    broken = f"{result.id} on {result.path}: {result.reason}"
                    return Caught(mutant, "", "", tuple(tried), broken=broken)
            for result in results:
                if result.verdict is Verdict.FAIL:
                    return Caught(mutant, vector.id, result.path, tuple(tried))
    return Caught(mutant, "", "", tuple(tried))


def failures(results: Sequence[Caught], host: KitHost) -> list[str]:
    """One line per vector or case that was tried and that the machine without a mistake fails."""
    tried = {vector.id: vector for result in results for vector in result.tried}
    runner = Runner(InlineTarget, RunConfig())
    found = [result for vector in tried.values() for result in runner.run_vector(vector)]
    held = {case.id: case for result in results for case in result.cases}
    if held:
        found += _joined(RIGHT, tuple(held.values()), host, until_broken=False)
    return [
        f"{result.id} on {result.path}: {result.reason or result.failure}"
        for result in found
        if result.verdict.bad
    ]


def _catch_joined(mutant: Mutant, host: KitHost) -> Caught:
    chosen_cases = tuple(
        case for case in cases.select(mutant.likely) if isinstance(case, cases.RuleCase)
    )
    for result in _joined(mutant.name, chosen_cases, host, until_broken=True):
        if result.verdict is Verdict.FAIL:
            return Caught(mutant, result.id, result.path, cases=chosen_cases)
    return Caught(mutant, "", "", cases=chosen_cases)


def _joined(
    name: str,
    chosen_cases: Sequence[cases.Session | cases.RuleCase],
    host: KitHost,
    *,
    until_broken: bool,
) -> tuple[CaseResult, ...]:
    """Run a guest with that mistake for these cases."""
    command = [*python_command("pvpmu.conformance.guests.broken"), name, "{name}"]
    config = GuestConfig(
        command=shlex.join(command), ours=True, limit_s=_LIMIT_S, until_broken=until_broken
    )
    return GuestRunner(config, host).run(chosen_cases).results
