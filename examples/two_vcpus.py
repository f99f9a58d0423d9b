"""Two vCPUs as real processes: a host and a guest worker each, pinned, over shared memory."""

from dataclasses import replace

from pvpmu.bench.vm import VmConfig, process_vm
from pvpmu.guest.machine import RunJob
from pvpmu.guest.scenario import load_scenario, run_seed
from pvpmu.shared.design import design_named


def main() -> None:
    """Run different programs on both vCPUs at once; each has its own page and its own PMIs."""
    scenario = replace(load_scenario("br_instr"), duration_us=59_000)
    config = VmConfig(design=design_named("page"), cpuid=scenario.cpuid, vcpus=2)
    with process_vm(config) as vm:
        reports = vm.run([RunJob(scenario, run_seed(7, 0, vcpu)) for vcpu in range(2)])
        stats = vm.stats()
    for vcpu, (report, host) in enumerate(zip(reports, stats, strict=True)):
        print(
            f"vCPU {vcpu}: {report.counts.samples} samples, {sum(host.exits.values()):,} exits, "
            f"count error {max(map(abs, report.counts.count_error))}"
        )


if __name__ == "__main__":
    main()
