"""How good counts and samples are, summed over runs."""

from __future__ import annotations

from copy import deepcopy

from pvpmu.bench.accuracy import AccuracyTotals, accuracy_rows
from pvpmu.bench.document import Json
from pvpmu.guest.accuracy import SampleErrors
from pvpmu.guest.runner import Counts
from pvpmu.shared.histogram import Histogram

LABELS = ["a", "b"]


def one_run(count: list[int], running: list[int], due: list[int]) -> Counts:
    return Counts(count=count, enabled_ns=[100, 100], running_ns=running, due=due)


def errors(skids: list[int], periods: list[int]) -> SampleErrors:
    made = SampleErrors([Histogram(), Histogram()])
    for skid in skids:
        made.skid.record(skid)
        made.exact += not skid
    for ppm in periods:
        made.period[1].record(ppm)
    return made


def test_a_scaled_count_is_compared_with_what_was_retired() -> None:
    totals = AccuracyTotals()
    totals.add(one_run([30, 50], [50, 100], [50, 50]), None)
    totals.add(one_run([20, 50], [50, 100], [50, 50]), None)
    scaled = totals.described(LABELS)["scaled"]
    # 60 and 40 for 50 each time: right in sum, a fifth off in each run.
    assert scaled["a"] == {
        "estimate": 100, "retired": 100, "error": 0, "worst": 0.2, "running_share": 0.5,
    }  # fmt: skip
    assert (scaled["b"]["error"], scaled["b"]["worst"]) == (0, 0)


def test_an_event_that_never_ran_or_never_happened_has_no_figure_to_trust() -> None:
    totals = AccuracyTotals()
    totals.add(one_run([0, 0], [0, 100], [50, 0]), None)
    scaled = totals.described(LABELS)["scaled"]
    assert (scaled["a"]["estimate"], scaled["a"]["error"]) == (0, -1)
    assert scaled["b"]["error"] is None


def test_samples_of_all_runs_are_one_distribution() -> None:
    totals = AccuracyTotals()
    totals.add(one_run([1, 1], [100, 100], [1, 1]), errors([0, 0, 12], [100]))
    totals.add(one_run([1, 1], [100, 100], [1, 1]), errors([8], [300]))
    found = totals.described(LABELS)
    assert (found["skid"]["exact"], found["skid"]["exact_share"]) == (2, 0.5)
    assert found["skid"]["instructions"]["max"] == 12
    assert found["period_error"]["a"] is None
    assert found["period_error"]["b"]["mean"] == 200


def test_before_any_run_everything_is_zero() -> None:
    found = AccuracyTotals().described(LABELS)
    assert found["scaled"]["a"]["retired"] == 0
    assert found["skid"] is None


def test_without_samples_there_is_nothing_to_say() -> None:
    totals = AccuracyTotals()
    totals.add(one_run([1, 1], [100, 100], [1, 1]), None)
    assert totals.described(LABELS)["skid"] is None


def rows(result: Json) -> dict[str, list[str]]:
    return {
        label: [value(design) for design in result["designs"]]
        for label, value, _ in accuracy_rows(result)
    }


def test_the_table_has_what_matters_and_scaling_only_where_events_took_turns(result: Json) -> None:
    table = rows(result)
    assert table["samples at the right ip"] == ["100.00%"] * 3
    assert table["PMIs lost"] == ["0"] * 3
    assert table["count error, cpu-cycles"] == ["0"] * 3
    assert table["period off by, p50/p90, cpu-cycles"][0].count("%") == 2
    assert not [label for label in table if label.startswith("scaled")]
    turned = deepcopy(result)
    turned["designs"][0]["accuracy"]["scaled"]["cpu-cycles"]["running_share"] = 0.5
    assert rows(turned)["scaled count off by, cpu-cycles"] == ["+0.00%"] * 3
