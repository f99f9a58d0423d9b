"""From snapshots to rows: totals, rates, histograms, history."""

from __future__ import annotations

from typing import Any

import pytest

from pvpmu.console.model import Model
from pvpmu.console.since import EXIT, HANDLER, PAGE
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.histogram import bucket_of, value_of
from pvpmu.shared.liveview import HANDLER_KEY, OTHER, AccessPath, Key, State, Status

WRITE, READ = int(ExitReason.MSR_WRITE), int(ExitReason.MSR_READ)
COMMIT = Key(WRITE, 0x38F, AccessPath.COMMIT)
CTRL = Key(WRITE, 0x38F, AccessPath.EXIT)
NMI = Key(ExitReason.EXCEPTION_NMI, 0, AccessPath.EXIT)
STATUS = Key(READ, 0x38E, AccessPath.PAGE)
RDPMC = Key(ExitReason.RDPMC, 1 << 30, AccessPath.EXIT)
FAST, SLOW = bucket_of(180), bucket_of(9000)


def model_of(*snapshots: Any, interval_s: float = 2.0) -> Model:
    model = Model()
    for number, snapshot in enumerate(snapshots):
        model.update(100.0 + number * interval_s, [snapshot])
    return model


def test_the_first_snapshot_has_totals_and_no_rates(new_vm: Any) -> None:
    (row,) = model_of(new_vm(exits=[{CTRL: 10, NMI: 4}])).vcpu_rows()
    assert row.exits == {"MSR_WRITE": (10, 0.0), "EXCEPTION_NMI": (4, 0.0)}
    assert (row.exit_total, row.exit_rate) == (14, 0.0)


def test_rates_are_differences_over_the_time_that_passed(new_vm: Any) -> None:
    (row,) = model_of(
        new_vm(exits=[{CTRL: 10}], pmis=[{"delivered": 5}]),
        new_vm(exits=[{CTRL: 30, NMI: 8}], pmis=[{"delivered": 9}]),
    ).vcpu_rows()
    assert row.exits == {"MSR_WRITE": (30, 10.0), "EXCEPTION_NMI": (8, 4.0)}
    assert row.exit_rate == 14.0
    assert row.pmi_rate == 2.0
    assert row.pmis["delivered"] == 9


def test_rates_become_0_when_nothing_happens_any_more(new_vm: Any) -> None:
    last = new_vm(exits=[{CTRL: 30}], lives=False)
    (row,) = model_of(new_vm(exits=[{CTRL: 10}]), last, last).vcpu_rows()
    assert row.exits == {"MSR_WRITE": (30, 0.0)}


def test_several_vcpus_have_a_row_for_all(new_vm: Any) -> None:
    rows = model_of(
        new_vm(exits=[{CTRL: 1}, {CTRL: 2}]), new_vm(exits=[{CTRL: 5}, {CTRL: 10}])
    ).vcpu_rows()
    assert [row.vcpu for row in rows] == [0, 1, None]
    assert [row.exit_total for row in rows] == [5, 10, 15]
    assert [row.exit_rate for row in rows] == [2.0, 4.0, 6.0]
    assert rows[2].state == ""


def test_exits_avoided_are_the_accesses_that_made_none(new_vm: Any) -> None:
    (row,) = model_of(
        new_vm(exits=[{CTRL: 1}], series=[{STATUS: {FAST: 10}}]),
        new_vm(exits=[{CTRL: 2}], series=[{STATUS: {FAST: 50}, COMMIT: {SLOW: 1}}], spurious=3),
    ).vcpu_rows()
    assert (row.avoided, row.avoided_rate) == (50, 20.0)
    assert row.spurious == 3
    assert row.floor_ns == 8000
    assert row.record_ns == 380


def test_without_latencies_what_the_guest_alone_knows_is_unknown(new_vm: Any) -> None:
    (row,) = model_of(new_vm(exits=[{CTRL: 1}])).vcpu_rows()
    assert row.avoided is row.avoided_rate is row.spurious is row.floor_ns is None


def test_registers_join_the_hosts_counts_with_the_guests_times(new_vm: Any) -> None:
    rows = model_of(
        new_vm(exits=[{COMMIT: 4, NMI: 9}], series=[{STATUS: {FAST: 10}}]),
        new_vm(
            exits=[{COMMIT: 8, NMI: 18, RDPMC: 2}],
            series=[{STATUS: {FAST: 29, SLOW: 1}, COMMIT: {SLOW: 8}}],
        ),
    ).register_rows()
    found = {(row.name, row.op, row.path): row for row in rows}
    assert set(found) == {
        ("MSR_CORE_PERF_GLOBAL_CTRL", "W", "commit"),
        ("MSR_CORE_PERF_GLOBAL_STATUS", "R", "page"),
        ("RDPMC fixed 0", "R", "exit"),
    }
    commit = found["MSR_CORE_PERF_GLOBAL_CTRL", "W", "commit"]
    assert (commit.total, commit.whole, commit.rate) == (8, 40, 2.0)
    assert commit.latency is not None
    assert commit.latency.p50 == value_of(SLOW)
    status = found["MSR_CORE_PERF_GLOBAL_STATUS", "R", "page"]
    assert (status.total, status.rate) == (30, 10.0)
    assert status.latency is not None
    assert (status.latency.p50, status.latency.p999) == (180, value_of(SLOW))
    assert found["RDPMC fixed 0", "R", "exit"].latency is None


def test_a_reset_begins_totals_and_histograms_at_0(new_vm: Any) -> None:
    model = model_of(new_vm(exits=[{CTRL: 10}], series=[{STATUS: {SLOW: 10}}]))
    model.reset()
    model.update(104.0, [new_vm(exits=[{CTRL: 14}], series=[{STATUS: {SLOW: 10, FAST: 5}}])])
    (row,) = model.vcpu_rows()
    assert (row.exit_total, row.avoided) == (4, 5)
    status = next(row for row in model.register_rows() if row.path == "page")
    assert status.latency is not None
    assert (status.latency.count, status.latency.largest) == (5, 180)


def test_a_count_that_goes_back_is_never_negative(new_vm: Any) -> None:
    first = new_vm(exits=[{CTRL: 10}], series=[{STATUS: {FAST: 9}}], pmis=[{"raised": 5}])
    second = new_vm(exits=[{CTRL: 2}], series=[{STATUS: {FAST: 1}}])
    model = model_of(first, second)
    (row,) = model.vcpu_rows()
    assert row.exit_rate == row.avoided_rate == row.pmi_rate == 0.0


def test_one_vcpu_is_looked_at_alone(new_vm: Any) -> None:
    model = model_of(new_vm(exits=[{CTRL: 1}, {CTRL: 5}], series=[{STATUS: {FAST: 1}}, {}]))
    (only,) = model.register_rows(vcpu=1)
    assert only.total == 5
    assert model.latency_rows(vcpu=1) == []
    assert model.register_rows(vcpu=7) == []


def test_page_exit_and_handler_have_a_histogram_each_in_that_order(new_vm: Any) -> None:
    passed = Key(ExitReason.RDPMC, 0, AccessPath.PASSED)
    series = [{HANDLER_KEY: {SLOW: 2}, COMMIT: {SLOW: 3}, STATUS: {FAST: 4}, passed: {FAST: 1}}]
    rows = model_of(new_vm(series=[*series, *series])).latency_rows()
    assert [(row.kind, row.latency.count) for row in rows] == [(PAGE, 10), (EXIT, 6), (HANDLER, 4)]
    assert rows[0].buckets == [[180, 10]]


def test_exits_that_are_no_accesses_are_in_no_histogram_of_accesses(new_vm: Any) -> None:
    assert model_of(new_vm(series=[{NMI: {SLOW: 5}}])).latency_rows() == []


def test_the_history_is_the_median_of_each_interval_for_a_minute(new_vm: Any) -> None:
    counts, snapshots = {FAST: 0, SLOW: 0}, []
    for number in range(80):
        counts[FAST if number % 2 else SLOW] += 10
        snapshots.append(new_vm(exits=[{CTRL: number * 4}], series=[{STATUS: dict(counts)}]))
    model = model_of(*snapshots, interval_s=1.0)
    (row,) = model.latency_rows()
    assert len(row.trend) == 61
    assert row.trend[-1] == (0.0, 180.0)
    assert row.trend[-2] == (1.0, value_of(SLOW))
    assert row.trend[0][0] == 60.0
    exits, pmis = model.rate_rows()
    assert {value for _, value in exits.trend} == {4.0}
    assert {value for _, value in pmis.trend} == {0.0}
    assert exits.rate == 4.0


def test_the_history_of_a_vcpu_is_its_own(new_vm: Any) -> None:
    model = model_of(
        new_vm(series=[{STATUS: {FAST: 1}}, {STATUS: {SLOW: 1}}]),
        new_vm(series=[{STATUS: {FAST: 2}}, {STATUS: {SLOW: 2}}]),
    )
    assert [row.trend for row in model.latency_rows(vcpu=1)] == [[(0.0, value_of(SLOW))]]


def test_vms_stand_side_by_side(new_vm: Any) -> None:
    model = Model()
    model.update(
        1.0,
        [
            new_vm("a", "trap", series=[{CTRL: {SLOW: 1}}]),
            new_vm("b", "page", series=[{STATUS: {FAST: 1}}]),
        ],
    )
    assert [(row.vm, row.kind) for row in model.latency_rows()] == [("b", PAGE), ("a", EXIT)]
    assert [row.vm for row in model.totals()] == ["a", "b"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (Key(WRITE, OTHER, AccessPath.EXIT), "no register"),
        (Key(ExitReason.RDPMC, 1, AccessPath.EXIT), "RDPMC 1"),
        (Key(ExitReason.RDPMC, 1 << 31 | 1 << 30 | 2, AccessPath.EXIT), "RDPMC fixed 2 fast"),
        (Key(READ, 0x999, AccessPath.EXIT), "MSR_0x999"),
    ],
)
def test_what_is_no_register_of_the_table_has_a_name_too(new_vm: Any, key: Key, name: str) -> None:
    (row,) = model_of(new_vm(exits=[{key: 1}])).register_rows()
    assert row.name == name


def test_an_unknown_exit_reason_has_a_row(new_vm: Any) -> None:
    (row,) = model_of(new_vm(exits=[{Key(0xFF, 0, AccessPath.EXIT): 2}])).vcpu_rows()
    assert row.exits == {"UNKNOWN": (2, 0.0)}


@pytest.mark.parametrize(
    ("status", "lives", "state", "condition"),
    [
        (Status.SERVING, True, "RUNNING", "guest 4711"),
        (Status.WAITING, True, "RUNNING", "waiting for a guest"),
        (Status.DONE, True, "ended", "host ended: guest done"),
        (Status.DONE, False, "ended", "host ended: guest done"),
        (Status.LOST, True, "peer lost", "host ended: peer lost"),
        (Status.SERVING, False, "host lost", "host lost"),
        (Status.STOPPED, False, "ended", "host ended"),
        (Status.WAITING, False, "ended", "host ended: no guest came"),
    ],
)
def test_the_state_says_how_it_ended(
    new_vm: Any, status: Status, lives: bool, state: str, condition: str
) -> None:
    vm = new_vm(exits=[{CTRL: 1}], status=status, lives=lives)
    model = model_of(vm)
    assert model.vcpu_rows()[0].state == state
    assert vm.condition == condition
    assert model.ended == (state != "RUNNING")


def test_states_have_the_names_of_the_protocol(new_vm: Any) -> None:
    names = [
        model_of(new_vm(exits=[{}], state=state)).vcpu_rows()[0].state
        for state in (State.ABSENT, State.TRAP_ONLY, State.FROZEN, State.RUNNING)
    ]
    assert names == ["-", "trap-only", "FROZEN", "RUNNING"]


def test_rows_are_made_once_per_reading_and_anew_after_a_reset(new_vm: Any) -> None:
    model = Model()
    model.update(1.0, [new_vm(exits=[{CTRL: 5}])])
    assert model.register_rows() is model.register_rows()
    assert model.latency_rows() is model.latency_rows()
    assert model.register_rows(0) is not model.register_rows()
    before = model.register_rows()
    model.reset()
    assert model.register_rows() is not before
    model.update(2.0, [new_vm(exits=[{CTRL: 7}])])
    assert [row.total for row in model.register_rows()] == [2]
