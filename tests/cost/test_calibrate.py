"""The file that a calibration writes: what was measured and what was not."""

from __future__ import annotations

from pvpmu.cost.calibrate import RealCosts, here_file
from pvpmu.cost.file import CostFile, Range, load_cost_file
from pvpmu.cost.shelf import models_named
from pvpmu.guest.latency import ROUND_TRIP, LatencyReport

STATUS = "MSR_CORE_PERF_GLOBAL_STATUS"


def report() -> LatencyReport:
    """Exits of 9,000 to 11,000 ns, round trips of 6,000 to 8,000 ns, evenly spread."""
    return LatencyReport(
        floors={ROUND_TRIP: [6_000 + 20.0 * n for n in range(101)]},
        exit={STATUS: [9_000 + 20.0 * n for n in range(101)], "OTHER": [1.0] * 101},
    )


def written() -> str:
    environment = {"cpu": 'a "quoted" \\ CPU', "cpus": 2}
    carried = models_named(["icx-2021"])
    return here_file(report(), carried, environment, date="2026-01-02T03:04:05Z", batch=40)


def loaded() -> CostFile:
    return load_cost_file(written(), "here.toml")


def test_the_exit_is_measured_with_its_spread() -> None:
    exits = loaded().costs.exit_ns
    assert isinstance(exits, Range)
    assert (exits.value, exits.low, exits.high) == (10_000, 9_200, 10_800)
    assert exits.source.startswith("measured here: p50, p10 and p90 of 101 batches of 40 exits")


def test_what_was_not_measured_is_carried_over_and_says_so() -> None:
    costs = loaded().costs
    for name, low, value, high in (
        ("call_ns", 673.4, 1712.1, 2078.4),
        ("redundant_call_ns", 673.4, 673.4, 673.4),
        ("guest_ns", 0, 2000, 4000),
    ):
        cost = getattr(costs, name)
        assert (cost.low, cost.value, cost.high) == (low, value, high)
        assert cost.source == "carried over from icx-2021-3p, range of icx-2021"
    assert (costs.lock_ns, costs.placement_ns) == (0, 0)


def test_the_text_tells_a_reader_which_costs_are_measured() -> None:
    comments = [line for line in written().splitlines() if line.startswith("#")]
    assert any("Measured on this machine: exit_ns" in line for line in comments)
    assert any("Carried over from icx-2021, not measured: call_ns" in line for line in comments)


def test_the_machine_is_in_the_file() -> None:
    file = loaded()
    assert file.name == "here"
    assert file.environment["cpu"] == 'a "quoted" \\ CPU'
    assert file.environment["cpus"] == 2
    assert file.environment["date"] == "2026-01-02T03:04:05Z"
    assert file.environment["bare_round_trip_p50_ns"] == 7_000


def spread(first: int) -> list[float]:
    """Values of 0 to 2,000 ns above ``first``, evenly spread."""
    return [first + 20.0 * n for n in range(101)]


def of_a_real_vm(*, perf: bool) -> str:
    real = RealCosts(
        exits=spread(50_000),
        calls=spread(5_000) if perf else (),
        redundant_calls=spread(4_000) if perf else (),
        facts={"kvm": "kvm_intel", "empty_exit_p50_ns": 4_000.0},
    )
    carried = models_named(["icx-2021"])
    environment = {"cpu": "a CPU"}
    return here_file(report(), carried, environment, date="2026-01-02", batch=40, real=real)


def test_a_real_vm_s_exits_and_calls_take_the_place_of_the_hand_over() -> None:
    file = load_cost_file(of_a_real_vm(perf=True), "here.toml")
    for name, value in (("exit_ns", 51_000), ("call_ns", 6_000), ("redundant_call_ns", 5_000)):
        cost = getattr(file.costs, name)
        assert (cost.low, cost.value, cost.high) == (value - 800, value, value + 800)
        assert cost.source.startswith("measured here: p50, p10 and p90 of 101 ")
    assert file.costs.guest_ns.source.startswith("carried over from icx-2021-3p")
    assert file.environment["handover_exit_p50_ns"] == 10_000
    assert file.environment["kvm"] == "kvm_intel"


def test_without_perf_events_its_calls_are_carried_over_still() -> None:
    text = of_a_real_vm(perf=False)
    file = load_cost_file(text, "here.toml")
    assert file.costs.exit_ns.value == 51_000
    assert file.costs.call_ns.source.startswith("carried over from icx-2021-3p")
    assert "# Measured on this machine: exit_ns. The exit is an RDMSR of a real VM's guest" in text
    assert "not measured: call_ns, redundant_call_ns, guest_ns, pmu_switch_ns." in text
