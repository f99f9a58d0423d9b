"""What a cost model charged to the guest clock (``bench --charge``). Pure."""

from __future__ import annotations

from pvpmu.bench.totals import Totals
from pvpmu.cost.model import CostModel
from pvpmu.shared.costs import work_of


def overhead_percent(elapsed_ns: int, charged_ns: int) -> float | None:
    """How much longer the program takes for what was charged, %; None if it never ran."""
    left = elapsed_ns - charged_ns
    return round(100 * charged_ns / left, 3) if left > 0 else None


def charged_as_counted(model: CostModel, totals: Totals) -> bool:
    """Whether the guests charged exactly what the hosts' counts cost, to the ns."""
    tally = [sum(words) for words in zip(*totals.tallies, strict=True)]
    work = work_of(totals.exits.total(), tally, totals.guest["handlers"])
    return model.costs.rounded().of(work) == totals.guest["charged_ns"]
