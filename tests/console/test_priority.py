"""Which session comes first, and that all is as before in the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pvpmu.console.priority import before

HOST = 4711


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """This process is of session 25, the host of 7."""
    for name, group in (("self", "/autogroup-25 nice 3\n"), (str(HOST), "/autogroup-7 nice 0\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "autogroup").write_text(group)
    return tmp_path


def stored(proc: Path) -> str:
    return (proc / "self" / "autogroup").read_text()


def test_another_session_than_the_hosts_comes_first_until_the_end(proc: Path) -> None:
    with before([HOST], proc) as changed:
        assert changed
        assert stored(proc) == "-10"
    assert stored(proc) == "3"


def test_it_is_put_back_also_when_the_view_fails(proc: Path) -> None:
    with pytest.raises(ZeroDivisionError), before([HOST], proc):
        raise ZeroDivisionError
    assert stored(proc) == "3"


def test_the_hosts_own_session_is_left_alone(proc: Path) -> None:
    (proc / "self" / "autogroup").write_text("/autogroup-7 nice 0\n")
    with before([HOST], proc) as changed:
        assert not changed
        assert stored(proc) == "/autogroup-7 nice 0\n"
    assert stored(proc) == "/autogroup-7 nice 0\n"


def test_a_second_view_of_a_session_leaves_it_to_the_first_to_put_back(proc: Path) -> None:
    (proc / "self" / "autogroup").write_text("/autogroup-25 nice -10\n")
    with before([HOST], proc) as changed:
        assert not changed
    assert stored(proc) == "/autogroup-25 nice -10\n"


def test_a_host_that_has_gone_is_in_no_session(proc: Path) -> None:
    with before([1], proc) as changed:
        assert changed


def test_a_kernel_without_autogroups_changes_nothing(tmp_path: Path) -> None:
    with before([HOST], tmp_path) as changed:
        assert not changed
    assert list(tmp_path.iterdir()) == []


def test_what_may_not_be_changed_is_left_alone(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    with before([HOST], proc) as changed:
        assert not changed


def test_in_this_process_own_session_nothing_changes() -> None:
    with before([os.getpid()]) as changed:
        assert not changed
