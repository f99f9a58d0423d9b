"""Scenarios: the shipped ones, and one line with file, line and field for every mistake."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from pvpmu.guest.scenario import (
    Background,
    Host,
    Idle,
    Races,
    Rates,
    Scenario,
    ScenarioEvent,
    load_scenario,
    run_seed,
    scenario_names,
)
from pvpmu.guest.script import ScriptCounts
from pvpmu.guest.workload import RATE_ONE
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import BRANCHES, CYCLES, INSTRUCTIONS
from pvpmu.shared.hostload import HostEvent
from pvpmu.shared.vmx import EXIT_REASONS

WORKLOAD = """\
name = "mine"
summary = "a test"
duration_us = 1000

[[events]]
name = "cpu-cycles"
frequency = 4000

[[events]]
name = "instructions"
period = 1000

[workload]
phase_ms_min = 1
phase_ms_max = 2
spread_permille = 10
phases = 3

[workload.per_second]
instructions = 1_000_000

[races]
pmi_skid = 1
"""

SCRIPT = """\
name = "mine"
summary = "a test"
duration_us = 1000

[[events]]
name = "cpu-cycles"
period = 10

[script]
ticks = 1
sched_in = 1
sched_out = 0
overflows = [3]
coincident = 0
stray = 0
"""

EVENT_NAMES = (
    "cpu-cycles, instructions, ref-cycles, cache-references, cache-misses, branch-instructions, "
    "branch-misses"
)


def _error(tmp_path: Path, text: str) -> str:
    """The message that loading ``text`` ends with, without the folder."""
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_scenario(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.status == 2
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def _changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def test_the_shipped_scenarios_load_and_bear_their_file_names() -> None:
    assert {"br_instr", "br_instr-trace", "br_instr-races"} <= set(scenario_names())
    for name in scenario_names():
        assert load_scenario(name).name == name


def test_the_race_scenario_is_the_plain_one_with_windows() -> None:
    plain, races = load_scenario("br_instr"), load_scenario("br_instr-races")
    assert plain.events == races.events
    assert plain.workload == races.workload
    assert plain.duration == races.duration == 591_000_000
    assert (plain.races.pmi_skid, plain.races.injection_latency) == (0, 0)
    assert races.races.injection_latency > 0


def test_the_script_scenario_has_the_counts_derived_from_the_trace() -> None:
    script = load_scenario("br_instr-trace").script
    assert script is not None
    assert (script.ticks, script.sched_in, script.sched_out) == (591, 7, 6)
    assert (script.coincident, script.stray) == (72, 58)
    assert sum(script.overflows) == 7322


def test_a_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(WORKLOAD, encoding="utf-8")
    scenario = load_scenario(str(path))
    assert (scenario.name, scenario.duration, scenario.hz) == ("mine", 1_000_000, 1000)
    assert scenario.races.pmi_skid == 1
    configs = scenario.configs(scenario.cpuid)
    assert [(config.event.name, config.frequency, config.period) for config in configs] == [
        ("cpu-cycles", 4000, 0),
        ("instructions", 0, 1000),
    ]


def test_rates_become_counts_per_cycle(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = _changed(WORKLOAD, "spread_permille = 10", "spread_permille = 0")
    path.write_text(text, encoding="utf-8")
    phases = load_scenario(str(path)).phases(seed=1)
    assert len(phases) == 3
    for phase in phases:
        assert 2_500_000 <= phase.cycles <= 5_000_000
        assert phase.rates[CYCLES] == RATE_ONE
        assert phase.rates[INSTRUCTIONS] == RATE_ONE // 2500
        assert phase.rates[BRANCHES] == 0


def test_every_run_on_every_vcpu_has_a_seed_of_its_own() -> None:
    seeds = {
        run_seed(seed, run, vcpu) for seed in range(5) for run in range(9) for vcpu in range(8)
    }
    assert len(seeds) == 5 * 9 * 8


def test_an_event_that_the_pmu_lacks_is_refused_when_it_is_opened() -> None:
    scenario = load_scenario("br_instr")
    without_branches = PmuCpuid(unavailable=1 << BRANCHES)
    with pytest.raises(UsageError, match=r"^event 'branch-instructions': no counter"):
        scenario.configs(without_branches)


def test_an_unknown_scenario_names_those_that_exist() -> None:
    with pytest.raises(UsageError) as caught:
        load_scenario("nonesuch")
    assert str(caught.value) == (
        "unknown scenario 'nonesuch': no such file, and the shipped ones are "
        + ", ".join(scenario_names())
    )


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe name")
    with pytest.raises(UsageError, match=r"mine\.toml: cannot be read as UTF-8 text: "):
        load_scenario(str(path))


def test_broken_toml_is_refused_with_line_and_column(tmp_path: Path) -> None:
    assert "line 2, column" in _error(tmp_path, 'name = "x"\nsummary = \n')


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"cpu-cycles"', '"cpu-cycle"',
         f"line 5: field events[0]: unknown event 'cpu-cycle'; known: {EVENT_NAMES}"),
        ("period = 1000", "period = 1000\nfrequency = 5",
         "line 9: field events[1]: event 'instructions' has both a frequency and a period"),
        ("period = 1000", "period = -1",
         ("line 9: field events[1]: event 'instructions': frequency, period and initial_period "
          "must not be negative, initial_period at least 1")),
        ("frequency = 4000", "frequency = -4000",
         ("line 5: field events[0]: event 'cpu-cycles': frequency, period and initial_period "
          "must not be negative, initial_period at least 1")),
        ("frequency = 4000", "frequency = 4000\ninitial_period = 0",
         ("line 5: field events[0]: event 'cpu-cycles': frequency, period and initial_period "
          "must not be negative, initial_period at least 1")),
        ("frequency = 4000", 'frequency = "fast"',
         "line 7: field events[0].frequency: Expected `int`, got `str`"),
        ("frequency = 4000", "frequenzy = 4000",
         ("line 7: field events[0].frequenzy: unknown field `frequenzy`; known: name, frequency, "
          "period, initial_period, modes, pinned, per_cpu")),
        ("instructions = 1_000_000", "instruction = 1",
         ("line 13: field workload: unknown event 'instruction' in per_second; known: "
          + EVENT_NAMES.removeprefix("cpu-cycles, "))),
        ("instructions = 1_000_000", "cpu-cycles = 1",
         ("line 13: field workload: unknown event 'cpu-cycles' in per_second; known: "
          + EVENT_NAMES.removeprefix("cpu-cycles, "))),
        ("instructions = 1_000_000", "instructions = -1",
         ("line 13: field workload: rate of 'instructions': -1 is outside 0..1000000000000 "
          "per second")),
        ("phase_ms_min = 1", "phase_ms_min = 0",
         ("line 14: field workload.phase_ms_min: phase_ms_min 0 must be above 0 and at most "
          "phase_ms_max 2, which must be at most 1000000")),
        ("phase_ms_min = 1", "phase_ms_min = 3",
         ("line 14: field workload.phase_ms_min: phase_ms_min 3 must be above 0 and at most "
          "phase_ms_max 2, which must be at most 1000000")),
        ("spread_permille = 10", "spread_permille = 1000",
         "line 16: field workload.spread_permille: spread_permille 1000 is outside 0..999"),
        ("spread_permille = 10", "spread_permille = -1",
         "line 16: field workload.spread_permille: spread_permille -1 is outside 0..999"),
        ("phases = 3", "phases = 0",
         "line 17: field workload.phases: phases 0 is outside 1..100000"),
        ("phases = 3\n", "",
         "line 13: field workload: Object missing required field `phases`"),
        ("pmi_skid = 1", "pmi_skid = -1",
         "line 23: field races.pmi_skid: pmi_skid -1 is outside 0..1000000000 cycles"),
        ("pmi_skid = 1", "pmi_skit = 1",
         ("line 23: field races.pmi_skit: unknown field `pmi_skit`; known: pmi_skid, "
          "injection_latency, handler_tail")),
        ("duration_us = 1000", "duration_us = 0",
         "line 3: field duration_us: duration_us 0 is outside 1..1000000000"),
        ("duration_us = 1000", "duration_us = 1000\nhz = 0",
         "line 4: field hz: hz 0 is outside 1..1000000"),
        ("duration_us = 1000", "duration_us = 1000\ncpu_hz = 0",
         "line 4: field cpu_hz: cpu_hz 0 is outside 1000..100000000000"),
        ("duration_us = 1000", "duration_us = 1000\nhz = 1000000001",
         "line 4: field hz: hz 1000000001 is outside 1..1000000"),
        ("duration_us = 1000", "duration_us = 1000\nmax_sample_rate = 0",
         "line 4: field max_sample_rate: max_sample_rate 0 is outside 1..1000000000"),
        ("duration_us = 1000", "duration_us = 1000\nmux_us = 0",
         "line 4: field mux_us: mux_us 0 is outside 1..1000000000"),
        ("duration_us = 1000", "duration_us = 1000\nswitch_us = -1",
         "line 4: field switch_us: switch_us -1 is outside 0..1000000000"),
        ("duration_us = 1000", "duration_us = 1000\nmax_sample_rate = 3999",
         ("line 1: field -: event 'cpu-cycles': frequency 4000 Hz is above max_sample_rate "
          "3999 Hz")),
        ("duration_us = 1000", "duration_us = 1000\nread_us = -1",
         "line 4: field read_us: read_us -1 is outside 0..1000000000"),
        ("duration_us = 1000", "duration_us = 1000\ncpu_time_max_percent = 101",
         "line 4: field cpu_time_max_percent: cpu_time_max_percent 101 is outside 0..100"),
        ("duration_us = 1000", "duration_us = 1000\nvcpus = 0",
         "line 4: field vcpus: vcpus 0 is outside 1..1024"),
        ("duration_us = 1000", 'duration_us = 1000\nmissing_events = "dummy"',
         "line 4: field missing_events: missing_events 'dummy' is none of modelled, refused"),
        ("[races]", "[idle]\nrun_us = 0\nsleep_us = 9\n[races]",
         "line 23: field idle.run_us: run_us 0 is outside 1..1000000000"),
        ("duration_us = 1000",
         "duration_us = 1000\nswitch_us = 5\nidle = { run_us = 1, sleep_us = 1 }",
         "line 4: field switch_us: switch_us and [idle] exclude each other: a task that sleeps switches"),  # noqa: E501
        ("[races]", "[host]\ngp = 4\n[races]",
         "line 1: field -: gp counters: the guest's 8 are more than the physical PMU's 4"),
        ("[races]", "[host]\nfixed = 4\n[races]",
         "line 23: field host.fixed: fixed 4 is outside 0..3"),
        ("[races]", '[[host.events]]\nname = "cycles"\n[races]',
         f"line 23: field host.events[0].name: name 'cycles' is no event; known: {EVENT_NAMES}"),
        ("[races]", '[[host.events]]\nname = "cpu-cycles"\nperiod = -1\n[races]',
         "line 24: field host.events[0].period: period -1 is outside 0..140737488355327 counts"),
        ("[races]", '[[background]]\nreason = "NMI"\ncount = 1\n[races]',
         ("line 23: field background[0].reason: reason 'NMI' is no exit; known: "
          + ", ".join(EXIT_REASONS))),
        ("[races]", '[[background]]\nreason = "HLT"\n[races]',
         "line 22: field background[0]: exactly one of count and per_second is needed, above 0"),
        ("[races]", '[[background]]\nreason = "HLT"\ncount = -1\n[races]',
         "line 24: field background[0].count: count -1 is outside 0..1000000000000 exits"),
        ("period = 1000", 'modes = "none"',
         "line 11: field events[1].modes: modes 'none' is none of both, user, kernel"),
        ("duration_us = 1000", 'duration_us = "long"',
         "line 3: field duration_us: Expected `int`, got `str`"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert _error(tmp_path, _changed(WORKLOAD, old, new)) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stray = 0", "stray = 1", "line 15: field script.stray: stray 1 exceeds coincident 0"),
        ("sched_in = 1", "sched_in = 2",
         "line 11: field script.sched_in: sched_in 2 must be sched_out 0 or one more"),
        ("ticks = 1", "tics = 1",
         ("line 10: field script.tics: unknown field `tics`; known: ticks, sched_in, sched_out, "
          "overflows, coincident, stray")),
        ("[3]", '["3"]', "line 13: field script.overflows[0]: Expected `int`, got `str`"),
        ("[3]", "[]",
         "line 13: field script.overflows: overflows is empty: one number for each event is needed"),  # noqa: E501
        ("[3]", "[-3]", "line 9: field script: the numbers of a script must not be negative"),
        ("ticks = 1", "ticks = -1",
         "line 9: field script: the numbers of a script must not be negative"),
        ("coincident = 0", "coincident = 2",
         "line 14: field script.coincident: coincident 2 needs at least two events"),
        ("duration_us = 1000", "duration_us = 1000\nread_us = 5",
         "line 4: field read_us: read_us needs [workload]: a script says itself what happens when"),
        ("duration_us = 1000", 'duration_us = 1000\ncharge = "icx-2021-2p"',
         "line 4: field charge: charge needs [workload]: the clock of a script is given"),
        ("[3]", "[3, 3]",
         "line 13: field script.overflows: script.overflows has 2 entries for 1 events"),
    ],
)  # fmt: skip
def test_a_wrong_script_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert _error(tmp_path, _changed(SCRIPT, old, new)) == message


def test_an_unknown_setting_is_named_with_those_that_exist(tmp_path: Path) -> None:
    text = _changed(WORKLOAD, "duration_us = 1000", "duration = 1\nduration_us = 1000")
    message = _error(tmp_path, text)
    start = "line 3: field duration: unknown field `duration`; known: name, summary, duration_us, "
    assert message.startswith(start)


def test_neither_workload_nor_script_is_refused(tmp_path: Path) -> None:
    text = SCRIPT.partition("[script]")[0]
    message = "line 1: field -: exactly one of [workload] and [script] is needed"
    assert _error(tmp_path, text) == message


def test_both_workload_and_script_are_refused(tmp_path: Path) -> None:
    text = WORKLOAD + "[script]" + SCRIPT.partition("[script]")[2].replace("[3]", "[3, 3]")
    message = "line 1: field -: exactly one of [workload] and [script] is needed"
    assert _error(tmp_path, text) == message


def test_a_scenario_without_events_is_refused(tmp_path: Path) -> None:
    text = _changed(SCRIPT, '[[events]]\nname = "cpu-cycles"\nperiod = 10\n', "events = []\n")
    assert _error(tmp_path, text) == (
        "line 5: field events: events is empty: at least one event is needed"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("gp = 9", "line 4: field gp: gp counters: 9 is outside 1..8"),
        ("fixed = 4", "line 4: field fixed: fixed counters: 4 is outside 0..3"),
        ("width = 49", "line 1: field -: gp counter width in bits: 49 is outside 32..48"),
    ],
)
def test_a_pmu_that_cannot_be_is_refused(tmp_path: Path, setting: str, message: str) -> None:
    text = _changed(WORKLOAD, "duration_us = 1000", f"duration_us = 9\n{setting}")
    assert _error(tmp_path, text) == message


def test_the_documented_scenario_files_load_and_name_every_field(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text("utf-8")
    blocks = [part.split("```", 1)[0] for part in text.split("```toml\n")[1:]]
    path = tmp_path / "documented.toml"
    path.write_text(blocks[0])
    load_scenario(str(path))
    top, _, _ = blocks[0].partition("[workload]")
    path.write_text(top + '[[events]]\nname = "cache-misses"\n' + blocks[1].replace("591", "59"))
    assert load_scenario(str(path)).script is not None
    for kind in (
        Scenario,
        ScenarioEvent,
        Rates,
        Races,
        Idle,
        Host,
        HostEvent,
        Background,
        ScriptCounts,
    ):
        for field in fields(kind):
            assert field.name in text


def test_events_of_one_name_are_told_apart_by_modes_and_number(tmp_path: Path) -> None:
    twice = '[[events]]\nname = "cpu-cycles"\nmodes = "user"\n'
    path = tmp_path / "mine.toml"
    path.write_text(_changed(WORKLOAD, "[workload]", twice * 2 + "[workload]"))
    labels = load_scenario(str(path)).labels
    assert labels == ["cpu-cycles", "instructions", "cpu-cycles:u", "cpu-cycles:u#2"]


def test_a_script_tells_its_events_apart_by_what_they_count(tmp_path: Path) -> None:
    text = SCRIPT.replace("[script]", '[[events]]\nname = "cpu-cycles"\n[script]')
    assert _error(tmp_path, text.replace("[3]", "[3, 3]")) == (
        "line 5: field events: events of a script must differ: it says when each of them overflows"
    )
