"""Run vectors on a target: one path, or the trap path and every page path in comparison.

In comparison the vector runs on each machine by itself, and what its guest could see is compared
operation by operation: the two sequences must be equal, except where an operation names a
feature with a permitted difference (``docs/conformance.md``) that is in force.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pvpmu import __version__
from pvpmu.conformance.features import FEATURES
from pvpmu.conformance.interpreter import CaseFailed, Interpreter, Step
from pvpmu.conformance.limit import DEFAULT_S, TimeLimit, TimeLimitError
from pvpmu.conformance.ops import PathName
from pvpmu.conformance.target import PROTOCOL, Hello, Target, Unsupported
from pvpmu.conformance.vector import PATHS, PROFILES, Vector
from pvpmu.conformance.verdict import CaseResult, Failure, RunResult, Verdict, tally
from pvpmu.shared.errors import PvpmuError, UsageError

PATH_CHOICES = ("trap", "page", "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What to run.

    ``path``: of PATH_CHOICES; page paths run without and with FREEZE. ``profile``: empty for the
    target's first that a vector admits. ``target`` is how the command line names the target,
    ``design`` its design. ``gives_up``: cases that the design fails on purpose, by id or glob of
    ids, each with the reason; such a failure counts as skipped.
    """

    path: str = "both"
    profile: str = ""
    strict: bool = False
    target: str = "inline"
    design: str = ""
    gives_up: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    limit_s: float = DEFAULT_S


@dataclass(slots=True)
class _Run:
    """One vector on one path: its verdict so far and what its guest saw."""

    path: PathName
    profile: str
    verdict: Verdict
    reason: str = ""
    failure: Failure | None = None
    trace: list[Step] = field(default_factory=list)
    compared: bool = False


class Runner:
    """Runs vectors on what ``open_target`` opens; a target that raised is opened anew."""

    def __init__(self, open_target: Callable[[], Target], config: RunConfig) -> None:
        self._open = open_target
        self._config = config
        self._target = open_target()
        self.hello: Hello = self._target.hello()
        if self.hello.protocol != PROTOCOL:
            raise UsageError(
                f"target {self.hello.name}: speaks protocol {self.hello.protocol}, "
                f"expected {PROTOCOL}"
            )
        unknown = set(self.hello.profiles) - set(PROFILES)
        if unknown:
            raise UsageError(f"target {self.hello.name}: unknown profile {min(unknown)}")

    def run(
        self,
        vectors: Sequence[Vector],
        on_result: Callable[[CaseResult], None] = lambda _: None,
    ) -> RunResult:
        """Run all; ``on_result`` hears of each as it ends."""
        results = []
        for vector in vectors:
            for result in self.run_vector(vector):
                results.append(result)
                on_result(result)
        return RunResult(
            pvpmu=__version__,
            target=self.hello,
            path=self._config.path,
            strict=self._config.strict,
            tally=tally(results),
            results=tuple(results),
        )

    def run_vector(self, vector: Vector) -> list[CaseResult]:
        """Run one vector on each of its paths that is asked for."""
        asked = {"trap": PATHS[:1], "page": PATHS[1:], "both": PATHS}[self._config.path]
        runs = [self._run(vector, path) for path in vector.runs_on() if path in asked]
        if self._config.path == "both" and runs and runs[0].path == "trap":
            for run in runs[1:]:
                _compare(vector, runs[0], run)
        return [self._result(vector, run) for run in runs]

    def close(self) -> None:
        """Let the target go."""
        self._target.close()

    def _run(self, vector: Vector, path: PathName) -> _Run:
        offered = self.hello.profiles
        admitted = [name for name in offered if name in vector.profiles]
        if self._config.profile:
            admitted = [name for name in admitted if name == self._config.profile]
        if not admitted:
            asked = self._config.profile or ", ".join(offered)
            reason = f"holds in {', '.join(vector.profiles)}; the target was run as {asked}"
            return _Run(path, self._config.profile, Verdict.SKIP, reason)
        missing = sorted(vector.needs(path) - set(self.hello.features))
        if missing:
            reason = "; ".join(f"needs {name}: {FEATURES[name]}" for name in missing)
            return _Run(path, admitted[0], Verdict.SKIP, reason)
        return self._interpret(vector, path, admitted[0])

    def _interpret(self, vector: Vector, path: PathName, profile: str) -> _Run:
        limit = TimeLimit()
        interpreter = Interpreter(vector, path, profile, self._target, limit.check)
        run = _Run(path, profile, Verdict.PASS, trace=interpreter.trace)
        try:
            with limit.running(self._config.limit_s):
                interpreter.run()
        except CaseFailed as failed:
            run.verdict, run.failure = Verdict.FAIL, failed.failure
        except Unsupported as error:
            run.verdict = Verdict.FAIL
            run.reason = f"everything it needs is advertised, yet: {error}"
        except TimeLimitError:
            run.verdict = Verdict.ERROR
            run.reason = (
                f"not done after {self._config.limit_s:g} s, at op {interpreter.where or 'reset'}"
            )
        except PvpmuError as error:
            run.verdict, run.reason = Verdict.ERROR, f"op {interpreter.where}: {error}"
        except Exception as error:  # noqa: BLE001 (whatever a target raises ends its case only)
            run.verdict = Verdict.ERROR
            run.reason = f"op {interpreter.where}: {type(error).__name__}: {error}"
        if run.verdict is Verdict.ERROR:
            self._reopen()
        return run

    def _reopen(self) -> None:
        # It is broken already, and the case says so.
        with suppress(Exception):
            self._target.close()
        self._target = self._open()

    def _result(self, vector: Vector, run: _Run) -> CaseResult:
        verdict, reason = run.verdict, run.reason
        if verdict is Verdict.FAIL and (given_up := self._given_up(vector)):
            verdict, reason = Verdict.SKIP, f"given up by the design: {given_up}"
        if verdict is Verdict.FAIL and vector.level != "MUST" and not self._config.strict:
            verdict = Verdict.NON_STRICT
        unwell = verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.NON_STRICT)
        return CaseResult(
            id=vector.id,
            path=run.path,
            profile=run.profile,
            verdict=verdict,
            title=vector.title,
            clause=vector.source,
            level=vector.level,
            reason=reason,
            failure=run.failure,
            replay=self._replay(vector, run) if unwell else "",
        )

    def _given_up(self, vector: Vector) -> str:
        for pattern, why in self._config.gives_up.items():
            if fnmatchcase(vector.id, pattern) or fnmatchcase(vector.case, pattern):
                return why
        return ""

    def _replay(self, vector: Vector, run: _Run) -> str:
        path = "both" if run.compared else run.path.split("+", 1)[0]
        words = ["pvpmu", "conform", "run", vector.id, "--target", self._config.target]
        words += ["--path", path, "--profile", run.profile]
        if self._config.design:
            words += ["--design", self._config.design]
        for folder in self._config.extra:
            words += ["--extra", folder]
        return shlex.join(words)


def select(vectors: Sequence[Vector], patterns: Sequence[str]) -> list[Vector]:
    """Vectors whose id, case id or area matches a glob; raises UsageError if one matches none."""
    if not patterns:
        return list(vectors)
    chosen: dict[str, Vector] = {}
    for pattern in patterns:
        hits = [
            vector
            for vector in vectors
            if any(fnmatchcase(name, pattern) for name in (vector.id, vector.case, vector.area))
        ]
        if not hits:
            raise UsageError(f"no vector matches {pattern!r}; see pvpmu conform list")
        chosen.update((vector.id, vector) for vector in hits)
    return [vector for vector in vectors if vector.id in chosen]


def _compare(vector: Vector, trap: _Run, run: _Run) -> None:
    """Fail ``run`` at the first thing that its guest saw otherwise than trap's."""
    if run.verdict is not Verdict.PASS or trap.verdict is not Verdict.PASS:
        return
    in_force = _differences(vector, run)
    skipped = {step.where for step in (*trap.trace, *run.trace) if in_force & step.differs}
    ours = [step for step in run.trace if step.where not in skipped]
    theirs = [step for step in trap.trace if step.where not in skipped]
    for index in range(max(len(ours), len(theirs))):
        mine = ours[index] if index < len(ours) else None
        other = theirs[index] if index < len(theirs) else None
        if mine is None or other is None or mine.seen != other.seen or mine.where != other.where:
            at = mine or other
            assert at is not None
            run.verdict, run.compared = Verdict.FAIL, True
            run.failure = Failure(
                where=at.where,
                op=at.text,
                expected=f"as on the trap path: {other.text_seen if other else 'nothing more'}",
                actual=mine.text_seen if mine else "nothing more",
            )
            run.reason = f"{vector.id}: a guest can tell {run.path} from trap"
            return


def _differences(vector: Vector, run: _Run) -> set[str]:
    """Features in force that may make a page path differ from trap."""
    conditions = {
        "freeze": run.path == "page+freeze",
        "lvtpc-auto": vector.config.lvtpc_auto,
        # Accesses that no longer exit are not retired by the host any more.
        "emulated-retirement": run.profile != "kvm-5.14",
    }
    return {name for name, holds in conditions.items() if holds}
