"""Find cost models: the shipped ones, those of this user, and files by path."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from pathlib import Path

from pvpmu.cost.file import load_cost_file
from pvpmu.cost.model import CostModel
from pvpmu.shared.errors import UsageError

DEFAULT = "icx-2021"
HERE = "here"
_FOLDER = "costs"
_END = ".toml"


def own_folder() -> Path:
    """Where this user's models are: ``$XDG_DATA_HOME/pvpmu/costs``, by default below ~."""
    base = os.environ.get("XDG_DATA_HOME", "")
    # As the XDG base directory specification says: a relative path is invalid and is ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return root / "pvpmu" / _FOLDER


def shipped_models() -> list[CostModel]:
    """The shipped models, sorted by name."""
    folder = resources.files("pvpmu") / _FOLDER
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(_END))
    return [
        _model_of((folder / name).read_text("utf-8"), f"cost model {name[:-5]}") for name in names
    ]


def own_names() -> list[str]:
    """Names of this user's models: those of the files."""
    return sorted(path.stem for path in own_folder().glob(f"*{_END}"))


def models_named(names: Iterable[str]) -> list[CostModel]:
    """The models of so many names, families or files, in that order, each once.

    Raises :class:`UsageError` for an unknown name, a wrong file, two models of one name.
    """
    found: dict[str, CostModel] = {}
    for name in names:
        for model in _named(name):
            known = found.setdefault(model.name, model)
            if known.file != model.file:
                raise UsageError(f"--cost {name}: another cost model is called {model.name!r}")
    return list(found.values())


def model_named(name: str) -> CostModel:
    """The one model of a name or file; raises :class:`UsageError`, also for a family of several."""
    models = _named(name)
    if len(models) > 1:
        raise UsageError(
            f"{name!r} is a family, give one of {', '.join(model.name for model in models)}"
        )
    return models[0]


def model_in(path: Path) -> CostModel:
    """The model in a file; raises :class:`UsageError`."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected a cost model file")
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    return _model_of(text, str(path))


@lru_cache(maxsize=64)
def _model_of(text: str, source: str) -> CostModel:
    """The model that a file's text describes: at each corner of its ranges costs are solved for."""
    return CostModel.of(load_cost_file(text, source))


def _named(name: str) -> list[CostModel]:
    shipped = shipped_models()
    models = [model for model in shipped if name in {model.name, model.file.family}]
    if models:
        return models
    if name in own_names():
        return [model_in(own_folder() / f"{name}{_END}")]
    path = Path(name)
    if name and path.exists():
        return [model_in(path)]
    if name == HERE:
        raise UsageError(
            f"no cost model {HERE!r} yet: `pvpmu calibrate` writes {own_folder() / HERE}{_END}"
        )
    families = {model.file.family for model in shipped if model.file.family}
    known = ", ".join([*sorted(families), *(model.name for model in shipped), *own_names()])
    raise UsageError(f"unknown cost model {name!r}: no such file, and those there are: {known}")
