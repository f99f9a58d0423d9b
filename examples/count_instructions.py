"""Count instructions and cycles of a program: counting mode, no sampling, one design inline."""

from pvpmu.bench.vm import InlineVm, VmConfig
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import Rates, Scenario, ScenarioEvent
from pvpmu.shared.design import design_named

scenario = Scenario(
    name="count",
    summary="two counters over 20 ms of guest clock",
    duration_us=20_000,
    events=(ScenarioEvent(name="instructions"), ScenarioEvent(name="cpu-cycles")),
    workload=Rates(
        per_second={"instructions": 4_000_000_000},
        phase_ms_min=2,
        phase_ms_max=8,
        spread_permille=100,
        phases=8,
    ),
)


def main() -> None:
    """Run it on the page design and print counts beside the truth."""
    vm = InlineVm(VmConfig(design=design_named("page"), cpuid=scenario.cpuid))
    (report,) = vm.run([RunJob(scenario, seed=7)])
    counts = report.counts
    for event, count, error in zip(scenario.events, counts.count, counts.count_error, strict=True):
        print(f"{count:>12,}  {event.name}  (error {error})")
    instructions, cycles = counts.count
    print(f"{instructions / cycles:>12.2f}  instructions per cycle")
    print(f"{counts.handlers:>12,}  PMIs")


if __name__ == "__main__":
    main()
