"""Page against trap: the same program and seed on both designs, exits and host work compared."""

from dataclasses import replace

from pvpmu.bench.vm import InlineVm, VmConfig
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import load_scenario
from pvpmu.shared.design import design_named
from pvpmu.shared.exits import ExitReason


def main() -> None:
    """Run a tenth of the 2021 workload on each design."""
    scenario = replace(load_scenario("br_instr"), duration_us=59_000)
    digests = set()
    for name in ("trap", "page"):
        vm = InlineVm(VmConfig(design=design_named(name), cpuid=scenario.cpuid))
        (report,) = vm.run([RunJob(scenario, seed=7)])
        (stats,) = vm.stats()
        counts = report.counts
        exits = sum(stats.exits.values()) - stats.exits.get(ExitReason.EXCEPTION_NMI, 0)
        digests.add(counts.samples_digest)
        print(
            f"{name:>5}: {counts.samples} samples, {counts.handlers} PMIs, {exits:,} exits "
            f"({exits / counts.handlers:.2f} per PMI), {stats.perf_calls:,} host perf calls"
        )
    print("the same samples" if len(digests) == 1 else "different samples")


if __name__ == "__main__":
    main()
