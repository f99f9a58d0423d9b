"""The public catalogue of cases: which ids there are, and where each one is covered."""

from __future__ import annotations

from importlib import resources

import msgspec
from msgspec import Struct


class Property(Struct, frozen=True, forbid_unknown_fields=True):
    """A case that is random by nature; ``test`` is the file that covers it."""

    id: str
    test: str
    why: str


class OutOfScope(Struct, frozen=True, forbid_unknown_fields=True):
    """A case that does not apply, and why."""

    id: str
    reason: str


class Catalogue(Struct, frozen=True, forbid_unknown_fields=True):
    """``ids`` of the catalogue; ``own_areas``: areas of vectors that this project adds."""

    source: str
    ids: tuple[str, ...]
    own_areas: tuple[str, ...]
    properties: tuple[Property, ...]
    out_of_scope: tuple[OutOfScope, ...]


def load_catalogue() -> Catalogue:
    """Read the shipped catalogue."""
    text = (resources.files("pvpmu.conformance") / "catalogue.json").read_bytes()
    return msgspec.json.decode(text, type=Catalogue)
