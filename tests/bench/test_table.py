"""The table: everything in it comes from the document."""

from __future__ import annotations

import io
from copy import deepcopy

import pytest
from rich.console import Console

from pvpmu.bench.document import Json
from pvpmu.bench.table import ENDLESS, print_result


def printed(result: Json, width: int = 120) -> str:
    out = io.StringIO()
    print_result(result, Console(file=out, width=width))
    return out.getvalue()


def row(text: str, label: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(label + "  "))
    return line[len(label) :].split()


def test_a_pipe_gets_plain_text(result: Json) -> None:
    text = printed(result)
    assert "\x1b" not in text
    assert text.isascii()


def test_every_design_has_a_column_and_the_mail_its_own(result: Json) -> None:
    header = printed(result).splitlines()[4]
    assert header.split() == ["trap-5.14", "trap", "page", "kvm-2021,", "1", "run"]


def test_rows_show_the_documents_numbers(result: Json) -> None:
    text = printed(result)
    exits = [f"{entry['pmu_exits']:,}" for entry in result["designs"]]
    assert row(text, "PMU exits (MSR and RDPMC)") == exits
    assert row(text, "samples") == [f"{entry['samples']:,}" for entry in result["designs"]]
    assert row(text, "EXCEPTION_NMI")[-1] == "7,295"
    assert row(text, "msr_write MSR_CORE_PERF_GLOBAL_CTRL")[-1] == "15,822"


def test_per_pmi_work_is_shown_inside_outside_and_in_all(result: Json) -> None:
    lines = printed(result).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("perf calls, in all"))
    inside, outside, whole = (
        [float(cell) for cell in lines[start + n].split()[-3:]] for n in (1, 2, 3)
    )
    for a, b, total in zip(inside, outside, whole, strict=True):
        assert abs(a + b - total) < 0.02
    assert inside[0] > inside[1] > inside[2]


def test_modelled_time_bears_its_models_name_and_interval(result: Json) -> None:
    lines = printed(result).splitlines()
    page = result["designs"][2]["model"]
    for name in ("icx-2021-2p", "icx-2021-3p"):
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{name}, in the handler"))
        low, high = page[name]["interval"]["handler_ns"]
        assert f"{page[name]['handler_ns']:,.0f}" in lines[at]
        assert f"{low:,.0f}..{high:,.0f}" in lines[at + 1]


def test_rows_that_no_design_has_are_left_out(result: Json) -> None:
    assert "spurious PMI  " not in printed(result)


def test_without_a_reference_there_is_no_column_for_it(result: Json) -> None:
    bare = deepcopy(result)
    bare["reference"] = None
    assert "kvm-2021" not in printed(bare)


def test_a_failed_check_is_shown_as_such(result: Json) -> None:
    bad = deepcopy(result)
    bad["checks"][0]["ok"] = False
    assert f"check: {bad['checks'][0]['name']}: FAILED" in printed(bad)


def test_notes_of_the_scenario_are_printed(result: Json) -> None:
    noted = deepcopy(result)
    noted["notes"] = ["handler entries are given"]
    assert "note: handler entries are given" in printed(noted)


@pytest.mark.parametrize("fit", [80, 200])
def test_a_narrow_terminal_gets_parts_that_fit_and_every_number(result: Json, fit: int) -> None:
    out = io.StringIO()
    print_result(result, Console(file=out, width=ENDLESS), fit)
    whole, parts = printed(result), out.getvalue()
    first, last = parts.index("in short"), parts.index("floors (p50)")
    assert max(map(len, parts[first:last].splitlines())) <= fit
    assert sorted(set(whole.split())) == sorted(set(parts.split()))
    assert (whole == parts) is (fit == 200)
