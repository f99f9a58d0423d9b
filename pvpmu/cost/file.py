"""Cost model files: what is given, what is assumed within a range, what is fitted.

Documented in ``docs/costs.md``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pvpmu.cost.fit import Measurement, solve
from pvpmu.shared.costs import COST_NAMES, Costs
from pvpmu.shared.datafile import load_toml
from pvpmu.shared.errors import UsageError

MAX_NS = 1_000_000_000
"""No cost exceeds a second."""
FITTED = "fitted"
ALLOWED = (
    f"a cost is ns from 0 to {MAX_NS}: a number, {{ value, low, high }}, "
    f'"{FITTED}", or the name of the cost that it equals'
)
_TOLERANCE_NS = 1e-6
"""Fitted costs this far below 0 are 0: floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """An uncertain cost: it lies from ``low`` to ``high``, ns. ``source``: who says so."""

    value: float
    low: float
    high: float
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("low", "value", "high"):
            _check(name, getattr(self, name))
        if not self.low <= self.value <= self.high:
            raise ValueError(
                f"value {self.value:g} ns is outside low..high, {self.low:g}..{self.high:g} ns"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """The costs of a file; see :class:`pvpmu.shared.costs.Costs` for what each is."""

    exit_ns: float | Range | str
    call_ns: float | Range | str
    redundant_call_ns: float | Range | str
    guest_ns: float | Range | str
    lock_ns: float | Range | str = 0.0
    placement_ns: float | Range | str = 0.0
    local_read_ns: float | Range | str = 0.0
    pmu_switch_ns: float | Range | str = 0.0

    def __post_init__(self) -> None:
        for name in COST_NAMES:
            given = getattr(self, name)
            if isinstance(given, str):
                self._check_text(name, given)
            elif not isinstance(given, Range):
                _check(name, given)

    @property
    def fitted(self) -> tuple[str, ...]:
        """Names of the costs to be fitted."""
        return tuple(name for name in COST_NAMES if getattr(self, name) == FITTED)

    @property
    def ties(self) -> dict[str, str]:
        """Costs that equal another one."""
        given = {name: getattr(self, name) for name in COST_NAMES}
        return {name: text for name, text in given.items() if text in COST_NAMES}

    @property
    def ranges(self) -> dict[str, Range]:
        """The uncertain costs."""
        given = {name: getattr(self, name) for name in COST_NAMES}
        return {name: cost for name, cost in given.items() if isinstance(cost, Range)}

    def _check_text(self, name: str, text: str) -> None:
        if text == FITTED:
            return
        if text == name or text not in COST_NAMES:
            others = ", ".join(cost for cost in COST_NAMES if cost != name)
            raise ValueError(f"{name} {text!r} is not {FITTED!r} and not one of {others}")
        if getattr(self, text) in COST_NAMES:
            raise ValueError(f"{name} equals {text}, which must not equal another cost itself")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFile:
    """One cost model as its file has it.

    ``family``: models that explain the same figures differently share it. ``source``: where the
    figures come from. ``measurements``: one for each fitted cost. ``environment``: the machine.
    """

    name: str
    summary: str
    source: str
    costs: CostTable
    family: str = ""
    measurements: tuple[Measurement, ...] = ()
    environment: dict[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("name", "summary", "source"):
            text = getattr(self, name)
            if not (text and text.isprintable()):
                raise ValueError(f"{name} must be printable text, not empty")
        fitted = self.costs.fitted
        if len(self.measurements) != len(fitted):
            raise ValueError(
                f"measurements has {len(self.measurements)} entries for {len(fitted)} fitted "
                f"costs ({', '.join(fitted) or 'none'}): one each is needed"
            )
        for assumed in self._corners():
            self._refuse_negative(assumed)

    def at(self, assumed: Mapping[str, float] | None = None) -> Costs:
        """All costs, where uncertain ones have the values of ``assumed``, else their own."""
        return self._checked(self._known(assumed or {}))

    @property
    def corners(self) -> tuple[Costs, ...]:
        """All costs at every combination of the ends of the uncertain ones.

        Costs are linear in those, and so is any modelled figure: its extremes are at corners.
        """
        return tuple(self.at(assumed) for assumed in self._corners())

    def _corners(self) -> Iterator[dict[str, float]]:
        ranges = self.costs.ranges
        ends = [(cost.low, cost.high) for cost in ranges.values()]
        for values in itertools.product(*ends):
            yield dict(zip(ranges, values, strict=True))

    def _known(self, assumed: Mapping[str, float]) -> dict[str, float]:
        known: dict[str, float] = {}
        for name in COST_NAMES:
            given = getattr(self.costs, name)
            if name in assumed:
                known[name] = assumed[name]
            elif isinstance(given, Range):
                known[name] = given.value
            elif not isinstance(given, str):
                known[name] = given
        return known

    def _checked(self, known: dict[str, float]) -> Costs:
        ties = self.costs.ties
        fitted = solve(self.costs.fitted, known, ties, self.measurements)
        all_of = {**known, **fitted}
        costs = {name: all_of[ties.get(name, name)] for name in COST_NAMES}
        for name in fitted:
            if costs[name] < -_TOLERANCE_NS:
                raise ValueError(f"costs leave {costs[name]:.1f} ns for {name}")
        return Costs(**{name: max(ns, 0.0) for name, ns in costs.items()})

    def _refuse_negative(self, assumed: Mapping[str, float]) -> None:
        try:
            self.at(assumed)
        except ValueError as error:
            where = ", ".join(f"{name} = {ns:g}" for name, ns in assumed.items())
            raise ValueError(f"{error}" + (f" where {where}" if where else "")) from None


def load_cost_file(text: str, source: str) -> CostFile:
    """Read one file's text; raises :class:`UsageError` with file, line, field, what is allowed."""
    try:
        return load_toml(text, source=source, kind=CostFile)
    except UsageError as error:
        of_costs = ": field costs" in str(error)
        raise UsageError(f"{error}; {ALLOWED}" if of_costs else str(error)) from None


def _check(name: str, ns: float) -> None:
    # Not a number compares false, too.
    if not 0 <= ns <= MAX_NS:
        raise ValueError(f"{name} {ns:g} ns is outside 0..{MAX_NS} ns")
