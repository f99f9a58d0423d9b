"""What became of a case, and how a run compares with an earlier one."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from pvpmu.conformance.target import Hello
from pvpmu.conformance.vector import PATHS
from pvpmu.shared.errors import UsageError

RESULT_SCHEMA = 1
"""Version of the JSON result."""


class Verdict(enum.Enum):
    """``non-strict``: a SHOULD or MAY does not hold. ``error``: the target raised or hung."""

    PASS = "pass"  # noqa: S105 (no password)
    NON_STRICT = "non-strict"
    FAIL = "fail"
    SKIP = "skip"
    ERROR = "error"

    @property
    def bad(self) -> bool:
        """Whether it makes a run fail."""
        return self in (Verdict.FAIL, Verdict.ERROR)


class Failure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a case failed: ``where`` numbers the operation from 0, ``op`` is its text."""

    where: str
    op: str
    expected: str
    actual: str
    variables: dict[str, str] = {}


class CaseResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One vector on one path. ``reason`` says why it was skipped, or what went wrong."""

    id: str
    path: str
    profile: str
    verdict: Verdict
    title: str
    clause: str
    level: str
    reason: str = ""
    failure: Failure | None = None
    replay: str = ""


class RunResult(Struct, frozen=True, kw_only=True):
    """A whole run. No times, no dates: the same target gives the same bytes."""

    schema: int = RESULT_SCHEMA
    pvpmu: str
    target: Hello
    path: str
    strict: bool
    tally: dict[str, int]
    results: tuple[CaseResult, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that were run, in their usual order; others after them."""
        ran = dict.fromkeys(result.path for result in self.results)
        usual = [path for path in PATHS if path in ran]
        return (*usual, *(path for path in ran if path not in PATHS))

    @property
    def failed(self) -> bool:
        """Whether any case failed or broke the target."""
        return any(result.verdict.bad for result in self.results)


def tally(results: Iterable[CaseResult]) -> dict[str, int]:
    """Number of cases by verdict, all verdicts named."""
    counts = Counter(result.verdict for result in results)
    return {verdict.value: counts[verdict] for verdict in Verdict}


def load_result(path: Path) -> RunResult:
    """Read a JSON result; raises :class:`UsageError`."""
    try:
        read = msgspec.json.decode(path.read_bytes(), type=RunResult)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{path}: is no result of a run: {error}") from None
    if read.schema != RESULT_SCHEMA:
        raise UsageError(f"{path}: result schema {read.schema}, expected {RESULT_SCHEMA}")
    return read


def deviations(expected: Sequence[CaseResult], actual: Sequence[CaseResult]) -> list[str]:
    """One line per case whose verdict is not the baseline's; new and missing cases too."""
    before = {(each.id, each.path): each.verdict for each in expected}
    after = {(each.id, each.path): each.verdict for each in actual}
    lines = []
    for key in [*before, *(key for key in after if key not in before)]:
        was, now = before.get(key), after.get(key)
        if was is not now:
            name = f"{key[0]} on {key[1]}"
            lines.append(
                f"{name}: expected {was.value if was else 'no such case'}, "
                f"actual {now.value if now else 'not run'}"
            )
    return lines
