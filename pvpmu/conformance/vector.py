"""Vectors: conformance cases as data, read from JSON files and checked before anything runs.

A file holds one area; a vector holds one case of the catalogue, or a variant of it (``OVF-01/a``).
``docs/conformance.md`` explains the format, ``vectors/schema.json`` is generated from these types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from pvpmu.conformance import features
from pvpmu.conformance.expression import ExpressionError, names_in
from pvpmu.conformance.names import FIXED_NAMES, PAGE_WORDS, RUN_NAMES, SHAPE_NAMES
from pvpmu.conformance.ops import (
    AnyOp,
    Expect,
    FilterEntry,
    Foreach,
    Let,
    Observed,
    PathName,
    Repeat,
    inside,
    tag_of,
)
from pvpmu.shared.errors import UsageError

Level = Literal["MUST", "SHOULD", "MAY"]
ProfileName = Literal["kvm-5.14", "kvm-6.12", "strict-sdm", "kvm-like"]
PROFILES = ("kvm-5.14", "kvm-6.12", "strict-sdm")
_KVM_LIKE = ("kvm-5.14", "kvm-6.12")
PATHS: tuple[PathName, ...] = ("trap", "page", "page+freeze")
SCHEMA_NAME = "schema.json"
_RULE = r"^[A-Z]{2,3}-[1-9][0-9]*$"
_ID = r"^[A-Z]{2,4}-[0-9]{2,3}(/[a-z0-9]+)?$"


class Config(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """The machine that a vector runs on.

    ``gp``, ``fixed``, ``gp_width``, ``fixed_width`` (bits), ``version``, ``unavailable`` (EBX) and
    ``length`` (of EBX) describe CPUID leaf 0xA; ``full_width`` is PERF_CAPABILITIES bit 13,
    ``pdcm`` whether that register exists, ``pmu`` off the VM-level disable. ``page``: the host
    offers the page; ``register``: the kit registers it before the first operation on a page path;
    ``freeze``: run page paths without FREEZE, with it, or both. ``lvtpc_masked``: delivery masks
    LVTPC (None: as the profile says); ``lvtpc_auto``: page paths negotiate LVTPC_AUTO.
    ``is_paused``: KVM after the 2021 patch.
    """

    gp: Annotated[int, Meta(ge=0, le=16)] = 4
    fixed: Annotated[int, Meta(ge=0, le=8)] = 3
    gp_width: int = 48
    fixed_width: int = 48
    version: Annotated[int, Meta(ge=0, le=5)] = 2
    unavailable: int = 0
    length: Annotated[int, Meta(ge=0, le=32)] = 7
    full_width: bool = True
    pdcm: bool = True
    pmu: bool = True
    vcpus: Annotated[int, Meta(ge=1, le=4)] = 1
    page: bool = True
    register: bool = True
    freeze: Literal["off", "on", "both"] = "both"
    lvtpc_masked: bool | None = None
    lvtpc_auto: bool = False
    is_paused: bool = True


class Vector(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """One case.

    ``clause``: where the requirement comes from. ``rules``: those of ``docs/protocol.md`` that it
    tests. ``requires``: features of the target beyond those that its operations and configuration
    imply. ``profile``: those it holds in (none: all). ``note``: where the project's design
    decides otherwise than the catalogue, and how.
    """

    id: Annotated[str, Meta(pattern=_ID)]
    title: str
    clause: str
    rules: tuple[Annotated[str, Meta(pattern=_RULE)], ...] = ()
    level: Level = "MUST"
    requires: tuple[str, ...] = ()
    profile: tuple[ProfileName, ...] = ()
    paths: tuple[PathName, ...] = ()
    note: str = ""
    config: Config = Config()
    ops: Annotated[tuple[AnyOp, ...], Meta(min_length=1)]

    @property
    def case(self) -> str:
        """The catalogue's id, without variant."""
        return self.id.split("/", 1)[0]

    @property
    def area(self) -> str:
        """The area's prefix of the id."""
        return self.id.split("-", 1)[0]

    @property
    def profiles(self) -> tuple[str, ...]:
        """The profiles it holds in, spelled out."""
        if not self.profile:
            return PROFILES
        named = {
            name
            for given in self.profile
            for name in (_KVM_LIKE if given == "kvm-like" else (given,))
        }
        return tuple(name for name in PROFILES if name in named)

    @property
    def source(self) -> str:
        """Rules and clause, for people."""
        return "; ".join([*self.rules, self.clause])

    def runs_on(self) -> tuple[PathName, ...]:
        """The paths it runs on, in order."""
        paths = self.paths or PATHS
        if not self.config.page:
            paths = tuple(path for path in paths if path == "trap")
        if self.config.freeze == "off":
            paths = tuple(path for path in paths if path != "page+freeze")
        elif self.config.freeze == "on":
            paths = tuple(path for path in paths if path != "page")
        return paths

    def names(self) -> frozenset[str]:
        """Every name that its expressions use."""
        texts = (text for op in walk(self.ops) for _, text in _expressions(op))
        return frozenset[str]().union(*map(names_in, texts))

    def needs(self, path: PathName) -> frozenset[str]:
        """Features that a target must advertise for this vector on that path."""
        implied = {name for op in walk(self.ops) if _on(op, path) for name in features.of_op(op)}
        implied |= features.of_config(self.config) | set(self.requires)
        if path != "trap":
            implied.add("page")
        if path == "page+freeze":
            implied.add("freeze")
        return frozenset(implied)


class VectorFile(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One file: an area and its vectors."""

    area: str
    title: str
    vectors: tuple[Vector, ...]


def walk(ops: Iterable[AnyOp]) -> Iterator[AnyOp]:
    """Every operation, contained ones too."""
    for op in ops:
        yield op
        yield from walk(inside(op))


def load_vectors(extra: Iterable[Path] = ()) -> list[Vector]:
    """The shipped vectors and those of ``extra`` folders, in their order.

    Raises :class:`UsageError` naming file, vector and field.
    """
    shipped = resources.files("pvpmu.conformance") / "vectors"
    texts = sorted((entry.name, entry.read_bytes()) for entry in shipped.iterdir())
    for folder in extra:
        if not folder.is_dir():
            raise UsageError(f"{folder}: is no folder of vectors")
        texts += [(str(file), file.read_bytes()) for file in sorted(folder.glob("*.json"))]
    found: dict[str, Vector] = {}
    for source, text in texts:
        if not source.endswith(".json") or Path(source).name == SCHEMA_NAME:
            continue
        for vector in parse_vectors(text, source).vectors:
            if vector.id in found:
                raise UsageError(f"{source}: vector {vector.id} exists already")
            found[vector.id] = vector
    return list(found.values())


def parse_vectors(text: bytes, source: str) -> VectorFile:
    """Read one file; raises :class:`UsageError`."""
    try:
        parsed = msgspec.json.decode(text, type=VectorFile)
    except msgspec.DecodeError as error:
        message = str(error)
        where = re.search(r" - at `\$\.?(?P<path>[^`]*)`$", message)
        what = message[: where.start()] if where else message
        path = where["path"] if where else "-"
        raise UsageError(f"{source}: field {path}{_id_of(text, path)}: {what}") from None
    for vector in parsed.vectors:
        _check(vector, source, parsed.area)
    return parsed


def schema() -> bytes:
    """The JSON Schema of a vector file."""
    made = msgspec.json.schema(VectorFile)
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
    return msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n"


def _id_of(text: bytes, path: str) -> str:
    """`` (OVF-01)``: the vector that a field belongs to, for people."""
    position = re.match(r"vectors\[(\d+)\]", path)
    if position is None:
        return ""
    raw = msgspec.json.decode(text)
    name = raw["vectors"][int(position[1])]
    return f" ({name['id']})" if isinstance(name, dict) and "id" in name else ""


def _check(vector: Vector, source: str, area: str) -> None:
    """What types cannot say: area, features, expressions and the names they use."""
    where = f"{source}: vector {vector.id}"
    if vector.area != area:
        raise UsageError(f"{where}: field id: is not of area {area}")
    unknown = set(vector.requires) - set(features.FEATURES)
    if unknown:
        raise UsageError(
            f"{where}: field requires: unknown feature {', '.join(sorted(unknown))}; "
            f"known: {', '.join(features.FEATURES)}"
        )
    if not vector.runs_on():
        raise UsageError(f"{where}: field paths: its configuration leaves no path")
    named = {name for op in walk(vector.ops) for name in _defined(op)}
    known = named | set(FIXED_NAMES) | SHAPE_NAMES | RUN_NAMES
    for number, op in enumerate(vector.ops):
        for each in walk([op]):
            for name, expression in _expressions(each):
                allowed = known | set(PAGE_WORDS) if name == "word" else known
                try:
                    strange = names_in(expression) - allowed
                except ExpressionError as error:
                    what = str(error)
                else:
                    if not strange:
                        continue
                    what = f"{expression!r}: unknown name {min(strange)!r}"
                field = f"field ops[{number}] ({tag_of(each)} {name})"
                raise UsageError(f"{where}: {field}: {what}")


def _defined(op: AnyOp) -> Iterator[str]:
    """Names that an operation gives: results, loop variables."""
    if isinstance(op, (Observed, Let)) and op.name is not None:
        yield op.name
    if isinstance(op, (Repeat, Foreach)) and op.var is not None:
        yield op.var


_WORDS = frozenset({"on", "differs", "name", "of", "what", "event", "kind", "action", "var"})
"""Fields whose text is no expression."""


def _expressions(op: AnyOp) -> Iterator[tuple[str, str]]:
    for name in op.__struct_fields__:
        if name in _WORDS or name == "register":
            continue
        yield from ((name, text) for text in _texts(getattr(op, name)))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Expect, FilterEntry)):
        for name in value.__struct_fields__:
            yield from _texts(getattr(value, name))
    elif isinstance(value, tuple):
        for each in value:
            if isinstance(each, (str, Expect, FilterEntry)):
                yield from _texts(each)


def _on(op: AnyOp, path: PathName) -> bool:
    return not op.on or path in op.on
