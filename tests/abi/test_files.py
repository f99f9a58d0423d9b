"""The committed generated files, and the command that writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pvpmu.cli
from pvpmu.abi.files import FILES
from pvpmu.shared.page import PAGE

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", FILES)
def test_the_committed_file_is_what_the_declarations_give(name: str) -> None:
    committed = (ROOT / name).read_text("utf-8")
    assert committed == FILES[name](), "run `make generated`"


def test_all_files_are_written_into_the_working_directory(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "pvpmu.abi"], cwd=tmp_path, check=True, timeout=300)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert written == set(FILES)


def test_the_command_prints_the_header_or_writes_it(tmp_path: Path, capsys: object) -> None:
    target = tmp_path / "pvpmu.h"
    assert pvpmu.cli.main(["abi", "--lang", "c"]) == 0
    printed = capsys.readouterr().out  # type: ignore[attr-defined]
    assert pvpmu.cli.main(["abi", "--lang", "c", "--output", str(target)]) == 0
    assert printed == target.read_text("utf-8") == FILES["include/pvpmu.h"]()


def _bytes(text: str) -> list[tuple[int, int]]:
    """(offset, size) of each row of a document's first table."""
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| 0x")]
    return [(int(cells[1], 16), int(cells[2])) for cells in rows]


def test_every_byte_of_the_page_is_in_exactly_one_row() -> None:
    end = 0
    for offset, size in _bytes(FILES["docs/generated/page.md"]()):
        assert offset == end
        end += size
    assert end == PAGE.size


def test_every_word_of_the_page_has_its_rules() -> None:
    text = FILES["docs/generated/page.md"]()
    by_word = text[text.index("## Who may touch") :]
    for field in PAGE.fields:
        assert f"| `{field.name}` |" in by_word
