"""The answer as JSON: every number a trace has, and what is said about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pvpmu
from pvpmu.cost.shelf import DEFAULT, models_named
from pvpmu.shared.design import design_named
from pvpmu.trace.analysis import analyse
from pvpmu.trace.document import SCHEMA, as_text, document
from pvpmu.trace.reading import read_trace
from pvpmu.trace.source import Source

Sample = Callable[[str], bytes]
SourceOf = Callable[[bytes], Source]


@pytest.fixture(scope="module")
def answered(sample: Sample, source_of: SourceOf) -> Callable[..., dict[str, Any]]:
    trap, usual = design_named("trap"), ("trap", "page")

    def answer(data: bytes, *names: str) -> dict[str, Any]:
        source = source_of(data)
        trace = read_trace(source)
        designs = [design_named(name) for name in names or usual]
        found = document(source, analyse(trace, designs, trap), models_named([DEFAULT]))
        assert json.loads(json.dumps(found)) == found
        return found

    return answer


@pytest.fixture(scope="module")
def mail(answered: Any, sample: Sample) -> dict[str, Any]:
    return answered(sample("mail_2021.txt"))


@pytest.fixture(scope="module")
def events(answered: Any, short_runs: Any, render: Any) -> dict[str, Any]:
    return answered(render(short_runs))


def test_the_mails_answer_has_its_exits_and_what_is_not_listed(mail: dict[str, Any]) -> None:
    assert mail["schema"] == SCHEMA
    assert (mail["exits_total"], mail["msr_exits"], mail["msr_listed"]) == (311720, 143310, 62447)
    assert mail["msr_unlisted"] == {"MSR_WRITE": 80802, "MSR_READ": 61}
    assert mail["pmu"]["accesses"] == 71539
    assert mail["pmu"]["attributed"] == 71541
    icr = next(row for row in mail["msr"] if row["address"] == 0x830)
    assert (icr["class"], icr["accesses"]) == ("fast path", 618)
    assert any("618 MSR writes" in note and "not attributed" in note for note in mail["notes"])
    assert any("62,447 MSR accesses are listed of 143,310" in note for note in mail["notes"])


def test_the_mails_answer_has_the_fit_with_its_residuals(mail: dict[str, Any]) -> None:
    fit = mail["fit"]
    assert fit["accepted"]
    assert fit["unknowns"]["ticks"] == 591
    assert fit["overflows"] == {"PMC0": 2324, "PMC1": 378, "FIXED_CTR0": 2314, "FIXED_CTR1": 2306}
    residuals = {(row["op"], row["name"]): row["residual"] for row in fit["rows"]}
    assert len(residuals) == 13
    assert {key for key, n in residuals.items() if n} == {
        ("msr_write", "MSR_CORE_PERF_GLOBAL_CTRL")
    }
    assert residuals["msr_write", "MSR_CORE_PERF_GLOBAL_CTRL"] == 2


def test_designs_say_what_they_leave_and_save(mail: dict[str, Any]) -> None:
    trap, page = mail["designs"]
    assert (trap["pmu_exits"], page["pmu_exits"]) == ([71541, 71541], [8503, 8503])
    assert (trap["avoided"], page["avoided"]) == ([0, 0], [63038, 63038])
    assert page["all_exits"] == [248682, 248682]
    assert page["operations"]["tick"] == {"exits": 1182, "per_operation": 2.0}
    assert page["operations"]["pmi"] == {"exits": 7250, "per_operation": 1.0}
    assert trap["operations"]["pmi"]["per_operation"] == pytest.approx(8.0199)


def test_modelled_time_is_that_of_the_bench_and_saved_is_the_difference(
    mail: dict[str, Any],
) -> None:
    for model in models_named([DEFAULT]):
        trap, page = (design["modelled"][model.name] for design in mail["designs"])
        assert trap["per_handler"]["handler_ns"] == pytest.approx(32929.3, abs=0.5)
        assert trap["saved_ns"] == {"value": 0, "low": 0, "high": 0}
        saved = page["saved_ns"]
        assert saved["value"] == pytest.approx(
            trap["operations_ns"]["value"] - page["operations_ns"]["value"], abs=2
        )
        assert saved["low"] <= saved["value"] <= saved["high"]


def test_an_event_trace_has_threads_times_and_operations(events: dict[str, Any]) -> None:
    assert events["input"]["format"] == "events"
    assert events["input"]["duration_ns"] > 0
    assert [thread["vcpu"] for thread in events["threads"]] == [0, 1]
    assert events["threads"][0]["operations"] == {
        "pmi": 27, "pmi_spurious": 2, "tick": 5, "sched_in": 3, "sched_out": 2,
    }  # fmt: skip
    assert [(one["kind"], one["count"]) for one in events["operations"]] == [
        ("pmi", 54), ("pmi_spurious", 4), ("tick", 10), ("sched_in", 6), ("sched_out", 4),
    ]  # fmt: skip
    assert events["handler_ns"]["count"] == 58
    assert events["fit"] is None
    assert events["pmu"]["left_over"] == 0
    assert {row["name"] for row in events["designs"][1]["registers"] if row["exits"]} == {
        "MSR_CORE_PERF_GLOBAL_CTRL"
    }


def test_checks_say_whether_the_answer_can_be_believed(
    events: dict[str, Any], mail: dict[str, Any]
) -> None:
    assert len(events["checks"]) == 3
    assert len(mail["checks"]) == 2
    assert all(check["ok"] for check in (*events["checks"], *mail["checks"]))


def test_a_baseline_that_does_not_trap_is_not_checked_for_it(
    short_runs: Any, render: Any, source_of: SourceOf
) -> None:
    source = source_of(render(short_runs))
    page = design_named("page")
    answer = document(source, analyse(read_trace(source), [page], page), models_named([DEFAULT]))
    assert [check["name"] for check in answer["checks"]] == [
        "every PMU access is in an operation or counted as left over"
    ]
    for model in answer["designs"][0]["modelled"].values():
        assert model["saved_ns"]["value"] == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ftrace_trace_real.txt", "RDPMC cannot be seen"),
        ("ftrace_trace_real.txt", "6 accesses ended in #GP"),
        ("tep_plugin_kvm_exit.txt", "exits have AMD's names"),
        ("perf_kvm_stat_vmexit_synthetic.txt", "nothing says which MSRs the 62,447"),
        ("perf_kvm_stat_msr_synthetic.txt", "the fit implies 9,710 exits of it, which are in the"),
    ],
)
def test_what_an_input_cannot_tell_is_said(
    name: str, says: str, answered: Any, sample: Sample
) -> None:
    assert any(says in note for note in answered(sample(name))["notes"])


def test_exits_that_the_fit_implies_are_among_those_that_a_design_avoids(
    answered: Any, sample: Sample
) -> None:
    answer = answered(sample("perf_kvm_stat_msr_synthetic.txt"))
    trap, page = answer["designs"][:2]
    assert answer["exits_total"] == 62447
    assert trap["all_exits"] == [62447 + 9710] * 2
    assert trap["all_exits_share"] == [1.0, 1.0]
    assert page["all_exits"] == [62447 + 9710 - 63038] * 2


def test_no_design_leaves_fewer_exits_in_all_than_of_the_pmu(answered: Any, sample: Sample) -> None:
    # The fit makes two writes more than are in the table, which a design may avoid, too.
    rows = sample("perf_kvm_stat_msr_synthetic.txt")
    (icr,) = (line for line in rows.splitlines(keepends=True) if b"0x830:W" in line)
    answer = answered(rows.replace(icr, b""), "page-reload", "page")
    reload, page = answer["designs"]
    assert reload["all_exits"] == reload["pmu_exits"]
    assert page["all_exits"] == page["pmu_exits"]


def test_a_guests_own_accesses_are_no_exits_and_that_is_said(answered: Any) -> None:
    answer = answered(
        b" perf-1 [000] d..1. 5.000001: write_msr: 38f, value 0\n"
        b" perf-1 [000] d..1. 5.000002: rdpmc: 0, value 5\n"
    )
    assert answer["exits_total"] == 0
    assert any(note.startswith("2 events are accesses by the kernel") for note in answer["notes"])
    assert any("neither kvm_exit nor kvm_msr" in note for note in answer["notes"])


def test_pmu_registers_outside_the_model_are_said(answered: Any) -> None:
    answer = answered(b"50 msr_write, MSR_K7_EVNTSEL0\n7 msr_read 3f1\n")
    assert any("57 accesses to PMU registers outside the model" in n for n in answer["notes"])
    assert answer["designs"][1]["avoided"] == [0, 0]


def test_why_there_is_no_fit_is_said(answered: Any, sample: Sample) -> None:
    answer = answered(sample("perf_kvm_stat_vmexit_synthetic.txt"))
    assert answer["fit"]["accepted"] is False
    assert "the table has no writes of GLOBAL_OVF_CTRL" in answer["fit"]["reason"]
    assert answer["designs"][1]["pmu_exits"] == [0, 9710]


def test_a_number_or_an_interval() -> None:
    assert as_text((1234, 1234)) == "1,234"
    assert as_text([0, 1234]) == "0..1,234"


def _keys(value: Any, below: str = "") -> set[str]:
    """Names of the fields, without those that depend on the data."""
    if isinstance(value, list):
        return {key for item in value for key in _keys(item, below)}
    if not isinstance(value, dict):
        return set()
    free = {"exits", "models", "modelled", "left_over_by", "msr_unlisted", "unknowns", "overflows",
            "events"}  # fmt: skip
    names = set() if below in free or below == "operations" else set(value)
    return names | {key for name, item in value.items() for key in _keys(item, name)}


@pytest.mark.parametrize("which", ["mail", "events"])
def test_every_field_is_documented(which: str, request: pytest.FixtureRequest) -> None:
    text = (Path(pvpmu.__file__).parents[1] / "docs" / "traces.md").read_text("utf-8")
    documented = set(re.findall(r"`([a-z_0-9]+)`", text))
    assert _keys(request.getfixturevalue(which)) <= documented
