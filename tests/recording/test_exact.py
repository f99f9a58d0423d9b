"""What was recorded of a run is what the run itself counted, to the last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pvpmu.guest.scenario import load_scenario
from pvpmu.recording.format import OPERATIONS, PATH_MASK, SPURIOUS, Change, Kind, Path, Pmi
from pvpmu.shared.design import design_names

_OPS = ("rdmsr", "wrmsr", "rdpmc")
_PMI_NAMES = {Pmi.INJECTED: "delivered"}


def check(run: Any) -> None:
    host, guest, stats, report = run.host, run.guest, run.host_stats, run.report
    exits = host.count(Kind.EXIT, "code", "detail")
    assert {(code,): sum(c for (r, _), c in exits.items() if r == code) for code, _ in exits} == {
        (reason,): count for reason, count in stats.exits.items()
    }
    msr_like = {key: count for key, count in exits.items() if key[0] in (15, 31, 32)}
    assert msr_like == dict(stats.accesses)
    assert host.count(Kind.ENTRY, "code") == host.count(Kind.EXIT, "code")
    msrs = Counter({(code - 31, at): n for (code, at), n in exits.items() if code in (31, 32)})
    assert host.count(Kind.MSR, "code", "detail") == msrs
    calls = host.count(Kind.PERF_CALL, "code")
    assert [calls[kind,] for kind in range(7)] == [
        sum(tally[kind] for tally in stats.tallies) for kind in range(7)
    ]
    pmis = host.count(Kind.PMI, "code")
    for what in Pmi:
        assert pmis[what,] == getattr(stats.pmi, _PMI_NAMES.get(what, what.name.lower())), what
    assert len(guest.of(Kind.SAMPLE)) == report.counts.samples
    assert len(guest.of(Kind.HANDLER_ENTRY)) == len(guest.of(Kind.HANDLER_EXIT))
    assert len(guest.of(Kind.HANDLER_EXIT)) == report.counts.handlers
    spurious = sum(bool(r.flags & SPURIOUS) for r in guest.of(Kind.HANDLER_EXIT))
    assert spurious == report.counts.spurious
    accesses = guest.count(Kind.ACCESS, "code", "detail")
    assert {(_OPS[op], at): n for (op, at), n in accesses.items()} == report.recorded.accesses
    by_exit = Counter(
        (_OPS[r.code], r.detail) for r in guest.of(Kind.ACCESS) if r.flags & PATH_MASK == Path.EXIT
    )
    operations = guest.count(Kind.OPERATION, "code")
    for number, name in enumerate(OPERATIONS):
        assert operations[number,] == report.recorded.operations[name].count
    # Some exit without an access of the driver's own: what the seam does at a handler's end.
    assert not by_exit - Counter(report.recorded.exits)


@pytest.mark.parametrize("design", design_names())
def test_of_every_design(run_traced: Callable[..., Any], design: str) -> None:
    check(run_traced(design))


@pytest.mark.parametrize(
    "scenario", ["br_instr", "br_instr-races", "multiplex-10", "watchdog", "idle", "host-profiles"]
)
@pytest.mark.parametrize("design", ["trap", "page", "page-lean", "mediated"])
def test_of_every_kind_of_scenario(
    run_traced: Callable[..., Any], scenario: str, design: str
) -> None:
    check(run_traced(design, replace(load_scenario(scenario), duration_us=30_000)))


def test_time_never_goes_back_and_both_sides_agree_on_it(run_traced: Callable[..., Any]) -> None:
    run = run_traced("page", replace(load_scenario("br_instr"), duration_us=30_000))
    for side in (run.host, run.guest):
        for name in ("wall", "now", "cycles"):
            times = [getattr(record, name) for record in side.window]
            assert times == sorted(times), name
    samples = run.guest.of(Kind.SAMPLE)
    injections = {r.now for r in run.host.of(Kind.PMI) if r.code == Pmi.INJECTED}
    assert {sample.now for sample in samples} <= injections
    assert run.host.window[-1].cycles <= run.guest.window[-1].cycles == run.report.counts.retired[0]


def test_a_page_is_frozen_and_committed_once_for_each_handler(
    run_traced: Callable[..., Any],
) -> None:
    run = run_traced("page")
    changes = run.host.count(Kind.STATE, "code")
    counts = run.report.counts
    assert changes[Change.FREEZE,] == counts.handlers
    # The last sched-in lasts: what was frozen or stopped has started again.
    assert changes[Change.COMMIT,] == counts.handlers + counts.sched_in + counts.ticks
    assert changes[Change.STOP,] == counts.sched_out + counts.ticks
