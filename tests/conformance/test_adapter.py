"""Targets behind a command: both examples, and commands that crash, hang or talk nonsense."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pvpmu.conformance import adapter
from pvpmu.conformance.adapter import AdapterTarget
from pvpmu.conformance.inline import InlineTarget
from pvpmu.conformance.lines import lines_schema
from pvpmu.conformance.runner import RunConfig, Runner, select
from pvpmu.conformance.vector import Vector
from pvpmu.conformance.verdict import CaseResult, Verdict
from pvpmu.shared.errors import PeerError, UsageError

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "examples" / "adapters"
PYTHON_STUB = shlex.join([sys.executable, str(STUBS / "inline_adapter.py")])
LIMIT_S = 60.0
HELLO = (
    "print('"
    '{"hello":{"name":"x","version":"1","protocol":1,"features":[],"profiles":["kvm-5.14"]}}'
    "', flush=True)\n"
)

RunAll = Callable[[str, list[Vector]], list[CaseResult]]


@pytest.fixture
def run() -> Iterator[RunAll]:
    """Run vectors on what a command speaks."""
    runners = []

    def run(command: str, vectors: list[Vector]) -> list[CaseResult]:
        config = RunConfig(target="adapter", limit_s=LIMIT_S)
        runners.append(Runner(lambda: AdapterTarget(command, LIMIT_S), config))
        return list(runners[-1].run(vectors).results)

    yield run
    for runner in runners:
        runner.close()


def script(tmp_path: Path, body: str) -> str:
    """A command that answers hello, then does ``body`` with what it needs imported."""
    file = tmp_path / "adapter.py"
    text = "import sys, os\nask = sys.stdin.readline\nask()\n" + HELLO + body
    file.write_text(text)
    return shlex.join([sys.executable, str(file)])


def test_the_python_example_gives_the_verdicts_of_inline(
    run: RunAll, vectors: list[Vector]
) -> None:
    chosen = select(vectors, ["OVF", "PVP", "FLT", "MIG", "SMP", "SEAM"])
    inline = Runner(InlineTarget, RunConfig()).run(chosen).results
    by_lines = run(PYTHON_STUB, chosen)
    assert len(by_lines) > 150
    verdicts = [(case.id, case.path, case.verdict, case.reason) for case in by_lines]
    assert verdicts == [(case.id, case.path, case.verdict, case.reason) for case in inline]


def test_the_c_example_ends_with_verdicts(
    run: RunAll, vectors: list[Vector], tmp_path: Path
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: cc is not installed")
    program = tmp_path / "registers"
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    source = str(STUBS / "registers.c")
    subprocess.run([compiler, *strict, "-o", str(program), source], check=True, timeout=300)
    results = run(str(program), vectors)
    verdicts = {verdict: [c.id for c in results if c.verdict is verdict] for verdict in Verdict}
    assert verdicts[Verdict.ERROR] == []
    assert verdicts[Verdict.PASS]
    assert verdicts[Verdict.FAIL]
    assert verdicts[Verdict.SKIP]


@pytest.mark.parametrize(("name", "most"), [("inline_adapter.py", 60), ("registers.c", 120)])
def test_an_example_is_short(name: str, most: int) -> None:
    assert len((STUBS / name).read_text().splitlines()) <= most


BROKEN = {
    "crashes": ("ask(); sys.exit(3)", "the adapter ended, exit status 3"),
    "closes its output": ("ask(); os.close(1); ask()", "the adapter closed its output"),
    "talks nonsense": ("ask(); print('ok', flush=True); ask()", "the adapter answered b'ok'"),
    "answers a number": (
        """ask(); print('{"value": 1}', flush=True); ask()""",
        "the adapter answered",
    ),
    "never ends a line": (
        "ask()\nfor _ in range(40): sys.stdout.write('x' * 65536)\nsys.stdout.flush(); ask()",
        "the adapter answered a line of more than",
    ),
    "takes an NMI at reset": (
        """ask(); print('{"nmi": 0}', flush=True); ask()""",
        "answered a reset with an NMI of vCPU 0",
    ),
    "speaks unasked": (
        "ask(); print('{}\\n{}', flush=True); ask()",
        "without being asked",
    ),
    "reports": (
        """ask(); print('{"error": "no disk"}', flush=True); ask()""",
        "the adapter reports: no disk",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_command_that_breaks_is_an_error_of_each_case(
    how: str,
    run: RunAll,
    vectors: list[Vector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if how == "closes its output":
        monkeypatch.setattr(adapter, "_END_S", 0.1)
    body, words = BROKEN[how]
    cases = [vector for vector in vectors if not vector.needs("trap")][:2]
    results = [case for case in run(script(tmp_path, body), cases) if case.path == "trap"]
    assert [case.verdict for case in results] == [Verdict.ERROR] * 2
    for case in results:
        assert words in case.reason


def test_a_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_END_S", 0.1)
    target = AdapterTarget(script(tmp_path, "import signal\nwhile True: signal.pause()"), LIMIT_S)
    assert target.hello().name == "x"
    child = target._child
    assert child is not None
    child._limit_s = 0.2
    with pytest.raises(PeerError, match=r"did not answer within 0\.2 s"):
        target.reset({})
    assert child._process.returncode is not None, "it was ended"
    with pytest.raises(PeerError, match="has ended"):
        target.op("rd", 0, {}, lambda _: None)


def test_a_case_that_ends_in_a_handler_ends_the_command(tmp_path: Path) -> None:
    body = """ask(); print("{}", flush=True); ask(); print('{"nmi": 0}', flush=True); ask()"""
    target = AdapterTarget(script(tmp_path, body), LIMIT_S)
    target.reset({})

    def handler(vcpu: int) -> None:
        raise KeyError(vcpu)

    with pytest.raises(KeyError):
        target.op("run", 0, {}, handler)
    target.reset({})
    target.close()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "expected adapter:COMMAND"),
        ('"', "No closing quotation"),
        ("/nowhere/at-all", "No such file"),
        ("true", "the adapter ended, exit status 0"),
        ("echo hi", "the adapter answered b'hi'"),
    ],
)
def test_a_command_that_is_no_adapter_cannot_be_used(command: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        AdapterTarget(command, LIMIT_S).hello()


def test_the_published_schema_is_that_of_the_types() -> None:
    file = ROOT / "pvpmu" / "conformance" / "adapter-schema.json"
    same = file.read_bytes() == lines_schema()
    assert same, "run: pvpmu conform schema --adapter > pvpmu/conformance/adapter-schema.json"


def test_every_line_of_a_run_obeys_the_schema(
    vectors: list[Vector], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[bytes] = []
    send, receive = adapter._Child.send, adapter._Child.line

    def sent(self: Any, line: bytes) -> None:
        lines.append(line)
        send(self, line)

    def received(self: Any) -> bytes:
        lines.append(receive(self))
        return lines[-1]

    monkeypatch.setattr(adapter._Child, "send", sent)
    monkeypatch.setattr(adapter._Child, "line", received)
    runner = Runner(lambda: AdapterTarget(PYTHON_STUB, LIMIT_S), RunConfig(path="page"))
    runner.run(select(vectors, ["OVF-08*", "FLT-0*", "MIG-0*"]))
    runner.close()
    checker = jsonschema.Draft202012Validator(json.loads(lines_schema()))
    different = {line for line in lines if b"nmi" in line or len(line) > 40}
    assert len(different) > 20
    assert any(b'"iret"' in line for line in lines)
    for line in different:
        checker.validate(json.loads(line))
    for wrong in ('{"value": 1}', '{"nmi": "0x0"}', '{"x": 1}', '{"hello": {}}'):
        assert not checker.is_valid(json.loads(wrong))
