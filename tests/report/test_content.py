"""What the report says, and that it says it of the evidence."""

from __future__ import annotations

import csv
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the extra report is not installed")

from pvpmu.bench.measure import TIMED_PASSES
from pvpmu.bench.table import sections
from pvpmu.guest.scenario import load_scenario
from pvpmu.report.common import panels_of
from pvpmu.report.content import _checks, page_of
from pvpmu.report.page import Commands, Figure, Items, Page, Table, Text
from pvpmu.report.timing import handlers, measured_table
from pvpmu.report.write import designs_csv

from .conftest import Json, evidence_of


@pytest.fixture(scope="session")
def page(evidence: Json) -> Page:
    return page_of(evidence)


def tables(page: Page, heading: str) -> list[Table]:
    (section,) = (section for section in page.sections if section.heading == heading)
    return [block for block in section.blocks if isinstance(block, Table)]


def test_every_part_of_the_evidence_has_its_section(page: Page) -> None:
    assert [section.heading for section in page.sections] == [
        "In short", "What each choice brings", "Exits per operation", "Handler latency",
        "Number of events", "Sampling frequency", "Number of vCPUs", "Sensitivity to costs",
        "Accuracy", "All other figures", "Checks", "Environment, and how to repeat this",
    ]  # fmt: skip


def test_tables_are_those_of_the_terminal(page: Page, evidence: Json) -> None:
    printed = {title: rows for title, _, rows in sections(evidence["bench"])}
    shown = {table.caption: table.rows for table in tables(page, "All other figures")}
    assert shown.items() <= printed.items()
    assert set(printed) - set(shown) == {"in short", "exits per operation", "accuracy"}
    assert tables(page, "In short")[0].rows == printed["in short"]
    assert tables(page, "Exits per operation")[0].rows == printed["exits per operation"]
    assert tables(page, "Accuracy")[0].rows == printed["accuracy"]


def test_with_real_perf_it_says_first_what_counts_each_event(page: Page, evidence: Json) -> None:
    told = {**evidence["bench"], "perf": "whose", "perf_events": {"cpu-cycles": "refused"}}
    real = page_of({**evidence, "bench": told}).lead
    added = [block for block in real if block not in page.lead]
    assert added == [Items(["perf: whose", "what counts each event: cpu-cycles: refused"])]


def test_designs_as_csv_have_every_figure(evidence: Json) -> None:
    rows = list(csv.DictReader(designs_csv(evidence["bench"]).splitlines()))
    for row, design in zip(rows, evidence["bench"]["designs"], strict=True):
        assert row["name"] == design["name"]
        assert int(row["pmu_exits"]) == design["pmu_exits"]
        assert (
            float(row["model.icx-2021-2p.total_ns"]) == design["model"]["icx-2021-2p"]["total_ns"]
        )
        assert int(row["msr.rdpmc.RDPMC.accesses"]) == design["msr"][-1]["accesses"]


def test_every_row_is_as_wide_as_its_table(page: Page) -> None:
    for section in page.sections:
        for table in tables(page, section.heading):
            assert {len(row) for row in table.rows} == {len(table.columns)}, table.caption


def test_figures_have_names_of_their_own_words_and_a_drawing(page: Page) -> None:
    names = [figure.name for figure in page.figures]
    assert len(set(names)) == len(names)
    assert set(names) == {
        "total", "operations", "handlers", "vcpus", "sensitivity-icx-2021-3p",
        "events-icx-2021-2p", "events-icx-2021-3p", "frequency-icx-2021-2p",
        "frequency-icx-2021-3p",
    }  # fmt: skip
    for figure in page.figures:
        assert "<svg" in figure.svg
        assert min(len(figure.alt), len(figure.caption)) > 30


def test_the_baseline_is_1_beside_itself(page: Page) -> None:
    against = {row[0]: row[1:] for row in tables(page, "In short")[1].rows}
    assert against["trap"] == ["yes", *["1.000"] * 5, "1.00 (1.00..1.00)"]
    equivalent, samples, exits, calls, two, three, _ = (cell.split()[0] for cell in against["page"])
    assert (equivalent, samples) == ("yes", "1.000")
    assert float(exits) < 0.2
    assert float(calls) < float(two) + 1
    assert float(two) < float(three) < 1


def test_a_page_and_is_paused_bring_what_they_bring(page: Page) -> None:
    found = {table.caption: table for table in tables(page, "What each choice brings")}
    exits = {row[0]: row[1:] for row in found["What each choice brings: PMU exits per PMI"].rows}
    assert exits["page"][:3] == ["trap", "page", "8.00 → 1.00"]
    assert exits["is_paused"][2] == "8.00 → 8.00"
    calls = {row[0]: row[1:] for row in found["What each choice brings: perf calls per PMI"].rows}
    assert calls["is_paused"][2] == "22.00 → 15.00"


def test_measured_handlers_have_medians_intervals_and_what_these_are_worth(
    page: Page, evidence: Json
) -> None:
    (table,) = tables(page, "Handler latency")
    assert [row[0] for row in table.rows] == ["trap-5.14", "trap", "page"]
    (section,) = (s for s in page.sections if s.heading == "Handler latency")
    (text,) = (block.text for block in section.blocks if isinstance(block, Text))
    assert f"over {2 * TIMED_PASSES} turns" in text
    assert "97.9%" in text


def test_a_design_whose_wall_clock_means_nothing_is_not_timed(evidence: Json) -> None:
    bench = deepcopy(evidence["bench"])
    bench["designs"][2]["wall_valid"] = False
    section = handlers(bench)
    assert section is not None
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == ["trap-5.14", "trap"]
    (figure,) = (block for block in section.blocks if isinstance(block, Figure))
    assert ">page<" not in figure.svg
    assert any("Not timed: page." in b.text for b in section.blocks if isinstance(b, Text))
    assert [row[0] for row in measured_table(bench, evidence["vcpus"]).rows] == [
        "trap-5.14",
        "trap",
    ]


def test_command_lines_repeat_everything(page: Page, evidence: Json) -> None:
    blocks = page.sections[-1].blocks
    (commands,) = (block for block in blocks if isinstance(block, Commands))
    assert commands.lines[0] == evidence["command"]
    assert len(commands.lines) == 1 + len(evidence["sweeps"])
    for name, line in zip(evidence["sweeps"], commands.lines[1:], strict=True):
        assert line.startswith(f"pvpmu sweep --output {name}.csv --scenario br_instr ")


def test_a_failed_check_is_shown_as_such(evidence: Json) -> None:
    bad = deepcopy(evidence)
    bad["bench"]["checks"][0]["ok"] = False
    (table,) = _checks(bad["bench"]).blocks
    assert isinstance(table, Table)
    assert table.rows[0][1] == "FAILED"


def test_many_designs_are_shared_out_to_panels_with_and_without_a_page(evidence: Json) -> None:
    bench = deepcopy(evidence["bench"])
    trap, page = bench["designs"][1], bench["designs"][2]
    bench["designs"] = [trap, *({**page, "name": f"page-{n}"} for n in range(8))]
    bench["designs"].append({**trap, "name": "trap-lean"})
    panels = panels_of(bench)
    assert panels.titles == ["without a page", "with a page", "with a page"]
    assert [len(group) for group in panels.groups] == [1, 4, 4]
    assert panels.baseline == "trap"


def test_a_scenario_without_a_pmi_has_a_report(tmp_path: Path) -> None:
    scenario = replace(load_scenario("stat-only"), duration_us=5000)
    evidence = evidence_of(scenario, tmp_path, ["page"], ["icx-2021-2p"])
    assert "frequency" not in evidence["sweeps"]
    headings = [section.heading for section in page_of(evidence).sections]
    assert "Handler latency" not in headings
    assert "Number of events" in headings
