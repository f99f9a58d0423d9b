"""Words for the numbers of a recording."""

from pvpmu.recording import names
from pvpmu.recording.format import NO_KIND, Op


def test_exits_and_accesses_say_what_they_were_for() -> None:
    assert names.exit_label(32, 0x38F) == "MSR_WRITE MSR_CORE_PERF_GLOBAL_CTRL"
    assert names.exit_label(15, 1 << 30) == "RDPMC 0x40000000"
    assert names.exit_label(10, 0xA) == "CPUID 0xa"
    assert names.exit_label(0, 0) == "EXCEPTION_NMI"
    assert names.access_label(Op.RDMSR, 0x38E) == "rdmsr MSR_CORE_PERF_GLOBAL_STATUS"
    assert names.access_label(Op.RDPMC, 1) == "rdpmc 0x1"


def test_host_events_are_named_by_what_they_count() -> None:
    assert names.event_name(4) == "cache-misses"
    assert names.event_name(NO_KIND) is None
    assert names.event_name(99) is None
