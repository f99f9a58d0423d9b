"""Tables, maps and lists: exact counts, and what is said of what is missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pvpmu.shared.errors import UsageError
from pvpmu.trace.names import READ, WRITE
from pvpmu.trace.reading import Trace
from pvpmu.trace.tables import (
    NOT_LISTED,
    Bpftrace,
    Kvmexit,
    KvmStat,
    Line,
    PerfKvmStat,
    PlainList,
    TableReader,
)

Reading = Callable[..., Trace]
Sample = Callable[[str], bytes]

MSR_TABLE = {
    (WRITE, 0x38F): 15822, (READ, 0x38E): 14558, (WRITE, 0x834): 7315, (WRITE, 0x390): 7250,
    (WRITE, 0xC1): 2922, (WRITE, 0x309): 2912, (WRITE, 0x30A): 2904, (READ, 0x38D): 2390,
    (WRITE, 0x38D): 2390, (WRITE, 0x186): 1195, (WRITE, 0x187): 1195, (WRITE, 0xC2): 976,
    (WRITE, 0x830): 618,
}  # fmt: skip


def fed(reader: TableReader, text: str) -> list[Line]:
    found = [reader.line(line) for line in text.splitlines()]
    reader.finish()
    return found


def test_perfs_msr_table_is_read_row_by_row(reading: Reading, sample: Sample) -> None:
    trace = reading(sample("perf_kvm_stat_msr_synthetic.txt"))
    assert (trace.format, dict(trace.counts.msr)) == ("perf-kvm-stat", MSR_TABLE)
    assert (trace.unknown.count, trace.notes) == (0, [])


def test_perfs_vmexit_table_is_read_row_by_row(reading: Reading, sample: Sample) -> None:
    trace = reading(sample("perf_kvm_stat_vmexit_synthetic.txt"))
    assert dict(trace.counts.exits) == {"MSR_WRITE": 45499, "MSR_READ": 16948, "RDPMC": 9710}
    assert (trace.unknown.count, trace.notes) == (0, [])


def test_both_tables_of_perf_may_follow_each_other(reading: Reading, sample: Sample) -> None:
    both = [sample(f"perf_kvm_stat_{table}_synthetic.txt") for table in ("vmexit", "msr")]
    counts = reading(b"".join(both)).counts
    assert (counts.rdpmc, dict(counts.msr)) == (9710, MSR_TABLE)


def test_later_perf_has_wider_columns_and_lines_in_between() -> None:
    reader = PerfKvmStat()
    found = fed(
        reader,
        "                   VM-EXIT    Samples  Samples%     Time%  Min Time  Max Time  Avg time\n"
        "                 MSR_WRITE         10    66.67%    70.00%    0.43us    4.57us    1.33us\n"
        "unknown kvm exit code:131072 on VMX\n"
        "                   UNKNOWN          5    33.33%    30.00%    0.43us    4.57us    1.33us\n"
        "\n"
        "Total Samples:15, Total events handled time:91998.13us.\n",
    )
    assert Line.UNKNOWN not in found
    assert (dict(reader.counts.exits), reader.notes) == ({"MSR_WRITE": 10, "UNKNOWN": 5}, [])


def test_a_perf_table_that_lacks_rows_is_noted() -> None:
    reader = PerfKvmStat()
    fed(reader, "  0x38f:W  10  50.00%  50.00%  1us  1us  1us\nTotal Samples:20, Total\n")
    assert "total says 20 samples, its rows 10" in reader.notes[0]
    cut = PerfKvmStat()
    fed(cut, "  0x38f:W  10  50.00%  50.00%  1us  1us  1us\n")
    assert "may be cut off" in cut.notes[0]


def test_port_and_mmio_tables_are_left_out_aloud() -> None:
    reader = PerfKvmStat()
    fed(reader, " IO Port Access  Samples\n  0x70:POUT  10  100.00%  100.00%  1us  1us  1us\n")
    assert (reader.counts.total, reader.notes[-1][:6]) == (0, "1 rows")


@pytest.mark.parametrize("name", ["kvm_stat.csv", "kvm_stat_batch.txt"])
def test_kvm_stats_intervals_add_up(reading: Reading, sample: Sample, name: str) -> None:
    trace = reading(sample(name))
    assert trace.format == "kvm-stat"
    assert trace.unknown.count == 0
    assert dict(trace.counts.exits) == {
        "EXCEPTION_NMI": 141, "MSR_READ": 401, "MSR_WRITE": 1001, "RDPMC": 181, NOT_LISTED: 286,
    }  # fmt: skip


def test_a_kvm_stat_log_repeats_its_headings(reading: Reading, sample: Sample) -> None:
    trace = reading(sample("kvm_stat.log"))
    assert (trace.counts.exits["MSR_WRITE"], trace.counts.total) == (1006, 2020)
    assert trace.unknown.count == 0
    assert "1,409 kvm_msr events without saying which MSR" in trace.notes[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exits nmi_window_exits\n2021-07-29 09:46:22  5  6\n", r"kvm_stat -t -f '\^kvm_exit'"),
        ("kvm_exit kvm_exit(M kvm_exit(M\n 5 6 7\n", "cut off .'kvm_exit.M'"),
    ],
)
def test_a_kvm_stat_log_that_tells_nothing_says_so(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        fed(KvmStat(), text)


def test_a_row_of_another_length_than_its_heading_is_not_understood() -> None:
    found = fed(KvmStat(), "kvm_exit kvm_exit(HLT)\n2021-07-29 09:46:22  5  6  7\n"
                "2021-07-29 09:46:23  5  6\n")  # fmt: skip
    assert found == [Line.DECORATION, Line.UNKNOWN, Line.DATA]


def test_bpftrace_maps_of_reasons_and_of_msrs(reading: Reading, sample: Sample) -> None:
    trace = reading(sample("bpftrace.txt"))
    assert (trace.format, trace.unknown.count) == ("bpftrace", 0)
    assert dict(trace.counts.exits) == {
        "EPT_VIOLATION": 2493, "RDPMC": 9710, "MSR_READ": 17009, "MSR_WRITE": 126301,
    }  # fmt: skip
    # Bare numbers are decimal: 390 is a selector here, not OVF_CTRL.
    assert dict(trace.counts.msr) == {
        (WRITE, 0x186): 12, (READ, 0x38E): 14558, (WRITE, 0x38F): 15822, (WRITE, 0x834): 7315,
    }  # fmt: skip


def test_bpftrace_maps_that_are_something_else() -> None:
    reader = Bpftrace()
    found = fed(reader, "@[swapper/0]: 5\n@total: 7\n@[CPU 0/KVM, 12]: 3\n@[CPU 0/KVM, 12]: 4\n")
    assert found == [Line.UNKNOWN, Line.UNKNOWN, Line.DATA, Line.DATA]
    assert reader.counts.exits == {"HLT": 7}
    assert "came more than once" in reader.notes[0]


def test_kvmexit_sums_over_threads(reading: Reading, sample: Sample) -> None:
    trace = reading(sample("kvmexit.txt"))
    assert trace.format == "kvmexit"
    assert trace.unknown.count == 0
    assert dict(trace.counts.exits) == {
        "MSR_WRITE": 6, "EXTERNAL_INTERRUPT": 1, "HLT": 12, "RDPMC": 3,
    }  # fmt: skip
    assert fed(Kvmexit(), "some words\n") == [Line.UNKNOWN]


def test_the_2021_mails_two_lists(reading: Reading, sample: Sample) -> None:
    trace = reading(sample("mail_2021.txt"))
    counts = trace.counts
    assert trace.format == "list"
    assert [text for _, text in trace.unknown.examples] == [
        "A typical vm-exit trace is as follows:",
        "including the following kvm_msr trace:",
    ]
    assert (counts.total, counts.msr_exits, counts.listed) == (311720, 143310, 62447)
    assert counts.unlisted == {"MSR_WRITE": 80802, "MSR_READ": 61}
    assert counts.msr[WRITE, 0x4C1] == 2922
    assert counts.exits["EXTERNAL_INTERRUPT"] == 146820


@pytest.mark.parametrize(
    "line",
    ["15,822 msr_write, MSR_CORE_PERF_GLOBAL_CTRL", "  15822 msr_write 38f = 0x0",
     "msr_write MSR_CORE_PERF_GLOBAL_CTRL: 15822", "15822 wrmsr IA32_PERF_GLOBAL_CTRL"],
)  # fmt: skip
def test_lists_are_written_in_many_ways(line: str) -> None:
    reader = PlainList()
    assert fed(reader, line) == [Line.DATA]
    assert reader.counts.msr == {(WRITE, 0x38F): 15822}


def test_lists_of_amds_names_unnamed_msrs_and_repetitions() -> None:
    reader = PlainList()
    found = fed(reader, "126 msr\n5 npf\nNPF 6\n3 msr_read, MSR_FOO\npause 3\n12 monkeys\n")
    assert found == [Line.DATA] * 4 + [Line.UNKNOWN] * 2
    assert reader.counts.exits == {"MSR": 126, "NPF": 11}
    assert reader.counts.unnamed == {(READ, "MSR_FOO"): 3}
    assert reader.notes == ["listed more than once, and added: NPF"]
