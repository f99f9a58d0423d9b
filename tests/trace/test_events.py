"""Event lines of every tool: threads, exits, MSR accesses, and the lines that are none."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.shared.exits import ExitReason
from pvpmu.trace.events import EventReader
from pvpmu.trace.names import READ, WRITE

EventsOf = Callable[[bytes], EventReader]
Sample = Callable[[str], bytes]

STYLES = (
    "perf-script", "perf-script-ns", "perf-script-pid-tid", "ftrace", "ftrace-tgid", "trace-cmd",
    "trace-cmd-flags", "trace-cmd-l", "trace-cmd-t", "trace-cmd-R", "perf-script-no-cpu",
    "perf-script-tid-time", "perf-script-period", "perf-script-ip-sym", "perf-script-dso",
    "perf-script-g",
)  # fmt: skip
KINDS = {"pmi": 27, "pmi_spurious": 2, "tick": 5, "sched_in": 3, "sched_out": 2}
AT = "       CPU 0/KVM-4242    [002] d....   951.009747: "


def odd_lines(text: bytes) -> tuple[EventReader, list[int]]:
    reader = EventReader()
    odd: list[int] = []
    reader.on_odd = lambda number, _: odd.append(number)
    reader.feed(text)
    reader.finish()
    return reader, odd


def one(body: str, events_of: EventsOf) -> EventReader:
    return events_of((AT + body + "\n").encode())


@pytest.mark.parametrize("style", STYLES)
def test_every_tools_text_gives_the_run_that_it_is_of(
    style: str, short_runs: list[Any], render: Callable[..., bytes]
) -> None:
    reader, odd = odd_lines(render(short_runs, style))
    assert odd == []
    reasons = Counter(one.reason.name for run in short_runs for one in run)
    assert reader.counts.exits == reasons
    accesses = Counter(
        (WRITE if one.reason is ExitReason.MSR_WRITE else READ, one.address)
        for run in short_runs
        for one in run
        if one.reason in (ExitReason.MSR_READ, ExitReason.MSR_WRITE)
    )
    assert reader.counts.msr == accesses
    assert [thread.tracker.kinds for thread in reader.threads.values()] == [KINDS, KINDS]
    comms = ("", "") if style == "perf-script-tid-time" else ("CPU 0/KVM", "CPU 1/KVM")
    assert [(t.tid, t.vcpu, t.comm) for t in reader.threads.values()] == [
        (4242, 0, comms[0]), (4243, 1, comms[1]),
    ]  # fmt: skip
    assert not any(thread.several for thread in reader.threads.values())
    assert not reader.shapes.left_over
    assert reader.handler_ns.count == 58


def test_one_text_of_two_vcpus_in_any_order_gives_each_its_own(
    short_runs: list[Any], render: Callable[..., bytes], events_of: EventsOf
) -> None:
    for seed in (1, 2, 3):
        reader = events_of(render(short_runs, seed=seed))
        assert [t.tracker.kinds for t in reader.threads.values()] == [KINDS, KINDS], seed


@pytest.mark.parametrize(
    ("name", "msr", "faults", "style"),
    [
        ("ftrace_trace_real.txt", {(READ, 0x10): 3, (READ, 0xC1): 2, (WRITE, 0x186): 2,
                                   (WRITE, 0x174): 2}, 3, "dash"),
        ("tracecmd_report_real.txt", {(READ, 0x10): 3, (READ, 0xC1): 2, (WRITE, 0x186): 2}, 3,
         "dash"),
        ("tracecmd_report_l_real.txt", {(READ, 0x10): 3, (READ, 0xC1): 2, (WRITE, 0x186): 2}, 3,
         "dash"),
        ("tracecmd_report_R_real.txt", {(READ, 0x10): 3, (READ, 0xC1): 2, (WRITE, 0x186): 2}, 3,
         "dash"),
        ("perf_script_real.txt", {(READ, 0x10): 12}, 0, "space"),
    ],
)  # fmt: skip
def test_real_output_is_understood_line_by_line(
    name: str, msr: dict[Any, int], faults: int, style: str, sample: Sample
) -> None:
    reader, odd = odd_lines(sample(name))
    assert odd == []
    assert dict(reader.counts.msr) == msr
    # Accesses that faulted trap in any design: they are apart.
    expected = {(READ, 0x38E): faults, (WRITE, 0x38F): faults} if faults else {}
    assert dict(reader.counts.faults) == expected
    assert list(reader.styles) == [style]


def test_the_synthetic_perf_script_gives_its_exact_counts(
    sample: Sample, events_of: EventsOf
) -> None:
    reader = events_of(sample("perf_script_synthetic.txt"))
    assert reader.events == {"kvm_entry": 134, "kvm_exit": 133, "kvm_msr": 133}
    assert reader.counts.exits == {"MSR_WRITE": 98, "MSR_READ": 35}
    assert dict(reader.counts.msr) == {
        (WRITE, 0x38F): 37, (READ, 0x38E): 32, (WRITE, 0x390): 20, (WRITE, 0x834): 16,
        (WRITE, 0x38D): 6, (WRITE, 0x309): 4, (WRITE, 0xC1): 4, (WRITE, 0x30A): 4,
        (READ, 0x38D): 3, (WRITE, 0x830): 3, (WRITE, 0x187): 2, (WRITE, 0x186): 1,
        (WRITE, 0xC2): 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["tep_plugin_kvm_exit.txt", "tep_noplugin_kvm_exit.txt"])
def test_exits_with_and_without_a_vcpu_number_have_the_same_names(
    name: str, sample: Sample, events_of: EventsOf
) -> None:
    exits = events_of(sample(name)).counts.exits
    assert exits == dict.fromkeys(
        ("MSR_WRITE", "MSR_READ", "RDPMC", "EXCEPTION_NMI", "EXTERNAL_INTERRUPT", "EPT_VIOLATION",
         "VMCALL", "CPUID", "NMI_WINDOW", "MSR"), 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "access", "fault"),
    [
        ("kvm_msr: msr_write 38f = 0x70000000f", (WRITE, 0x38F), False),
        ("kvm_msr: msr_write 38f = 0x70000000f (#GP)", (WRITE, 0x38F), True),
        ("kvm_msr:              write=1 ecx=390 data=0xf exception=0", (WRITE, 0x390), False),
        ("kvm_msr:              write=0 ecx=0x38e data=0x0 exception=1", (READ, 0x38E), True),
        # The fallback of a library that fails to parse prints integers in decimal.
        ("kvm_msr: [FAILED TO PARSE] write=1 ecx=390 data=15 exception=0", (WRITE, 0x186), False),
    ],
)
def test_one_access_in_each_of_its_texts(
    body: str, access: tuple[int, int], fault: bool, events_of: EventsOf
) -> None:
    counts = one(body, events_of).counts
    assert (counts.faults if fault else counts.msr) == {access: 1}
    assert (counts.msr if fault else counts.faults) == {}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("kvm_exit: reason MSR_WRITE rip 0xffffffff8106f3a4 info 0 0", "MSR_WRITE"),
        ("kvm_exit: reason HLT", "HLT"),
        ("kvm_exit: vcpu 0 reason npf rip 0x1 info1 0x0", "NPF"),
        ("kvm_exit: reason EXIT_MSR rip 0xffffffff8106f3ad info 1 0", "MSR"),
        ("kvm_exit: reason UNKNOWN (67) rip 0x1 info 0 0", "UMWAIT"),
        ("kvm_exit: reason UNKNOWN (200) rip 0x1 info 0 0", "VMX_EXIT_200"),
        ("kvm_exit: exit_reason=32 guest_rip=0x1 isa=1 info1=0", "MSR_WRITE"),
        ("kvm_exit: [FAILED TO PARSE] exit_reason=124 guest_rip=0x1 isa=2 info1=0", "MSR"),
        ("kvm_exit: exit_reason=0x8000001f guest_rip=0x1 isa=1", "MSR_READ"),
        ("kvm_exit: exit_reason=MSR_READ guest_rip=0x1 isa=1", "MSR_READ"),
    ],
)
def test_one_exit_in_each_of_its_texts(body: str, reason: str, events_of: EventsOf) -> None:
    assert one(body, events_of).counts.exits == {reason: 1}


def test_rdpmc_is_an_access_under_each_of_its_names(events_of: EventsOf) -> None:
    names = ("RDPMC", "rdpmc", "EXIT_RDPMC", "EXIT_REASON_RDPMC", "RdPmc")
    text = "".join(AT + f"kvm_exit: reason {name} rip 0x1\n" for name in names)
    reader = events_of(text.encode())
    assert reader.counts.rdpmc == len(names)
    assert sum(reader.shapes.left_over.values()) == len(names)


def test_other_events_are_counted_by_name(events_of: EventsOf) -> None:
    text = AT + "kvm_apic_accept_irq: apicid 0 vec 0 (NMI|edge)\n" + AT + "sched_switch: a: b\n"
    assert events_of(text.encode()).events == {"kvm_apic_accept_irq": 1, "sched_switch": 1}


def test_a_command_with_a_colon_is_still_a_command(events_of: EventsOf) -> None:
    text = b"   odd: name 3-17 [001] d..1. 951.009747: kvm_exit: reason HLT rip 0x1\n" * 2
    reader = events_of(text)
    assert reader.counts.exits == {"HLT": 2}
    assert [(t.tid, t.comm, t.vcpu) for t in reader.threads.values()] == [(17, "odd: name 3", None)]


def test_lines_that_are_no_events_are_told_and_the_others_go_on(
    short_runs: list[Any], render: Callable[..., bytes]
) -> None:
    lines = render(short_runs[:1]).splitlines(keepends=True)
    lines[100:100] = [b"garbage\n", b"# a comment\n", b"\n", b"\xff\xfe\x00\n",
                      b" x 1 [000] 1.000000: kvm:kvm_msr: msr_write zz = 0x1\n"]  # fmt: skip
    reader, odd = odd_lines(b"".join(lines))
    assert odd == [101, 104, 105]
    assert reader.lines == len(lines)
    assert next(iter(reader.threads.values())).tracker.kinds == KINDS


@pytest.mark.parametrize(
    "note",
    [
        b"CPU:2 [LOST 117 EVENTS]\n",
        b"CPU:0 [EVENTS DROPPED]\n",
        b"CPU:1 [5 EVENTS DROPPED]\n",
        b"       CPU 0/KVM  4242 [000]   951.000012: PERF_RECORD_LOST lost 17\n",
    ],
)
def test_lost_events_end_what_was_under_way(
    note: bytes, short_runs: list[Any], render: Callable[..., bytes]
) -> None:
    lines = render(short_runs[:1]).splitlines(keepends=True)
    # In the middle of the first sched-in.
    lines.insert(20, note)
    reader, odd = odd_lines(b"".join(lines))
    assert (reader.lost, odd) == (1, [])
    assert sum(reader.shapes.left_over.values()) == 13
    assert next(iter(reader.threads.values())).tracker.kinds == {**KINDS, "sched_in": 2}


def test_lines_may_end_as_on_windows(
    short_runs: list[Any], render: Callable[..., bytes], events_of: EventsOf
) -> None:
    text = render(short_runs)
    assert events_of(text.replace(b"\n", b"\r\n")).counts == events_of(text).counts


def test_time_goes_from_the_first_event_to_the_last(events_of: EventsOf) -> None:
    text = "".join(
        AT.replace("951.009747", stamp) + "kvm_exit: reason HLT rip 0x1\n"
        for stamp in ("951.000000", "953.000001500")
    )
    assert events_of(text.encode()).duration_ns == 2_000_001_500
    assert events_of(b"").duration_ns == 0


def test_memory_does_not_grow_with_the_length_of_a_trace(
    short_runs: list[Any], render: Callable[..., bytes]
) -> None:
    text = render(short_runs)

    def kept(turns: int) -> int:
        tracemalloc.start()
        reader = EventReader()
        for _ in range(turns):
            reader.feed(text)
        reader.finish()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert reader.counts.total == turns * sum(map(len, short_runs))
        return size

    kept(1)
    assert kept(12) - kept(3) < 16 * 1024


def test_many_threads_values_and_names_are_bounded(
    monkeypatch: pytest.MonkeyPatch, events_of: EventsOf
) -> None:
    for limit in ("_MAX_PREFIXES", "_MAX_THREADS", "_MAX_EVENTS", "_MAX_BODIES"):
        monkeypatch.setattr(f"pvpmu.trace.events.{limit}", 4)
    text = "".join(
        f" x-{1000 + n} [{n % 3:03d}] ..... 951.{n:06d}: kvm_msr: msr_write 38f = {n:#x}\n"
        f" x-{1000 + n} [{n % 3:03d}] ..... 951.{n:06d}: event{n}: something\n"
        for n in range(40)
    )
    reader = events_of(text.encode())
    assert reader.counts.msr == {(WRITE, 0x38F): 40}
    assert reader.ignored_threads
    assert len(reader.threads) == 5


@pytest.mark.parametrize("indent", ["", " ", "    "])
def test_a_line_without_a_command_is_an_event(indent: str, events_of: EventsOf) -> None:
    line = f"{indent}4242 [000]   828.315862: kvm:kvm_exit: vcpu 3 reason RDPMC rip 0x1\n"
    reader = events_of(line.encode())
    (thread,) = reader.threads.values()
    assert (thread.tid, thread.comm, thread.vcpu) == (4242, "", 3)
    assert reader.counts.exits == {"RDPMC": 1}


@pytest.mark.parametrize("stamp", ["951.0097]0", "951.00.1", "x", "9" * 5000, "951.-1"])
def test_a_line_whose_time_is_none_is_not_understood(stamp: str) -> None:
    body = "kvm_exit: vcpu 0 reason RDPMC rip 0x1\n"
    damaged = AT.replace("951.009747", stamp) + body
    reader, odd = odd_lines((AT + body + damaged).encode())
    assert odd == [2]
    assert reader.counts.exits == {"RDPMC": 1}
    assert reader.duration_ns == 0


@pytest.mark.parametrize("name", ["tracecmd_report_R_real.txt", "perf_script_synthetic.txt"])
def test_damaged_lines_are_read_or_told(name: str, sample: Sample) -> None:
    rng = random.Random(5)
    pieces = [b"0", b": ", b"9" * 20, b"\n", b"kvm_exit: ", b"kvm_msr: ", b"\xff", b"]"]
    for _ in range(150):
        text = bytearray(sample(name)[:3000])
        for _ in range(rng.randint(1, 12)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 8)] = rng.choice(pieces)
        reader, odd = odd_lines(bytes(text))
        assert reader.duration_ns >= 0
        assert len(odd) + sum(reader.events.values()) <= reader.lines


def test_exits_of_several_vcpus_under_one_thread_id_are_noticed(events_of: EventsOf) -> None:
    def said(*vcpus: int) -> bool:
        text = "".join(
            f"4241 828.31586{n}: kvm:kvm_exit: vcpu {vcpu} reason RDPMC rip 0x1\n"
            for n, vcpu in enumerate(vcpus)
        )
        (thread,) = events_of(text.encode()).threads.values()
        return thread.several

    assert not said(1, 1, 1)
    assert said(1, 1, 10)


def test_an_event_with_many_periods_is_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvpmu.trace.events._MAX_EVENTS", 4)
    text = "".join(
        f" x 7 [000] 951.{n:06d}: {n:10d} kvm:kvm_msr: msr_write 38f = 0x0\n" for n in range(40)
    )
    reader, odd = odd_lines(text.encode())
    assert odd == []
    assert reader.events == {"kvm_msr": 40}
    assert len(reader._events) <= 4


def test_differences_of_time_before_an_event_are_no_part_of_its_name(events_of: EventsOf) -> None:
    text = "".join(AT + f"           (+{n}) kvm_exit: reason HLT\n" for n in (0, 10, 200))
    assert events_of(text.encode()).events == {"kvm_exit": 3}
