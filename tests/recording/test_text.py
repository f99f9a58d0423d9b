"""Text as the kernel's tools print it, which whatif reads with the same counts."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest

from pvpmu.recording.format import Kind, Record
from pvpmu.recording.reader import LOST, Stream, merged
from pvpmu.recording.samples import guests_of, samples
from pvpmu.recording.text import ftrace, ftrace_guest, perf_script, perf_script_samples
from pvpmu.shared.design import design_named
from pvpmu.shared.exits import reason_name
from pvpmu.trace.analysis import analyse
from pvpmu.trace.names import READ, WRITE
from pvpmu.trace.reading import Trace, read_trace
from pvpmu.trace.source import Source

WRITERS = {"ftrace": ftrace, "perf-script": perf_script}
STREAM = Stream(0, "host", 1, {"pid": 4000}, -1)


def text_of(run: Any, name: str) -> str:
    with run.open() as recording:
        hosts = [stream for stream in recording.streams if stream.side == "host"]
        return "".join(WRITERS[name](merged(hosts)))


def read(text: str) -> Trace:
    return read_trace(Source("text", io.BytesIO(text.encode()), None))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("which", ["trap_run", "page_run"])
def test_whatif_reads_exactly_what_the_run_counted(
    request: pytest.FixtureRequest, name: str, which: str
) -> None:
    run = request.getfixturevalue(which)
    trace = read(text_of(run, name))
    assert trace.format == "events"
    assert trace.unknown.count == 0
    exits: Counter[str] = Counter()
    msrs: Counter[tuple[int, int]] = Counter()
    for stats in run.stats:
        for reason, count in stats.exits.items():
            exits[reason_name(reason)] += count
        for reason, address, count in stats.accesses:
            if reason in (31, 32):
                msrs[WRITE if reason == 32 else READ, address] += count
    assert trace.counts.exits == exits
    assert trace.counts.msr == msrs
    assert not trace.counts.faults
    assert trace.events is not None
    vcpus = {thread.vcpu for thread in trace.events.threads.values()}
    assert vcpus == set(range(len(vcpus)))


def test_operations_come_back_as_the_guest_did_them(trap_run: Any) -> None:
    trace = read(text_of(trap_run, "ftrace"))
    assert trace.events is not None
    counts = trap_run.reports[0].counts
    assert trace.events.events["kvm_exit"] == sum(trap_run.stats[0].exits.values())
    assert trace.events.events["kvm_entry"] == trace.events.events["kvm_exit"] + 1
    assert trace.events.handler_ns.count == counts.handlers
    trap, page = design_named("trap"), design_named("page")
    answers = analyse(trace, [trap, page], trap).answers
    operations = {kind: done.count for kind, done in answers[0].operations.items()}
    assert operations == {
        "pmi": counts.acks,
        "pmi_spurious": counts.spurious,
        "tick": counts.ticks,
        "sched_in": counts.sched_in,
        "sched_out": counts.sched_out,
    }
    assert answers[0].attributed == sum(trap_run.reports[0].recorded.exits.values())
    assert answers[1].attributed < answers[0].attributed


def test_lines_look_as_those_of_the_tools_do(trap_run: Any) -> None:
    lines = text_of(trap_run, "ftrace").splitlines()
    assert lines[0] == "# tracer: nop"
    exits = [line for line in lines if "kvm_exit" in line]
    assert " d.... " in exits[0]
    assert "       CPU 0/KVM-" in exits[0]
    assert exits[0].endswith(
        "kvm_exit: vcpu 0 reason MSR_WRITE rip 0x0 info1 0x0000000000000000 info2 "
        "0x0000000000000000 intr_info 0x00000000 error_code 0x00000000 requests "
        "0x0000000000000000"
    )
    script = text_of(trap_run, "perf-script").splitlines()
    assert any(line.endswith(":   kvm:kvm_msr: msr_write 38f = 0x0") for line in script)


@pytest.mark.parametrize("name", WRITERS)
def test_losses_stand_in_the_text_and_whatif_sees_them(trap_run: Any, name: str) -> None:
    text = text_of(trap_run, name)
    lost = Record(10**9, 0, 0, LOST, 0, 0, 0, 12, 0)
    assert read(text + "".join(WRITERS[name]([(STREAM, lost)]))).events.lost == 1  # type: ignore[union-attr]


def test_a_reason_without_a_name_is_written_as_a_number() -> None:
    odd = Record(1, 0, 0, Kind.EXIT, 77 + 100, 0, 0, 0, 0)
    assert "reason VMX_EXIT_177 " in "".join(perf_script([(STREAM, odd)]))


def test_samples_are_in_order_of_the_guest_clock(page_run: Any) -> None:
    with page_run.open() as recording:
        guests = guests_of(recording.streams)
        lines = list(perf_script_samples(samples(guests), guests))
    assert len(lines) == sum(report.counts.samples for report in page_run.reports)
    stamps = [float(line.partition("] ")[2].partition(":")[0]) for line in lines]
    assert stamps == sorted(stamps)
    # Two runs of 20 ms.
    assert 0.02 < stamps[-1] <= 0.04
    assert " [unknown] (br_instr)\n" in lines[0]


def test_a_trace_in_the_guest_shows_every_access_wherever_it_went(page_run: Any) -> None:
    with page_run.open() as recording:
        guests = guests_of(recording.streams)
        lines = list(ftrace_guest(merged(guests)))
    events = Counter(line.split(": ")[1] for line in lines[1:])
    counted: Counter[str] = Counter()
    names = {"rdmsr": "read_msr", "wrmsr": "write_msr", "rdpmc": "rdpmc"}
    for report in page_run.reports:
        for (op, _), count in report.recorded.accesses.items():
            counted[names[op]] += count
    assert events == counted
    assert any(line.endswith(" write_msr: 38f, value 0\n") for line in lines)
    assert sum(sum(stats.exits.values()) for stats in page_run.stats) < sum(events.values())
