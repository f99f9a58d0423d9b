"""Does a cost model fitted on one published overhead predict another? Pure.

Published is by how much a program takes longer with the profile. Of each second that passes the
profile takes a share, which is what the counted work of a second costs times one unknown scale:
how much faster or slower than the model's machine the published one was. The scale that gives one
workload's overhead back must give the other's.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvpmu.cost.model import CostModel, Json
from pvpmu.shared.costs import Costs, Work

WITHIN = 1.5
"""A prediction holds up to this factor, either way."""


@dataclass(frozen=True, slots=True)
class Workload:
    """``work`` counted in ``elapsed_ns`` of guest clock, and the published overhead in percent."""

    name: str
    work: Work
    elapsed_ns: float
    published: float

    def share(self, costs: Costs) -> float:
        """What the work takes of the guest clock, as a share; above 1 it would never be done."""
        return costs.of(self.work) / self.elapsed_ns


def share_of(overhead: float) -> float:
    """The share of the time that makes a program take ``overhead`` percent longer."""
    return overhead / (100 + overhead)


def overhead_of(share: float) -> float | None:
    """The reverse, in percent; None where nothing is left for the program."""
    return 100 * share / (1 - share) if share < 1 else None


def scale(costs: Costs, workload: Workload) -> float:
    """What the model's share is multiplied with to give the workload's published overhead.

    Raises :class:`ZeroDivisionError` for work that costs nothing.
    """
    return share_of(workload.published) / workload.share(costs)


def predict(model: CostModel, fitted: Workload, other: Workload) -> Json:
    """The overhead of ``other`` by the model fitted on ``fitted``, beside the published one.

    With its interval over the model's uncertain costs, the scale fitted anew for each: a quotient
    of sums that are linear in them has its extremes at corners, too.
    """
    value = _overhead(model.costs, fitted, other)
    corners = [_overhead(costs, fitted, other) for costs in model.corners]
    ratio = None if value is None else value / other.published
    known = [percent for percent in corners if percent is not None]
    return {
        "model": model.name,
        "fitted_on": fitted.name,
        "fitted_percent": fitted.published,
        "scale": round(scale(model.costs, fitted), 3),
        "overhead_percent": _rounded(value),
        "interval": [
            _rounded(min(known, default=None)),
            # Without end where a corner leaves the program nothing.
            _rounded(max(known, default=None)) if len(known) == len(corners) else None,
        ],
        "published_percent": other.published,
        "ratio": None if ratio is None else round(ratio, 3),
        "within": ratio is not None and 1 / WITHIN <= ratio <= WITHIN,
    }


def _overhead(costs: Costs, fitted: Workload, other: Workload) -> float | None:
    return overhead_of(scale(costs, fitted) * other.share(costs))


def _rounded(percent: float | None) -> float | None:
    return None if percent is None else round(percent, 2)
