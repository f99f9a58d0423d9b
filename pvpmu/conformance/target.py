"""What the kit asks of a target: ``hello``, ``reset``, operations. Everything is JSON-able.

An operation may be interrupted by NMIs of the guest. The target then calls back, serves the
operations of the handler, and goes on when the callback returns. An adapter in another process is
the same thing line by line (:mod:`pvpmu.conformance.lines`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from pvpmu.shared.errors import PvpmuError

PROTOCOL = 1
"""Version of this protocol; an adapter that says another is refused."""

Json = bool | int | str | list["Json"] | dict[str, "Json"] | None
OnNmi = Callable[[int], None]


class Unsupported(PvpmuError):  # noqa: N818 (an answer, not a failure of the target)
    """The target has no such operation, or cannot be configured so."""


class Hello(Struct, frozen=True, kw_only=True):
    """Who a target is.

    ``features``: of :data:`pvpmu.conformance.features.FEATURES`; ``profiles``: best first.
    """

    name: str
    version: str
    features: tuple[str, ...]
    profiles: tuple[str, ...]
    protocol: int = PROTOCOL


class Reply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an operation.

    ``value``: the result; ``fault``: #GP; ``refused``: the host said no to a host-side call.
    """

    value: int | None = None
    fault: bool = False
    refused: bool = False


class Target(Protocol):
    """An implementation under test. Any exception it raises fails the case, no more."""

    def hello(self) -> Hello: ...

    def reset(self, config: Mapping[str, Json]) -> None:
        """Make a new VM; raises :class:`Unsupported`."""

    def op(self, name: str, vcpu: int, fields: Mapping[str, Json], on_nmi: OnNmi) -> Reply:
        """Do one operation on one vCPU; raises :class:`Unsupported`."""

    def close(self) -> None: ...
