"""How good the counts and samples of one design are, over runs and vCPUs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pvpmu.guest.accuracy import SampleErrors
from pvpmu.guest.runner import Counts
from pvpmu.shared.histogram import Histogram

Json = dict[str, Any]
Value = Callable[[Json], str]
Row = tuple[str, Value, str]

_MISSING = "-"
_PPM_OF_PERCENT = 10_000


@dataclass(slots=True)
class Scaled:
    """What perf stat prints for one event, against the truth: sums, and the worst single run.

    ``estimate``: count * enabled / running. ``retired``: what there was to count.
    """

    estimate: int = 0
    retired: int = 0
    enabled: int = 0
    running: int = 0
    worst: float = 0.0

    def add(self, count: int, enabled: int, running: int, due: int) -> None:
        """Add one run. An event that never had a counter has no estimate: 0."""
        estimate = count * enabled // running if running else 0
        self.estimate += estimate
        self.retired += due
        self.enabled += enabled
        self.running += running
        if due:
            self.worst = max(self.worst, abs(estimate - due) / due)


@dataclass(slots=True)
class AccuracyTotals:
    """Sums over runs. ``errors`` is None while no run had any to tell (scripts)."""

    scaled: list[Scaled] = field(default_factory=list)
    errors: SampleErrors | None = None

    def add(self, counts: Counts, errors: SampleErrors | None) -> None:
        """Add one recorded run."""
        rows = zip(counts.count, counts.enabled_ns, counts.running_ns, counts.due, strict=True)
        self.scaled = self.scaled or [Scaled() for _ in counts.count]
        for scaled, row in zip(self.scaled, rows, strict=True):
            scaled.add(*row)
        if errors is None:
            return
        if self.errors is None:
            self.errors = SampleErrors([Histogram() for _ in errors.period])
        self.errors.exact += errors.exact
        self.errors.skid.merge(errors.skid)
        for total, period in zip(self.errors.period, errors.period, strict=True):
            total.merge(period)

    def described(self, labels: Sequence[str]) -> Json:
        """The field ``accuracy`` of ``docs/bench-json.md``; of nothing but zeros without a run."""
        scaled = self.scaled or [Scaled() for _ in labels]
        return {
            "scaled": {label: _scaled(one) for label, one in zip(labels, scaled, strict=True)},
            "period_error": {label: self._period(i) for i, label in enumerate(labels)},
            "skid": self._skid(),
        }

    def _period(self, number: int) -> Json | None:
        if self.errors is None or not self.errors.period[number].count:
            return None
        return self.errors.period[number].summary()

    def _skid(self) -> Json | None:
        if self.errors is None or not self.errors.skid.count:
            return None
        skid, exact = self.errors.skid, self.errors.exact
        return {
            "exact": exact,
            "exact_share": round(exact / skid.count, 6),
            "instructions": skid.summary(),
        }


def _scaled(one: Scaled) -> Json:
    error = (one.estimate - one.retired) / one.retired if one.retired else None
    return {
        "estimate": one.estimate,
        "retired": one.retired,
        "error": None if error is None else round(error, 6),
        "worst": round(one.worst, 6),
        "running_share": round(one.running / one.enabled, 6) if one.enabled else 0.0,
    }


def accuracy_rows(result: Json) -> Iterator[Row]:
    """The section of the table; scaled counts only where some event had no counter for a time."""
    labels = list(result["designs"][0]["count_error"])
    for label in labels:
        yield f"count error, {label}", _count_error(label), ""
    for label in labels:
        yield f"retired while held, {label}", _held(label), ""
    shares = [
        design["accuracy"]["scaled"][label]["running_share"]
        for design in result["designs"]
        for label in labels
    ]
    if min(shares) < 1:
        for label in labels:
            yield f"scaled count off by, {label}", _scaled_error(label), ""
    for label in labels:
        yield f"period off by, p50/p90, {label}", _period_error(label), ""
    yield "samples at the right ip", _exact, ""
    for key in ("p50", "max"):
        yield f"skid, {key}, instructions", _skid(key), ""
    yield "PMIs lost", lambda design: f"{design['pmi']['lost']:,}", ""


def _count_error(label: str) -> Value:
    return lambda design: f"{design['count_error'][label]:,}"


def _held(label: str) -> Value:
    def value(design: Json) -> str:
        return f"{design['held_share'][label]:.4%}" if design["held"][label] else _MISSING

    return value


def _scaled_error(label: str) -> Value:
    def value(design: Json) -> str:
        error = design["accuracy"]["scaled"][label]["error"]
        return _MISSING if error is None else f"{error:+.2%}"

    return value


def _period_error(label: str) -> Value:
    def value(design: Json) -> str:
        ppm = design["accuracy"]["period_error"][label]
        if ppm is None:
            return _MISSING
        return "/".join(f"{ppm[key] / _PPM_OF_PERCENT:.2f}%" for key in ("p50", "p90"))

    return value


def _exact(design: Json) -> str:
    skid = design["accuracy"]["skid"]
    return _MISSING if skid is None else f"{skid['exact_share']:.2%}"


def _skid(key: str) -> Value:
    def value(design: Json) -> str:
        skid = design["accuracy"]["skid"]
        return _MISSING if skid is None else f"{skid['instructions'][key]:,}"

    return value
