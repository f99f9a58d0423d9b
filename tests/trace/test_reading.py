"""Any input: its format is found, what is wrong with it is one line."""

from __future__ import annotations

import contextlib
import gzip
import io
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pvpmu.shared.errors import UsageError
from pvpmu.trace.reading import FORMATS, Trace, format_of, printable, read_trace
from pvpmu.trace.source import MAX_LINE, Source

Reading = Callable[..., Trace]
Sample = Callable[[str], bytes]

FORMAT_OF = {
    "ftrace_trace_real.txt": "events",
    "perf_script_real.txt": "events",
    "perf_script_synthetic.txt": "events",
    "tep_noplugin_kvm_exit.txt": "events",
    "tep_plugin_kvm_exit.txt": "events",
    "tracecmd_report_real.txt": "events",
    "tracecmd_report_l_real.txt": "events",
    "tracecmd_report_R_real.txt": "events",
    "perf_kvm_stat_msr_synthetic.txt": "perf-kvm-stat",
    "perf_kvm_stat_vmexit_synthetic.txt": "perf-kvm-stat",
    "kvm_stat.csv": "kvm-stat",
    "kvm_stat.log": "kvm-stat",
    "kvm_stat_batch.txt": "kvm-stat",
    "bpftrace.txt": "bpftrace",
    "kvmexit.txt": "kvmexit",
    "mail_2021.txt": "list",
}


def test_every_format_has_a_sample() -> None:
    assert set(FORMAT_OF.values()) == set(FORMATS)


@pytest.mark.parametrize("name", sorted(FORMAT_OF))
def test_the_format_is_found_out(name: str, reading: Reading, sample: Sample) -> None:
    data = sample(name)
    found = reading(data)
    assert found.format == FORMAT_OF[name]
    assert found.lines == len(data.splitlines())
    assert (found.events is not None) is (found.format == "events")


@pytest.mark.parametrize("name", sorted(FORMAT_OF))
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_input_gives_the_same(
    name: str, pack: Callable[[bytes], bytes], reading: Reading, sample: Sample
) -> None:
    data = sample(name)
    assert reading(pack(data)).counts == reading(data).counts


def test_the_format_is_found_behind_a_long_head(reading: Reading, sample: Sample) -> None:
    head = b"# a heading\n" * 1500
    assert reading(head + sample("tracecmd_report_real.txt")).format == "events"
    with pytest.raises(UsageError, match="no line of a known format in the first 2,000 lines"):
        reading(head * 2 + sample("tracecmd_report_real.txt"))


def test_a_format_that_is_given_is_not_questioned(reading: Reading, sample: Sample) -> None:
    both = sample("perf_kvm_stat_msr_synthetic.txt") + sample("mail_2021.txt")
    assert reading(both, wanted="list").counts.total == 311720
    with pytest.raises(UsageError, match=r"^some.txt: no line of format bpftrace in 51 lines"):
        reading(both, wanted="bpftrace")


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ("perf_kvm_stat_msr_synthetic.txt", "mail_2021.txt", "perf-kvm-stat .line 7. and list"),
        ("tracecmd_report_real.txt", "kvmexit.txt", "events .line 2. and kvmexit"),
        ("tracecmd_report_real.txt", "perf_script_real.txt",
         "tools: perf script .line 26. and trace-cmd or ftrace .line 2."),
    ],
)  # fmt: skip
def test_two_formats_in_one_input_are_one_error(
    one: str, other: str, says: str, reading: Reading, sample: Sample
) -> None:
    with pytest.raises(UsageError, match=f"^some.txt: lines of two.*{says}"):
        reading(sample(one) + sample(other))


def test_another_format_is_noticed_also_after_the_head(reading: Reading, sample: Sample) -> None:
    many = sample("tracecmd_report_real.txt") * 400
    with pytest.raises(UsageError, match=r"two formats: events .line 2. and perf-kvm-stat"):
        reading(many + sample("perf_kvm_stat_msr_synthetic.txt"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\n\n\n", "no line of a known format in the first 3 lines; first: ''"),
        (b"# tracer: nop\n#\n", "first: '# tracer: nop'"),
        (b"hello\nworld\n", "first: 'hello'; known: events, perf-kvm-stat"),
        (b"x" * (MAX_LINE + 10), "line 1 is longer than 16,384 bytes"),
    ],
)
def test_input_that_is_no_trace_is_refused(data: bytes, says: str, reading: Reading) -> None:
    with pytest.raises(UsageError, match=f"^some.txt: .*{says}"):
        reading(data)


def test_lines_not_understood_are_counted_and_the_first_shown(
    reading: Reading, sample: Sample
) -> None:
    lines = sample("tracecmd_report_real.txt").splitlines(keepends=True)
    lines[3:3] = [b"\x1b[31mred \x07\n", b"y" * 500 + b"\n", *[b"more\n"] * 5]
    trace = reading(b"".join(lines))
    assert trace.unknown.count == 7
    assert [number for number, _ in trace.unknown.examples] == [4, 5, 6, 7, 8]
    assert trace.unknown.examples[0][1] == "\ufffd[31mred \ufffd"
    assert len(trace.unknown.examples[1][1]) == 120


def test_a_cut_off_trace_gives_what_it_has_with_a_note(
    short_runs: list[Any], render: Callable[..., bytes], reading: Reading
) -> None:
    whole = render(short_runs)
    trace = reading(whole[: len(whole) // 2])
    assert "ends in the middle of a line" in trace.notes[0]
    packed = gzip.compress(whole)
    assert "the middle of gzip data" in reading(packed[: len(packed) // 2]).notes[0]
    assert reading(whole).notes == []


def test_a_gigantic_line_in_the_middle_is_one_line_not_understood(
    sample: Sample, reading: Reading
) -> None:
    data = sample("tracecmd_report_real.txt")
    trace = reading(data + b"z" * (MAX_LINE * 3) + b"\n" + data.removeprefix(b"cpus=2\n"))
    assert (trace.unknown.count, trace.lines) == (1, 50)
    assert trace.notes == ["lines longer than 16,384 bytes: 1"]
    assert trace.counts.listed == 26


def test_progress_is_told_in_bytes_read(sample: Sample, reading: Reading) -> None:
    data = sample("tracecmd_report_real.txt")
    told: list[int] = []
    reading(data, on_progress=told.append)
    assert told[-1] == len(data)


LONG = b"9" * 5000
_PIECES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b" CPU 0/KVM-42 [002] d.... 1.000001: kvm_exit: reason ", b"kvm_msr: ", LONG,
                     b"msr_write 38f = 0x", b"write=1 ecx=390 data=", b"@[write, 0x38f]: ", b"\n",
                     b" 0x38f:W 5 10.00% 10.00% 1us\n", b"5 MSR_WRITE\n", b"kvm_exit(HLT) 5 6\n"]),
)  # fmt: skip


@given(st.lists(_PIECES, max_size=30))
@settings(max_examples=200)
def test_any_bytes_are_a_trace_or_one_error(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    said: list[str] = []
    try:
        trace = read_trace(Source("some", io.BytesIO(data), len(data)))
        said = [text for _, text in trace.unknown.examples]
        assert trace.unknown.count <= trace.lines
    except UsageError as error:
        said = [str(error)]
    assert "".join(said).isprintable()


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.lists(_PIECES, max_size=10).map(b"".join))
@settings(max_examples=40)
def test_any_bytes_are_readable_as_any_format(name: str, data: bytes) -> None:
    with contextlib.suppress(UsageError):
        read_trace(Source("some", io.BytesIO(data), len(data)), wanted=name)


@pytest.mark.parametrize(
    "line",
    [b" x-1 [000] ..... 951.000001: kvm_exit: reason R%d rip 0x1\n",
     b" x-1 [000] ..... 951.000001: kvm_msr: msr_write %x = 0x1\n",
     b" x-1 [000] ..... 951.000001: event%d: something\n",
     b"5 msr_write, MSR_NAME_%d\n", b"@m[write, %d]: 5\n",
     b"  REASON%d  5  1.00%%  1.00%%  1us\n"],
)  # fmt: skip
def test_names_and_addresses_without_end_take_no_memory_without_end(
    line: bytes, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("counts._MOST", "events._MAX_EVENTS", "events._MAX_BODIES", "tables._LABELS"):
        monkeypatch.setattr(f"pvpmu.trace.{limit}", 64)

    def kept(number: int) -> int:
        data = b"".join(line % n for n in range(number))
        tracemalloc.start()
        trace = reading(data)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        events = trace.events.events if trace.events else {}
        assert trace.counts.total or sum(events.values()) == number
        return size

    kept(10)
    assert kept(2000) < kept(500) + 8 * 1024


def test_nothing_shown_moves_a_cursor() -> None:
    assert printable(b"a\tb\x1b[2J\xff") == "a\ufffdb\ufffd[2J\ufffd"
    assert format_of([]) is None


@pytest.mark.parametrize("before", ["", "48422.137358: ", " CPU 0/KVM 14951 [000]  ", "[000] "])
def test_perf_script_without_what_tells_threads_apart_says_what_to_print(
    before: str, reading: Reading
) -> None:
    with pytest.raises(UsageError, match=r"expected at least perf script -F tid,time,event,trace"):
        reading(f"{before}kvm:kvm_msr: msr_read 10 = 0x1f5\n".encode())


def test_one_number_for_several_vcpus_is_noted(reading: Reading) -> None:
    text = "".join(
        f"4241 828.31586{vcpu}: kvm:kvm_exit: vcpu {vcpu} reason RDPMC rip 0x1\n"
        for vcpu in range(2)
    )
    (note,) = reading(text.encode()).notes
    assert note.startswith("exits of several vCPUs under one thread id (4241)")


def test_a_trace_that_stands_there_twice_is_noted(
    short_runs: Any, render: Callable[..., bytes], reading: Reading
) -> None:
    text = render(short_runs)
    assert reading(text).notes == []
    (note,) = reading(text + text).notes
    assert note.startswith("time goes back within a thread 2 times")


def test_a_second_with_more_digits_is_later(reading: Reading) -> None:
    text = "".join(
        f" x 7 [000] {stamp}: kvm:kvm_exit: vcpu 0 reason HLT rip 0x1\n"
        for stamp in ("999.999999", "1000.000001")
    )
    assert reading(text.encode()).notes == []


@pytest.mark.parametrize(
    "at", ["[002] d....   951009747", "[002]   951009747", "  2d..1.  951009747"]
)
def test_a_clock_that_counts_cycles_is_refused_with_the_one_to_take(
    at: str, reading: Reading
) -> None:
    with pytest.raises(UsageError, match=r"time stamps that are no seconds.*-C mono"):
        reading(f" CPU 0/KVM-4242 {at}: kvm_exit: reason HLT\n".encode())
