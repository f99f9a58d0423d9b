"""Cost models: nanoseconds, each with its interval, from counted exits and perf calls. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pvpmu.cost.file import FITTED, CostFile, Range
from pvpmu.shared.costs import COST_NAMES, Costs, Work, work_of
from pvpmu.shared.tally import DELIVERY, HANDLER, add

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CostModel:
    """A cost model. ``costs``: its values; ``corners``: at the ends of its uncertain costs."""

    file: CostFile
    costs: Costs
    corners: tuple[Costs, ...]

    @classmethod
    def of(cls, file: CostFile) -> CostModel:
        """The model that a file describes."""
        return cls(file, file.at(), file.corners)

    @property
    def name(self) -> str:
        """The model's name, which every figure of it carries."""
        return self.file.name

    def interval(self, work: Work) -> tuple[float, float]:
        """Least and greatest cost of the work over the ranges, ns: it is linear in the costs."""
        values = [costs.of(work) for costs in self.corners]
        return min(values), max(values)

    def per_pmi(self, handlers: int, exits_by: list[int], tallies: list[list[int]]) -> Json:
        """ns per handler entry: inside the handler, outside it (the exits that bring it), both.

        Each also under ``interval``, as [low, high]. All 0 without handlers.
        """
        parts = parts_of(handlers, exits_by, tallies)
        per = handlers or 1
        interval = {
            name: [round(ns / per, 1) for ns in self.interval(work)] for name, work in parts.items()
        }
        values = {name: round(self.costs.of(work) / per, 1) for name, work in parts.items()}
        return {**values, "interval": interval}

    def described(self) -> Json:
        """Where the costs come from and what they are, as plain values."""
        return {
            "family": self.file.family,
            "source": self.file.source,
            "costs": {name: self._cost(name) for name in COST_NAMES},
        }

    def _cost(self, name: str) -> Json:
        ends = [getattr(costs, name) for costs in self.corners]
        return {
            "value": round(getattr(self.costs, name), 2),
            "low": round(min(ends), 2),
            "high": round(max(ends), 2),
            "from": self._origin(name),
        }

    def _origin(self, name: str) -> str:
        given = getattr(self.file.costs, name)
        if isinstance(given, Range):
            return given.source or "assumed"
        if isinstance(given, str):
            return given if given == FITTED else f"as {given}"
        return "given"


def parts_of(handlers: int, exits_by: list[int], tallies: list[list[int]]) -> dict[str, Work]:
    """Work under the names of its time: inside the handler, outside it, both.

    ``exits_by`` and ``tallies``: by place.
    """
    both = add(tallies[HANDLER], tallies[DELIVERY])
    return {
        "handler_ns": work_of(exits_by[HANDLER], tallies[HANDLER], handlers),
        "outside_ns": work_of(exits_by[DELIVERY], tallies[DELIVERY]),
        "total_ns": work_of(exits_by[HANDLER] + exits_by[DELIVERY], both, handlers),
    }
