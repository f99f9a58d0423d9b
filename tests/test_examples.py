"""Every example runs as it stands, says what it should, and stays short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "count_instructions.py": ["instructions  (error 0)", "0  PMIs"],
    "sample_on_overflow.py": ["one every 100,000 branches", "count 100,000"],
    "page_against_trap.py": [" trap:", " page:", "the same samples"],
    "two_vcpus.py": ["vCPU 0:", "vCPU 1:", "count error 0"],
}


def test_every_example_is_known_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_has_at_most_60_lines(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 60


@pytest.mark.process
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stderr == ""
    for words in SAYS[name]:
        assert words in done.stdout
