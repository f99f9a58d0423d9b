"""Where cost models are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pvpmu.cost.shelf import model_named, models_named, own_folder, shipped_models
from pvpmu.shared.errors import UsageError

from .test_file import PLAIN

BOTH = ["icx-2021-2p", "icx-2021-3p"]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without models: their folder, not made yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "pvpmu" / "costs"


def names(*asked: str) -> list[str]:
    return [model.name for model in models_named(asked)]


def test_a_family_is_all_its_models_and_a_name_is_one() -> None:
    assert names("icx-2021") == BOTH
    assert names("icx-2021-3p") == ["icx-2021-3p"]
    assert names("icx-2021-3p", "icx-2021") == ["icx-2021-3p", "icx-2021-2p"]


def test_a_shipped_file_bears_its_model_s_name() -> None:
    assert [model.name for model in shipped_models()] == BOTH


def test_a_file_is_found_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "any.toml"
    path.write_text(PLAIN)
    assert names(str(path), "icx-2021-2p") == ["mine", "icx-2021-2p"]


def test_a_file_of_this_user_is_found_by_name(own: Path) -> None:
    own.mkdir(parents=True)
    (own / "here.toml").write_text(PLAIN.replace("mine", "here"))
    assert own_folder() == own
    assert names("here") == ["here"]


def test_without_a_calibration_here_says_how_to_make_one(own: Path) -> None:
    with pytest.raises(UsageError, match="pvpmu calibrate") as caught:
        names("here")
    assert str(own / "here.toml") in str(caught.value)


def test_an_unknown_name_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"unknown cost model 'x'.*icx-2021, icx-2021-2p, icx-2"):
        names("x")


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(PLAIN.replace("mine", "icx-2021-2p"))
    with pytest.raises(UsageError, match="another cost model is called 'icx-2021-2p'"):
        names("icx-2021", str(path))


def test_one_model_is_asked_for_by_its_own_name() -> None:
    assert model_named("icx-2021-2p").name == "icx-2021-2p"
    with pytest.raises(UsageError, match="'icx-2021' is a family, give one of icx-2021-2p, icx"):
        model_named("icx-2021")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder, expected a cost model file"):
        names(str(tmp_path))


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as UTF-8"):
        names(str(path))


def test_a_relative_data_home_is_ignored(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_folder() == tmp_path / ".local" / "share" / "pvpmu" / "costs"
