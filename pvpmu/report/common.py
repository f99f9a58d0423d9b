"""What several sections need. Pure but for the drawings' styles."""

from __future__ import annotations

from typing import Any

from pvpmu.report import plots
from pvpmu.report.statistics import Median, median_of, ratios

Json = dict[str, Any]


def design_of(bench: Json, name: str) -> Json:
    """The entry of one design."""
    (found,) = (design for design in bench["designs"] if design["name"] == name)
    return dict(found)


def paired(design: Json, base: Json) -> Median | None:
    """The handler's p50 by the base's of the same turn, over turns; None if it means nothing."""
    if not design["wall_valid"]:
        return None
    return median_of(ratios(design["handler_p50s"], base["handler_p50s"]))


def ends(median: Median, digits: int) -> str:
    """An interval as text."""
    return f"{median.low:.{digits}f}..{median.high:.{digits}f}"


def panels_of(bench: Json) -> plots.Panels:
    """Designs by panel: all together if they are few, else those without a page and those with."""
    others = [design for design in bench["designs"] if design["name"] != bench["baseline"]]
    if len(others) <= plots.GROUP:
        return plots.Panels([""], [[design["name"] for design in others]], bench["baseline"])
    titles, groups = [], []
    for title, paged in (("without a page", False), ("with a page", True)):
        names = [d["name"] for d in others if d["page_registered"] == paged]
        parts = -(-len(names) // plots.GROUP)
        for part in range(parts):
            titles.append(title)
            # Parts of about one size: no panel for a single design beside a full one.
            first, last = (len(names) * n // parts for n in (part, part + 1))
            groups.append(names[first:last])
    return plots.Panels(titles, groups, bench["baseline"])
