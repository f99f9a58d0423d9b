"""Costs that give measured latencies back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pvpmu.cost.fit import Measurement, solve
from pvpmu.shared.costs import Costs, Work

TRUE = Costs(exit_ns=1500, call_ns=700, redundant_call_ns=300, guest_ns=2500, lock_ns=50,
             placement_ns=20)  # fmt: skip


def measured(exits: int, live: int, redundant: int = 0, placements: int = 0) -> Measurement:
    work = Work(exits, live, redundant, live + redundant, placements, handlers=4)
    return Measurement(
        what="x",
        handler_ns=TRUE.of(work) / 4,
        handlers=4,
        exits=exits,
        live_calls=live,
        redundant_calls=redundant,
        locks=live + redundant,
        placements=placements,
    )


KNOWN = {"exit_ns": 1500.0, "call_ns": 700.0, "redundant_call_ns": 300.0, "guest_ns": 2500.0,
         "lock_ns": 50.0, "placement_ns": 20.0, "local_read_ns": 0.0,
         "pmu_switch_ns": 0.0}  # fmt: skip


@pytest.mark.parametrize("unknown", [("exit_ns",), ("call_ns", "exit_ns"), ("redundant_call_ns",),
                                     ("guest_ns", "exit_ns", "call_ns")])  # fmt: skip
def test_the_costs_behind_the_latencies_are_found(unknown: tuple[str, ...]) -> None:
    known = {name: ns for name, ns in KNOWN.items() if name not in unknown}
    several = [measured(30, 40, 10), measured(4, 40, 0), measured(30, 12, 3, 8)]
    found = solve(unknown, known, {}, several[: len(unknown)])
    for name in unknown:
        assert found[name] == pytest.approx(KNOWN[name])


def test_nothing_unknown_needs_no_latency() -> None:
    assert solve((), KNOWN, {}, []) == {}


def test_tied_costs_are_found_as_one() -> None:
    cheap = replace(TRUE, call_ns=300)
    work = Work(10, 20, 5, 25, 0, handlers=1)
    one = replace(measured(10, 20, 5), handlers=1, handler_ns=cheap.of(work))
    known = {name: ns for name, ns in KNOWN.items() if "call" not in name}
    found = solve(("redundant_call_ns",), known, {"call_ns": "redundant_call_ns"}, [one])
    assert found["redundant_call_ns"] == pytest.approx(300)


def test_the_same_handler_twice_does_not_tell_two_costs_apart() -> None:
    known = {name: ns for name, ns in KNOWN.items() if name not in {"exit_ns", "call_ns"}}
    with pytest.raises(ValueError, match="do not tell call_ns from the other costs"):
        solve(("exit_ns", "call_ns"), known, {}, [measured(3, 4), measured(6, 8)])
