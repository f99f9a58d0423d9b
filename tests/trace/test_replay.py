"""A trace fed through host and guest: the exits of each design."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pvpmu
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import UsageError
from pvpmu.shared.exits import ExitReason
from pvpmu.trace.analysis import analyse
from pvpmu.trace.reading import Trace, read_trace
from pvpmu.trace.replay import ReplayConfig, Replayed, Spools, replay
from pvpmu.trace.replay_document import SCHEMA, replay_document

DESIGNS = ("trap-5.14", "trap", "page")


@pytest.fixture
def replayed(tmp_path: Path, source_of: Any) -> Callable[..., tuple[Trace, list[Replayed], Any]]:
    def play(text: bytes, transport: str = "inline") -> tuple[Trace, list[Replayed], Any]:
        spools = Spools(tmp_path)
        source = source_of(text)
        trace = read_trace(source, sink_of=spools.sink_of)
        assert trace.events is not None
        config = ReplayConfig(
            spools.threads(trace.events, PmuCpuid()),
            [design_named(name) for name in DESIGNS],
            transport,
            "same",
            PmuCpuid(),
            time.perf_counter_ns,
        )
        told: list[str] = []
        found = replay(config, lambda _share, name: told.append(name))
        assert set(told) == {f"replay on {name}" for name in DESIGNS}
        return trace, found, replay_document(source, trace, config, found)

    return play


def test_a_replay_makes_the_exits_that_whatif_says(
    short_runs: Any, render: Any, replayed: Any
) -> None:
    trace, found, _ = replayed(render(short_runs))
    designs = [design_named(name) for name in DESIGNS]
    answers = analyse(trace, designs, designs[0]).answers
    for one, answer in zip(found, answers, strict=True):
        pmu = sum(one.exits[reason] for reason in (ExitReason.MSR_READ, ExitReason.MSR_WRITE,
                                                   ExitReason.RDPMC))  # fmt: skip
        assert pmu == answer.attributed
        assert one.total("pmis") == 58
        assert one.total("without_nmi") == one.total("unscripted") == one.total("not_live") == 0
        assert one.total("status_equal") == one.total("status_reads") == 112
        assert not one.refused


def test_the_traces_own_exits_are_made_again_one_by_one(
    short_runs: Any, render: Any, replayed: Any
) -> None:
    trace, _, document = replayed(render(short_runs))
    trap = next(design for design in document["designs"] if design["name"] == "trap")
    made = {(row["op"], row["address"]): row["exits"] for row in trap["registers"]}
    assert made == {
        (("msr_read", "msr_write", "rdpmc")[op], None if op == 2 else address): count
        for (op, address), count in trace.counts.pmu.items()
    }


def test_a_trace_that_begins_in_the_middle_is_replayed_as_far_as_it_goes(
    short_runs: Any, render: Any, replayed: Any
) -> None:
    lines = render(short_runs).splitlines(keepends=True)
    _, found, document = replayed(b"".join(lines[len(lines) // 3 :]))
    for one in found:
        assert one.total("without_nmi") == one.total("not_live") == 0
        # At most the last handler's, which the beginning cut off.
        assert one.total("status_reads") - one.total("status_equal") <= 2
    assert all(check["ok"] for check in document["checks"])


def test_the_document_has_what_was_played_and_documented_fields_only(
    short_runs: Any, render: Any, replayed: Any
) -> None:
    _, _, document = replayed(render(short_runs))
    assert json.loads(json.dumps(document)) == document
    assert document["schema"] == SCHEMA
    assert [(t["tid"], t["vcpu"]) for t in document["threads"]] == [(4242, 0), (4243, 1)]
    page = document["designs"][2]
    assert page["page_registered"]
    assert page["accesses"] == sum(thread["accesses"] for thread in document["threads"])
    assert page["exits"]["EXCEPTION_NMI"] == 58
    assert all(check["ok"] for check in document["checks"])
    text = (Path(pvpmu.__file__).parents[1] / "docs" / "traces.md").read_text("utf-8")
    documented = set(re.findall(r"`([a-z_0-9]+)`", text))
    assert set(document) | set(page) | set(document["input"]) <= documented


def test_a_trace_without_operations_cannot_be_replayed(
    tmp_path: Path, sample: Any, source_of: Any
) -> None:
    spools = Spools(tmp_path)
    trace = read_trace(source_of(sample("tracecmd_report_real.txt")), sink_of=spools.sink_of)
    assert trace.events is not None
    with pytest.raises(UsageError, match="nothing to replay"):
        spools.threads(trace.events, PmuCpuid())
