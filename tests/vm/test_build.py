"""The guest's program is built once, from what it says it is built from."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvpmu.shared.errors import ResourceError
from pvpmu.vm import build


def test_the_program_is_built_once_and_then_taken_from_the_cache(
    needs_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = build.program()
    monkeypatch.setattr(build, "compiler", lambda: pytest.fail("compiled again"))
    assert build.program() == first
    (made,) = (tmp_path / "pvpmu" / "vm").iterdir()
    assert {path.name for path in made.iterdir()} >= {"guest.bin", "guest.c", "pvpmu.h"}


def test_a_program_that_is_not_as_it_was_built_is_built_again(
    needs_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole = build.program()
    (made,) = (tmp_path / "pvpmu" / "vm").glob("*/guest.bin")
    for damaged in (b"", whole[:3000]):
        made.write_bytes(damaged)
        assert build.program() == whole
        assert made.read_bytes() == whole


def test_a_compiler_that_fails_without_a_word_is_told_by_its_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    with pytest.raises(ResourceError, match="guest: status 1: it says nothing"):
        build.program()


def test_other_sources_are_another_program(
    needs_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.program()
    texts = build._sources()
    monkeypatch.setattr(build, "_sources", lambda: {**texts, "pvpmu.h": texts["pvpmu.h"] + "\n"})
    build.program()
    assert len(list((tmp_path / "pvpmu" / "vm").iterdir())) == 2


def test_no_compiler_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ResourceError, match="install the package gcc, or set CC"):
        build.program()


def test_what_the_compiler_refuses_is_one_line(
    needs_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = build._sources()
    monkeypatch.setattr(build, "_sources", lambda: {**texts, "guest.c": "int vm_main(\n"})
    with pytest.raises(
        ResourceError, match=r"cannot build the VM's guest: status 1: guest\.c"
    ) as raised:
        build.program()
    assert "\n" not in str(raised.value)


def test_a_cache_that_cannot_be_written_is_one_line(
    needs_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pvpmu").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ResourceError, match="cannot be built here"):
        build.program()


def test_an_installation_without_the_headers_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "_HERE", tmp_path / "a" / "b")
    with pytest.raises(ResourceError, match="lacks the guest's sources"):
        build.shared_folder()
