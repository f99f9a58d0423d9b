"""What people read: the document's numbers, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from pvpmu.cost.shelf import DEFAULT, models_named
from pvpmu.shared.design import design_named
from pvpmu.trace.analysis import analyse
from pvpmu.trace.document import document
from pvpmu.trace.reading import read_trace
from pvpmu.trace.table import print_answer


@pytest.fixture
def printed(source_of: Any) -> Callable[[bytes], list[str]]:
    designs = [design_named(name) for name in ("trap", "page")]

    def lines(data: bytes) -> list[str]:
        source = source_of(data)
        analysis = analyse(read_trace(source), designs, designs[0])
        output = io.StringIO()
        print_answer(
            document(source, analysis, models_named([DEFAULT])), Console(file=output, width=110)
        )
        return output.getvalue().splitlines()

    return lines


def row(lines: list[str], label: str) -> list[str]:
    found = next(line for line in lines if line.startswith(label))
    return found.removeprefix(label).split()


def test_the_mail_is_answered_in_its_own_terms(printed: Any, sample: Any) -> None:
    lines = printed(sample("mail_2021.txt"))
    assert row(lines, "PMU exits") == ["71,539", "71,541", "8,503"]
    assert row(lines, "all exits") == ["311,720", "311,720", "248,682"]
    assert row(lines, "  share that remains") == ["100.0%", "79.8%"]
    assert row(lines, "PMI with an overflow (7,250)") == ["8.02", "8.02", "1"]
    assert row(lines, "timer tick (591)") == ["22", "22", "2"]
    assert row(lines, "RDPMC") == ["9,710", "9,710", "0"]
    assert row(lines, "EXCEPTION_NMI") == ["7,295"]
    assert row(lines, "msr_write IA32_X2APIC_ICR") == ["618"]
    at = next(n for n, line in enumerate(lines) if line.startswith("the fit"))
    assert row(lines[at:], "msr_write MSR_CORE_PERF_GLOBAL_CTRL") == ["15,822", "15,824", "+2"]
    assert row(lines[at:], "msr_write MSR_IA32_PMC1") == ["976", "976", "0"]
    assert "lines not understood: 2 of 29; the first:" in lines
    assert "  1: A typical vm-exit trace is as follows:" in lines
    assert any(line.startswith("fit, driver linux-5.14: 7,308 handlers, 7") for line in lines)
    assert sum(line.endswith(": ok") for line in lines) == 2


def test_an_event_trace_shows_its_vcpus_and_what_is_cut_off(
    printed: Any, short_runs: Any, render: Any
) -> None:
    text = render(short_runs)
    lines = printed(text)
    assert row(lines, "vCPU 0, thread 4242")[1:] == ["27", "2", "5", "3", "2", "0"]
    assert not any(line.startswith("not attributed") for line in lines)
    half = printed(text[: len(text) // 2])
    assert any("an operation that the end of the trace cuts off" in line for line in half)
    assert row(half, "  in none (bounds)")
    assert any(line.startswith("note: the input ends in the middle") for line in half)


def test_many_vcpus_and_many_exits_are_summed_up(printed: Any) -> None:
    text = "".join(
        f" qemu-{n} [000] ..... 951.{n:06d}: kvm_exit: vcpu {n} reason R{n} rip 0x1\n"
        for n in range(40)
    )
    lines = printed(text.encode())
    assert row(lines, "and 24 more") == []
    assert row(lines, "28 more") == ["28"]


def test_nothing_of_an_input_is_taken_for_markup(printed: Any) -> None:
    lines = printed(b"[bold]x[/nope]\n126301 MSR_WRITE\n")
    assert "  1: [bold]x[/nope]" in lines
