"""The bench on a real VM: its document and table from made-up chunks, its options, one true run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pvpmu.bench.realvm import RealConfig, RealMeasured, Totals
from pvpmu.bench.realvm_document import SAME_EXITS, real_document
from pvpmu.bench.realvm_table import print_real
from pvpmu.bench.recorded import RECORDED_AS_COUNTED
from pvpmu.cli import main
from pvpmu.cost.shelf import models_named
from pvpmu.host.perf_open import has_pmu
from pvpmu.host.perf_sources import why_not
from pvpmu.recording.format import Kind
from pvpmu.recording.reader import Recording
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.datafile import data_text
from pvpmu.shared.design import designs_named
from pvpmu.shared.events import MODELLED, REFUSED
from pvpmu.shared.tally import TALLY_WORDS
from pvpmu.vm import build, kvm
from pvpmu.vm.cpl import Execution
from pvpmu.vm.jobs import PmiReport

PMIS = 10
Json = dict[str, Any]


def chunk(reads: int, writes: int, cycles: int) -> PmiReport:
    exits = {
        "to_user_wrmsr": writes * PMIS, "to_user_rdmsr": reads * PMIS,
        "to_user_io": PMIS + 1, "to_user_hlt": 0,
    }  # fmt: skip
    stats = VcpuStats(
        exits={},
        accesses=[],
        tallies=[[12 * PMIS] + [0] * (TALLY_WORDS - 1), *([0] * TALLY_WORDS for _ in range(2))],
        exits_by=[(reads + writes) * PMIS, PMIS, 0],
        pmi={"raised": PMIS, "delivered": PMIS, "coalesced": 0, "dropped": 0, "late": 0,
             "stray": 0, "extra_loops": 0},
        undelivered=0,
        load=None,
    )  # fmt: skip
    return PmiReport(
        registered=not reads, pmis=PMIS, empty=0, bits=PMIS, nmis=PMIS, refusals=0, samples=PMIS,
        counted=[6000, 0, 1, 1], retired=[6000, 0, 1, 1], exits=exits,
        kernel={**exits, "kvm_emulate_insn": 40 * PMIS}, stats=stats, ns=1_000_000,
        tsc_khz=2_000_000, cycles=[cycles] * PMIS,
    )  # fmt: skip


def totals(reads: int, writes: int, cycles: int) -> Totals:
    return Totals(
        vpmu=[chunk(reads, writes, cycles + turn) for turn in range(5)],
        table=[chunk(reads, writes, cycles // 2) for _ in range(5)],
        stamped=replace(chunk(reads, writes, 0), cycles=[], accesses={(32, 0x38F): [7] * PMIS}),
        operations={name: (2.0, [100]) for name in ("tick", "sched_in", "sched_out")},
    )


def measured() -> RealMeasured:
    return RealMeasured(
        Execution(2000.0, "kvm_pvm"),
        user=True,
        designs={"trap": totals(3, 5, 800_000), "page": totals(0, 1, 100_000)},
        floors={name: [1000.0] for name in ("empty_exit", "msr_exit", "gate", "page_word")}
        | {"stamps": [20]},
        scaling=[(100.0, 190.0, 1.9)] * 3,
    )


def result_of(change: Callable[[RealMeasured], None] = lambda _: None) -> Json:
    found = measured()
    change(found)
    config = RealConfig(designs=designs_named(["trap", "page"]), pmis=5 * PMIS, period=600, turns=5)
    return real_document(config, found, models_named(["icx-2021"]))


def test_the_document_says_exits_ratio_and_gates() -> None:
    result = result_of()
    trap, page = result["designs"]
    assert (trap["msr_exits_per_pmi"], page["msr_exits_per_pmi"]) == (8.0, 1.0)
    assert trap["handler_less_gates"]["vpmu"] == 800_002 - 8 * 980
    assert trap["handler"]["vpmu"]["ns"]["p50"] == round(800_002 / 2, 1)
    (ratio,) = result["ratios"]
    assert (ratio["of"], ratio["by"]) == ("trap", "page")
    assert 7.9 < ratio["vpmu"]["low"] <= ratio["vpmu"]["value"] <= ratio["vpmu"]["high"] < 8.1
    assert set(ratio["models"]) == {"icx-2021-2p", "icx-2021-3p"}
    assert all(check["ok"] for check in result["checks"])
    assert json.loads(json.dumps(result)) == result


def lose_one(found: RealMeasured) -> None:
    stats = found.designs["page"].vpmu[2].stats
    assert stats is not None
    stats.pmi["delivered"] -= 1


def miscount(found: RealMeasured) -> None:
    found.designs["page"].vpmu[1].counted[0] += 1


def hide_an_exit(found: RealMeasured) -> None:
    kernel = found.designs["trap"].vpmu[0].kernel
    assert isinstance(kernel, dict)
    kernel["to_user_rdmsr"] += 1


@pytest.mark.parametrize(
    ("change", "check", "who"),
    [
        (lose_one, "no PMI lost", "page"),
        (miscount, "count error 0", "page"),
        (hide_an_exit, SAME_EXITS, "trap"),
    ],
)
def test_what_does_not_hold_fails_by_name(
    change: Callable[[RealMeasured], None], check: str, who: str
) -> None:
    failed = [each for each in result_of(change)["checks"] if not each["ok"]]
    assert failed == [{"name": check, "ok": False, "detail": who}]


def with_real_perf(missing: str, change: Callable[[RealMeasured], None] = lambda _: None) -> Json:
    found = measured()
    change(found)
    config = RealConfig(
        designs=designs_named(["trap", "page"]), pmis=5 * PMIS, period=600, turns=5, perf="linux",
        missing_events=missing,
    )  # fmt: skip
    return real_document(config, found, models_named(["icx-2021"]))


@pytest.mark.usefixtures("_only_clocks")
def test_with_real_perf_the_document_says_what_counts_each_event() -> None:
    for missing in (MODELLED, REFUSED):
        result = with_real_perf(missing)
        assert result["environment"]["perf_events"] == {
            **dict.fromkeys(("branch-instructions", "cache-misses", "instructions"), missing),
            "cpu-cycles": "cpu-clock (includes host time)",
        }
        assert result["config"]["missing_events"] == missing
        out = io.StringIO()
        print_real(result, Console(file=out, width=10_000))
        assert f"branch-instructions, cache-misses, instructions: {missing}; " in out.getvalue()
    assert result_of()["config"]["missing_events"] is None
    assert set(result_of()["environment"]["perf_events"].values()) == {MODELLED}


@pytest.mark.usefixtures("_only_clocks")
def test_modelled_events_must_count_exactly_and_others_cannot() -> None:
    def of_the_clock(found: RealMeasured) -> None:
        found.designs["page"].vpmu[1].counted[3] += 1

    def failed(result: Json) -> list[str]:
        return [check["name"] for check in result["checks"] if not check["ok"]]

    assert failed(with_real_perf(MODELLED, miscount)) == ["count error 0"]
    assert failed(with_real_perf(MODELLED, of_the_clock)) == []
    result = with_real_perf(REFUSED, miscount)
    assert failed(result) == []
    assert "count error 0" not in [check["name"] for check in result["checks"]]


def test_without_tracepoints_the_document_says_what_stood_in_the_way() -> None:
    def without(found: RealMeasured) -> None:
        for each in found.designs.values():
            for report in each.vpmu:
                report.kernel = "tracefs: not mounted"

    result = result_of(without)
    assert result["designs"][0]["kernel"] == "tracefs: not mounted"
    assert SAME_EXITS not in [check["name"] for check in result["checks"]]
    assert any("No tracepoints" in note for note in result["notes"])


def test_modelled_times_are_per_pmi_of_those_that_were_counted() -> None:
    def count_fewer(found: RealMeasured) -> None:
        for report in found.designs["trap"].vpmu:
            report.pmis = PMIS + 3

    models = [result_of(change)["designs"][0]["models"] for change in (lambda _: None, count_fewer)]
    assert models[0] == models[1]


@pytest.mark.parametrize("fit", [None, 60])
def test_the_table_says_the_same(fit: int | None) -> None:
    out = io.StringIO()
    print_real(result_of(), Console(file=out, width=10_000), fit)
    text = out.getvalue()
    for words in (
        "a VM", "kvm_pvm: CPL 0 emulated", "guest at CPL 3", "MSR exits per PMI", "8.00", "1.00",
        "handler trap / page: 8.00", "floors, TSC cycles p50: empty exit 1,000.0, msr exit 1,000.0",
        "1.90 times as many", "ok: no PMI lost", "WRMSR MSR_CORE_PERF_GLOBAL_CTRL",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--scenario", "short"], "--scenario means nothing with --transport vm"),
        (["--perf", "linux", "--scenario", "nope"], "unknown scenario 'nope'"),
        (["--driver", "linux-6.12"], "--driver means nothing"),
        (["--design", "mediated"], "design mediated cannot run on a real VM: it passes"),
        (["--design", "page-lazy"], "cannot run on a real VM: it needs exits that happen anyway"),
        (["--design", "xen-style"], "cannot run on a real VM: it needs routes of its own"),
        (["--pmis", "0"], "0 is below 1"),
    ],
)
def test_what_a_real_vm_cannot_do_is_refused_in_one_line(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--transport", "vm", *words]) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["--pmis", "7"], ["--period", "9"], ["--cpl", "0"]])
def test_what_only_a_real_vm_is_asked_is_refused_elsewhere(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--transport", "inline", "--scenario", "short", *words]) == 2
    assert capsys.readouterr().err == (f"pvpmu: error: {words[0]}: only with --transport vm\n")


def test_no_kvm_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing() -> bytes:
        return b""

    monkeypatch.setattr(build, "program", nothing)
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "kvm")
    assert main(["bench", "--transport", "vm"]) == 1
    assert "absent; load the module" in capsys.readouterr().err


@pytest.mark.process
def test_a_short_run_on_a_real_vm(
    real_vm: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "bench --transport vm --pmis 40 --period 120 --design trap page --json -"
    file = tmp_path / "run"
    assert main([*command.split(), "--record", str(file)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["schema"] == "pvpmu-vm-bench"
    assert [design["msr_exits_per_pmi"] for design in result["designs"]] == [8.0, 1.0]
    assert [design["pmi"]["lost"] for design in result["designs"]] == [0, 0]
    assert {"name": RECORDED_AS_COUNTED, "ok": True} in result["checks"]
    msrs = {}
    with Recording(file) as recording:
        for stream in recording.streams:
            msrs[stream.design] = sum(record.kind == Kind.MSR for record in stream.window())
    assert msrs == {"trap": 8 * 40, "page": 40}


@pytest.mark.process
def test_on_a_real_vm_the_scenario_says_what_becomes_of_missing_events(
    real_vm: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"needs perf_event_open: {reason}")
    if has_pmu():
        pytest.skip("needs a machine without a hardware PMU")
    text = data_text("short", folder="scenarios", what="scenario")[0]
    file = tmp_path / "mine.toml"
    file.write_text(f'missing_events = "refused"\n{text}', "utf-8")
    command = (
        f"bench --transport vm --perf linux --pmis 20 --design page --scenario {file} --json -"
    )
    assert main(command.split()) == 0
    result = json.loads(capsys.readouterr().out)
    told = result["environment"]["perf_events"]
    assert [told[name] for name in ("instructions", "branch-instructions")] == [REFUSED, REFUSED]
    assert told["cpu-cycles"].startswith("cpu-clock")
    (design,) = result["designs"]
    assert design["real_perf"]["system_calls"]["open"]["per_pmi"] > 0
    assert design["pmi"]["lost"] == 0
