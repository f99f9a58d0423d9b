"""Cost models: nanoseconds from counted exits and perf calls, as data."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from pvpmu.shared.datafile import load_toml
from pvpmu.shared.tally import DELIVERY, HANDLER, REDUNDANT, calls

_FOLDER = "costs"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """What things cost, in ns.

    ``exit_ns``: one VM-exit. ``call_ns``: one host perf call; ``redundant_call_ns``: one on a
    counter that is paused already. ``guest_ns``: the guest's own work in one handler.
    """

    name: str
    summary: str
    exit_ns: float
    call_ns: float
    redundant_call_ns: float
    guest_ns: float

    def cost(self, exits: int, tally: list[int]) -> float:
        """What so many exits and the calls of ``tally`` take, ns."""
        redundant = tally[REDUNDANT]
        live = calls(tally) - redundant
        return exits * self.exit_ns + live * self.call_ns + redundant * self.redundant_call_ns

    def per_pmi(
        self, handlers: int, exits_by: list[int], tallies: list[list[int]]
    ) -> dict[str, float]:
        """ns per handler entry: inside the handler, outside it (the exits that bring it), both."""
        if not handlers:
            return {"handler_ns": 0.0, "outside_ns": 0.0, "total_ns": 0.0}
        inside = self.cost(exits_by[HANDLER], tallies[HANDLER]) / handlers + self.guest_ns
        outside = self.cost(exits_by[DELIVERY], tallies[DELIVERY]) / handlers
        return {
            "handler_ns": round(inside, 1),
            "outside_ns": round(outside, 1),
            "total_ns": round(inside + outside, 1),
        }


def cost_models() -> list[CostModel]:
    """The shipped models, the one with the fewest assumptions first."""
    folder = resources.files("pvpmu") / _FOLDER
    models = [
        load_toml(entry.read_text("utf-8"), source=f"cost model {entry.name}", kind=CostModel)
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    ]
    return sorted(models, key=lambda model: model.guest_ns)
