"""The C guest as it is and with mistakes, and one kit's host for all sessions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pvpmu.conformance.guests import cases
from pvpmu.conformance.guests.runner import GuestConfig, GuestRunner, KitHost
from pvpmu.conformance.verdict import CaseResult

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "examples" / "c"
FILES = (
    *(SOURCE / name for name in ("guest.c", "binding.c", "binding.h")),
    *(ROOT / "include" / f"pvpmu_{name}.h" for name in ("guest", "driver", "live")),
)
PMIS = 24
Build = Callable[..., Path]
Play = Callable[..., dict[str, CaseResult]]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compile the C guest, with (old text, new text) replaced in whichever file has it."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler (cc)")

    def make(*changes: tuple[str, str]) -> Path:
        folder = tmp_path_factory.mktemp("guest")
        texts = {path.name: path.read_text("utf-8") for path in FILES}
        for old, new in changes:
            assert sum(text.count(old) for text in texts.values()) == 1, old
            texts = {name: text.replace(old, new) for name, text in texts.items()}
        for name, text in texts.items():
            (folder / name).write_text(text)
        made = folder / "guest"
        command = ["cc", "-std=c11", "-O0", f"-I{ROOT / 'include'}", "-o", made]
        subprocess.run([*command, folder / "guest.c", folder / "binding.c", "-pthread"], check=True)
        return made

    return make


@pytest.fixture(scope="session")
def kit() -> Iterator[KitHost]:
    with closing(KitHost()) as host:
        yield host


@pytest.fixture(scope="session")
def play(kit: KitHost) -> Play:
    """Play the host of ``program`` (empty: pvpmu-guest) for these cases: results by id."""

    def run(program: Path | str, *names: str, limit_s: float = 60.0) -> dict[str, CaseResult]:
        command = f"{program} {{name}} {PMIS}" if program else ""
        runner = GuestRunner(GuestConfig(command=command, limit_s=limit_s), kit)
        return {result.id: result for result in runner.run(cases.select(names)).results}

    return run
