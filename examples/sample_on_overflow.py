"""Sample on overflow: every 100,000 branches one PMI, one sample, and where the program was."""

from collections import Counter

from pvpmu.bench.vm import InlineVm, VmConfig
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import Rates, Scenario, ScenarioEvent
from pvpmu.shared.design import design_named

PERIOD = 100_000
scenario = Scenario(
    name="sample",
    summary="a fixed sampling period on one event",
    duration_us=20_000,
    max_sample_rate=100_000,
    events=(ScenarioEvent(name="branch-instructions", period=PERIOD),),
    workload=Rates(
        per_second={"instructions": 4_000_000_000, "branch-instructions": 800_000_000},
        phase_ms_min=2,
        phase_ms_max=8,
        spread_permille=300,
        phases=4,
    ),
)


def main() -> None:
    """Run it, keep the samples, and print a histogram of the program's phases."""
    vm = InlineVm(VmConfig(design=design_named("page"), cpuid=scenario.cpuid))
    (report,) = vm.run([RunJob(scenario, seed=7, sample_capacity=10_000)])
    samples = report.samples
    print(f"{len(samples)} samples, one every {PERIOD:,} branches")
    for page, many in sorted(Counter(sample.ip >> 12 for sample in samples).items()):
        print(f"  {page << 12:#x}  {'#' * (many * 60 // len(samples))} {many}")
    first = samples[0]
    print(f"first: {first.time:,} ns, ip {first.ip:#x}, count {first.event_count:,}")


if __name__ == "__main__":
    main()
