"""The guest: workload, perf core, PMU driver and the MSR seam."""
