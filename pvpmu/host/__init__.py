"""The host: silicon, host perf, KVM's vPMU, PMI delivery and the page's host half."""
