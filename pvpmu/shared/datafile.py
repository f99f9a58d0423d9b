"""Read a typed TOML file; every mistake is one line with file, line and field."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from pvpmu.shared.errors import UsageError

_T = TypeVar("_T")
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]+)`")
_STEP = re.compile(r"\.(?P<key>[A-Za-z0-9_-]+)|\[(?P<index>\d+|\.\.\.)\]")


def shipped_names(folder: str) -> list[str]:
    """The TOML files of a folder of the package, without their ending, sorted."""
    from importlib import resources  # noqa: PLC0415 (a worker reads no file)

    entries = (resources.files("pvpmu") / folder).iterdir()
    return sorted(entry.name[:-5] for entry in entries if entry.name.endswith(".toml"))


def data_text(name: str, *, folder: str, what: str) -> tuple[str, str]:
    """The text of a shipped file by name, or of a file by path, and what to call it in messages.

    ``what`` the folder holds, in one word. Raises :class:`UsageError`, naming those that exist.
    """
    if name in shipped_names(folder):
        from importlib import resources  # noqa: PLC0415 (a worker reads no file)

        return (resources.files("pvpmu") / folder / f"{name}.toml").read_text("utf-8"), (
            f"{what} {name}"
        )
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected a {what} file")
    if not path.exists():
        raise UsageError(
            f"unknown {what} {name!r}: no such file, and the shipped ones are "
            f"{', '.join(shipped_names(folder))}"
        )
    try:
        return path.read_text("utf-8-sig"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def load_toml(text: str, *, source: str, kind: type[_T]) -> _T:
    """Parse ``text`` into ``kind`` (a dataclass), refusing unknown fields.

    ``source`` names the file in messages. Raises :class:`UsageError`.
    """
    import tomllib  # noqa: PLC0415 (a worker reads no file)

    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: {error}") from None
    try:
        return _checked(raw, kind)
    except msgspec.ValidationError as error:
        path, what = _explained(raw, error)
        line = _line_of(text, path)
        raise UsageError(
            f"{source}: line {line}: field {path.lstrip('.') or '-'}: {what}"
        ) from None


def from_table(table: object, *, source: str, kind: type[_T]) -> _T:
    """Make ``kind`` of a table of plain values, as :func:`load_toml` does of a file.

    Raises :class:`UsageError`, naming ``source`` and the field.
    """
    try:
        return _checked(table, kind)
    except msgspec.ValidationError as error:
        path, what = _explained(table, error)
        raise UsageError(f"{source}: field {path.lstrip('.') or '-'}: {what}") from None


def _checked(raw: object, kind: type[_T]) -> _T:
    _refuse_inside(raw, _type_info(cast("Hashable", kind)), "")
    return msgspec.convert(raw, type=kind)


def _explained(raw: object, error: msgspec.ValidationError) -> tuple[str, str]:
    """The path of the field that is wrong (``.workload.rates[1].per_s``), and what is wrong."""
    message = str(error)
    found = _PATH.search(message)
    path = found["path"] if found else ""
    what = message[: found.start()] if found else message
    unknown = _UNKNOWN.search(what)
    return f"{path}.{unknown['field']}" if unknown else _subject(raw, path, what), what


def _subject(raw: object, path: str, what: str) -> str:
    """Where a check of a whole table names a field of it first, that field's path."""
    table: Any = raw
    for step in _STEP.finditer(path):
        key, index = step["key"], step["index"]
        inside = key if key is not None else int(index) if index.isdigit() else None
        try:
            table = table[inside]
        except (KeyError, IndexError, TypeError):
            return path
    first = what.split(" ", 1)[0].rstrip(":")
    named = isinstance(table, dict) and first.split(".")[0] in table
    return f"{path}.{first}" if named else path


@cache
def _type_info(kind: Hashable) -> msgspec.inspect.Type:
    """What ``kind`` is made of, all the way down: takes longer than to read a file of it."""
    return msgspec.inspect.type_info(kind)


def _refuse_unknown(
    raw: Mapping[object, object], info: msgspec.inspect.DataclassType, path: str
) -> None:
    """msgspec ignores keys that a dataclass lacks; a user's typo must not be ignored."""
    fields: dict[object, msgspec.inspect.Type] = {field.name: field.type for field in info.fields}
    for key, value in raw.items():
        if key not in fields:
            known = ", ".join(map(str, fields))
            raise msgspec.ValidationError(f"unknown field `{key}`; known: {known} - at `${path}`")
        _refuse_inside(value, fields[key], f"{path}.{key}")


def _refuse_inside(value: object, info: msgspec.inspect.Type, path: str) -> None:
    if isinstance(info, msgspec.inspect.UnionType):
        for member in info.types:
            _refuse_inside(value, member, path)
    elif isinstance(info, msgspec.inspect.DataclassType):
        if isinstance(value, dict):
            _refuse_unknown(value, info, path)
    elif isinstance(info, (msgspec.inspect.VarTupleType, msgspec.inspect.ListType)):
        if isinstance(value, list):
            for index, item in enumerate(value):
                _refuse_inside(item, info.item_type, f"{path}[{index}]")
    elif isinstance(info, msgspec.inspect.DictType) and isinstance(value, dict):
        for key, item in value.items():
            _refuse_inside(item, info.value_type, f"{path}.{key}")


def _line_of(text: str, path: str) -> int:
    """The line where ``path`` (``.workload.rates[1].per_s``) is set, or the nearest above it."""
    lines = text.splitlines()
    at = 0
    for step in _STEP.finditer(path):
        key, index = step["key"], step["index"]
        if key is not None:
            setting = re.compile(rf"^\s*(?:\[\[?\s*(?:[\w-]+\.)*)?\"?{re.escape(key)}\"?\s*[=.\]]")
            hits = [n for n in range(at, len(lines)) if setting.match(lines[n])]
            if not hits:
                break
            at = hits[0]
        elif index and index.isdigit():
            header = lines[at].strip() if at < len(lines) else ""
            if header.startswith("[["):
                same = [n for n in range(at, len(lines)) if lines[n].strip() == header]
                at = same[min(int(index), len(same) - 1)]
    return at + 1
