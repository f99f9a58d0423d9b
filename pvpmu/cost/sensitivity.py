"""How far a result depends on what the published figures leave open. Pure.

Two latencies do not tell the cost of an exit from that of a call on a running counter, nor from the
guest's own work. All splits that give both figures back make a family: the exit from its least
plausible cost up to where a call on a running counter costs no more than one on a paused counter,
and for each the guest's work from none to as much as that leaves room for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pvpmu.cost.file import FITTED, CostFile, Range
from pvpmu.cost.model import CostModel, Json
from pvpmu.shared.costs import Costs, Work

POINTS = 22


@dataclass(frozen=True, slots=True)
class Split:
    """One cost of an exit, and the costs with it at the least and at the most guest work."""

    exit_ns: float
    least: Costs
    most: Costs

    def figure(self, work: Work, per: float = 1) -> list[float]:
        """[low, high] of what the work costs, divided by ``per``, ns."""
        return sorted(round(costs.of(work) / per, 1) for costs in (self.least, self.most))


def splits(model: CostModel, points: int = POINTS) -> list[Split]:
    """``points`` splits, exits evenly spaced; none for a model that leaves no such choice open.

    A model does that assumes ``exit_ns`` and ``guest_ns`` within ranges and fits ``call_ns``.
    """
    file = model.file
    exits, guest = file.costs.exit_ns, file.costs.guest_ns
    if not (isinstance(exits, Range) and isinstance(guest, Range) and file.costs.call_ns == FITTED):
        return []
    if exits.low == exits.high:
        return []
    # Fitted costs are linear in the assumed ones.
    start = _excess(file, exits.low, guest.low)
    by_exit = (_excess(file, exits.high, guest.low) - start) / (exits.high - exits.low)
    if start <= 0 or by_exit >= 0:
        return []
    last = exits.low - start / by_exit
    by_guest = 0.0
    if guest.high > guest.low:
        more = _excess(file, exits.low, guest.high) - start
        by_guest = more / (guest.high - guest.low)
    found = []
    for number in range(points):
        exit_ns = exits.low + (last - exits.low) * number / (points - 1)
        left = start + by_exit * (exit_ns - exits.low)
        room = -left / by_guest if by_guest else 0.0
        most = guest.low + min(max(room, 0.0), guest.high - guest.low)
        try:
            both = [file.at({"exit_ns": exit_ns, "guest_ns": ns}) for ns in (guest.low, most)]
        except ValueError:
            # Another fitted cost would be negative from here on.
            break
        found.append(Split(exit_ns, *both))
    return found


def sensitivity(model: CostModel, works: Mapping[str, Mapping[str, Work]], points: int) -> Json:
    """The splits of one model as plain values, with the figures of each design.

    ``works``: by design, work by the name of its figure (:func:`pvpmu.cost.model.parts_of`),
    whose ``handlers`` of ``handler_ns`` it is divided by.
    """
    return {
        "model": model.name,
        "points": [
            {
                "exit_ns": round(split.exit_ns, 1),
                "guest_ns": [split.least.guest_ns, round(split.most.guest_ns, 1)],
                "call_ns": sorted(round(c.call_ns, 1) for c in (split.least, split.most)),
                "redundant_call_ns": round(split.least.redundant_call_ns, 1),
                "figures": {
                    name: {
                        figure: split.figure(work, parts["handler_ns"].handlers or 1)
                        for figure, work in parts.items()
                    }
                    for name, parts in works.items()
                },
            }
            for split in splits(model, points)
        ],
    }


def _excess(file: CostFile, exit_ns: float, guest_ns: float) -> float:
    """By how much a call on a running counter is dearer than one on a paused counter, ns."""
    costs = file.at({"exit_ns": exit_ns, "guest_ns": guest_ns})
    return costs.call_ns - costs.redundant_call_ns
