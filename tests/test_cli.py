"""The commands: what they print, where, and with which exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pvpmu.cli
import pvpmu.guest.cli
import pvpmu.host.cli
from pvpmu.bench.document import SCHEMA, Json
from pvpmu.shared.design import design_names
from pvpmu.shared.page import GLOBAL_CTRL
from pvpmu.shared.registers import REGISTERS

TIMEOUT_S = 300
SHORT = """
name = "short"
summary = "20 ms of two sampled events"
duration_us = 20_000
[[events]]
name = "cpu-cycles"
frequency = 4000
initial_period = 625_000
[[events]]
name = "cache-misses"
period = 10
[workload]
phase_ms_min = 1
phase_ms_max = 3
spread_permille = 100
phases = 4
[workload.per_second]
instructions = 4_000_000_000
cache-misses = 20_000
"""
MAIL = Path(__file__).parent / "trace" / "data" / "mail_2021.txt"
MAINS = {
    "pvpmu": pvpmu.cli.main,
    "pvpmu-host": pvpmu.host.cli.main,
    "pvpmu-guest": pvpmu.guest.cli.main,
}


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "short.toml"
    path.write_text(SHORT)
    return path


def refused(command: str, capsys: Any) -> str:
    """The one error line of a command that must fail with status 2."""
    name, *args = command.split()
    assert MAINS[name](args) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"{name}: error: ")
    assert errors.count("\n") == 1
    return str(errors)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("pvpmu bench --scenario nope", "br_instr-trace"),
        ("pvpmu bench --design nope", "trap-5.14"),
        ("pvpmu bench --design page nope", "trap-5.14"),
        ("pvpmu bench --vcpus 0", "0 is outside 1..1024"),
        ("pvpmu bench --runs 0", "0 is below 1"),
        ("pvpmu bench --runs x", "'x' is no integer"),
        ("pvpmu bench --seed x", "x"),
        ("pvpmu bench --transport pigeon", "inline"),
        ("pvpmu bench --pin loose", "split"),
        ("pvpmu bench --charge icx-2021", "give one of icx-2021-2p, icx-2021-3p"),
        ("pvpmu bench --charge nope", "icx-2021-2p"),
        ("pvpmu bench --charge icx-2021-2p --scenario br_instr-trace", "is a script"),
        ("pvpmu bench --json /nonexistent/file", "cannot be written"),
        ("pvpmu bench --json /", "folder"),
        ("pvpmu registers MSR_NOPE", "MSR_CORE_PERF_GLOBAL_CTRL"),
        ("pvpmu abi --lang rust", "'c'"),
        ("pvpmu abi", "--lang"),
        ("pvpmu abi --lang c --output /nonexistent/file", "cannot be written"),
        ("pvpmu", "COMMAND"),
        ("pvpmu nope", "cleanup"),
        ("pvpmu-host --vcpus 1025", "1025 is outside 1..1024"),
        ("pvpmu-host --wait 1e300", "outside 0..1000000"),
        ("pvpmu bench --scenario /", "is a folder"),
        ("pvpmu-host --vcpus 0", "0 is outside 1..1024"),
        ("pvpmu-host --design nope", "trap-5.14"),
        ("pvpmu-host --name a/b", "a/b"),
        ("pvpmu-host --missing-events dummy", "modelled"),
        ("pvpmu-host --missing-events refused", "--missing-events: only with --perf linux"),
        ("pvpmu-host --gp 9", "9 is outside 1..8"),
        ("pvpmu-host --fixed 4", "4 is outside 0..3"),
        ("pvpmu-host --width 49", "49 is outside 32..48"),
        ("pvpmu-host --wait -1", "0..1000000"),
        ("pvpmu-host --host-event cycles", "known: cpu-cycles, instructions"),
        ("pvpmu-host --host-event cpu-cycles:often", "known: period=COUNTS, pinned, host-only"),
        ("pvpmu-host --host-mux 0", "mux_cycles 0 is below 1"),
        ("pvpmu-host --physical-gp 4", "the guest's 8 are more than the physical PMU's 4"),
        ("pvpmu-host --physical-fixed 4", "physical PMU: fixed 4 is outside 0..3"),
        ("pvpmu-guest --vcpus 0", "0 is outside 1..1024"),
        ("pvpmu-guest --scenario nope", "br_instr"),
        ("pvpmu-guest --memory 100", "100 bytes, expected at least 4096 bytes"),
        ("pvpmu-guest --memory 8191 --vcpus 2", "8191 bytes, expected at least 8192 bytes"),
        ("pvpmu-guest --name .", "'.'"),
        (
            "pvpmu-guest --scenario throttled",
            "cannot charge 'icx-2021-3p': use pvpmu bench, or charge nothing: --charge none",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(command: str, says: str, capsys: Any) -> None:
    assert says in refused(command, capsys)


def test_a_guest_runs_a_scenario_without_the_charge_that_it_asks_for(capsys: Any) -> None:
    words = ["--scenario", "throttled", "--charge", "none", "--name", "test-nobody", "--wait", "0"]
    assert pvpmu.guest.cli.main(words) == 1
    assert "no host" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("cache-misses", "cache-mises"), ["short.toml", "cache-mises", "known"]),
        (("period = 10", "period = ten"), ["short.toml", "line 11"]),
        (("period = 10", 'period = "10"'), ["short.toml", "line 11", "period"]),
        (("duration_us = 20_000", "duration = 20_000"), ["line 4", "duration"]),
        (("[workload]", "gp = 0\n[workload]"), ["short.toml", "gp"]),
        (
            ("duration_us = 20_000", 'duration_us = 20_000\ncharge = "nope"'),
            ["scenario short: field charge: ", "nope", "icx-2021-2p"],
        ),
    ],
)
def test_a_malformed_scenario_names_file_line_and_field(
    scenario: Path, change: tuple[str, str], says: list[str], capsys: Any
) -> None:
    scenario.write_text(SHORT.replace(*change))
    line = refused(f"pvpmu bench --scenario {scenario}", capsys)
    for word in says:
        assert word in line


def test_an_event_that_no_counter_supports_is_refused_before_anything_starts(
    scenario: Path, capsys: Any
) -> None:
    text = SHORT.replace('"cpu-cycles"', '"ref-cycles"').replace(
        "[[events]]", "fixed = 0\n[[events]]", 1
    )
    scenario.write_text(text)
    assert "ref-cycles" in refused(f"pvpmu bench --scenario {scenario}", capsys)


@pytest.mark.parametrize("name", ["0x38f", "MSR_CORE_PERF_GLOBAL_CTRL", "ia32_perf_global_ctrl"])
def test_a_register_is_found_by_any_of_its_names(name: str, capsys: Any) -> None:
    assert pvpmu.cli.main(["registers", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0x38f MSR_CORE_PERF_GLOBAL_CTRL (RW)"
    assert lines[-1] == f"    page: byte {GLOBAL_CTRL * 8:#x}"


def test_without_a_name_every_register_is_printed(capsys: Any) -> None:
    assert pvpmu.cli.main(["registers"]) == 0
    output = capsys.readouterr().out
    assert all(f"{register.address:#x} {register.name} " in output for register in REGISTERS)


@pytest.mark.parametrize("name", MAINS)
def test_help_is_printed_and_ends_well(name: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        MAINS[name](["--help"])
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_the_help_of_bench_names_scenarios_and_designs(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        pvpmu.cli.main(["bench", "--help"])
    # A line of help may end at the hyphen of a name.
    text = "".join(capsys.readouterr().out.split())
    assert all(name in text for name in (*design_names(), "br_instr-races"))


def bench(scenario: Path, capsys: Any, *args: str) -> Json:
    status = pvpmu.cli.main(["bench", "--scenario", str(scenario), "--json", "-", *args])
    assert status == 0
    return dict(json.loads(capsys.readouterr().out))


def test_json_on_standard_output_is_nothing_but_the_document(scenario: Path, capsys: Any) -> None:
    result = bench(scenario, capsys, "--transport", "inline", "--design", "page", "page")
    assert result["schema"] == SCHEMA
    assert [design["name"] for design in result["designs"]] == ["page"]


def test_a_design_option_given_twice_adds_to_the_first(scenario: Path, capsys: Any) -> None:
    options = ("--transport", "inline", "--design", "trap", "--design", "page")
    result = bench(scenario, capsys, *options)
    assert [design["name"] for design in result["designs"]] == ["trap", "page"]


def test_a_json_file_comes_with_the_table(scenario: Path, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "out.json"
    args = ["--scenario", str(scenario), "--transport", "inline", "--json", str(target)]
    assert pvpmu.cli.main(["bench", *args]) == 0
    assert "PMU exits per PMI" in capsys.readouterr().out
    assert json.loads(target.read_text())["scenario"] == "short"


@pytest.mark.process
def test_a_scenario_says_how_many_vcpus_and_what_is_charged_unless_asked(
    scenario: Path, capsys: Any
) -> None:
    own = 'duration_us = 5_000\nvcpus = 2\ncharge = "icx-2021-2p"'
    scenario.write_text(SHORT.replace("duration_us = 20_000", own))
    options = ("--transport", "inline", "--design", "page")
    result = bench(scenario, capsys, *options)
    assert (result["vcpus"], result["charge"]) == (2, "icx-2021-2p")
    assert result["designs"][0]["charged_ns"] > 0
    result = bench(scenario, capsys, *options, "--vcpus", "1", "--charge", "none")
    assert (result["vcpus"], result["charge"]) == (1, None)
    assert result["designs"][0]["charged_ns"] == 0


def test_processes_and_inline_give_the_same_document_but_for_time(
    scenario: Path, capsys: Any
) -> None:
    args = ("--runs", "2", "--vcpus", "2", "--seed", "9", "--design", "trap", "page")
    process = bench(scenario, capsys, *args)
    inline = bench(scenario, capsys, "--transport", "inline", *args)
    assert process["floors"]["round_trip_ns"] > 0
    assert process["designs"][0]["ratios"]["exit_to_round_trip"] > 0
    timed = {
        "handler_ns",
        "handler_buckets",
        "handler_p50s",
        "handler_to_baseline",
        "timer_ns",
        "access_ns",
        "ratios",
        "accesses_per_s",
    }
    for one, other in zip(process["designs"], inline["designs"], strict=True):
        for key in one.keys() - timed:
            assert one[key] == other[key], key


@pytest.mark.process
def test_two_vcpus_on_two_cpus_are_compared_with_one(scenario: Path, capsys: Any) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("comparing two vCPUs with one needs 2 CPUs")
    scaling = bench(scenario, capsys, "--design", "trap")["scaling"]
    assert min(scaling["exits_per_s_1"], scaling["exits_per_s_2"], scaling["ratio"]) > 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "command",
    [
        "abi --lang c --output /dev/full",
        "whatif {mail} --json /dev/full",
        "bench --transport inline --design page --scenario {scenario} --json /dev/full",
        "conform run --target inline AUTO-01 --json /dev/full",
    ],
)
def test_a_full_disk_is_one_line_that_names_the_file(
    command: str, scenario: Path, capsys: Any
) -> None:
    words = command.format(mail=MAIL, scenario=scenario).split()
    assert pvpmu.cli.main(words) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "pvpmu: error: /dev/full: cannot be written: No space left on device"


@pytest.mark.process
def test_a_reader_that_leaves_early_is_no_error_message(scenario: Path) -> None:
    command = [sys.executable, "-m", "pvpmu.cli", "bench", "--transport", "inline"]
    command += ["--design", "page", "--scenario", str(scenario)]
    reader, writer = os.pipe()
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True) as process:
        os.close(writer)
        os.close(reader)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode in {1, 128 + signal.SIGPIPE}
    assert "Traceback" not in errors
    assert "Error" not in errors


def test_a_command_loads_no_other_commands_modules() -> None:
    code = (
        "import sys; from pvpmu.cli import main; status = main(['registers', '0x834']); "
        "others = [m for m in sys.modules if m.startswith(('pvpmu.bench', 'pvpmu.host', 'rich'))]; "
        "sys.exit(status or len(others))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["bench", "conform", "design", "whatif", "cleanup"])
def test_the_help_lists_every_command(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        pvpmu.cli.main(["--help"])
    assert ended.value.code == 0
    assert f"    {command} " in capsys.readouterr().out
