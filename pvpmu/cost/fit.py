"""Solve for costs that give measured latencies back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from pvpmu.shared.costs import COUNT_OF


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A mean latency of the NMI handler, and what so many handlers did.

    ``handler_ns``: per handler entry. ``handlers`` entries made ``exits``, ``live_calls``,
    ``redundant_calls``, ``locks``, ``placements``, ``local_reads`` and ``switches`` in all (see
    :class:`pvpmu.shared.costs.Work`).
    """

    what: str
    handler_ns: float
    handlers: float
    exits: float
    live_calls: float
    redundant_calls: float
    locks: float
    placements: float
    local_reads: float = 0
    switches: float = 0

    def __post_init__(self) -> None:
        for name in ("handler_ns", "handlers"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} {getattr(self, name):g} is not above 0")
        for name in set(COUNT_OF.values()) - {"handlers"}:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} {getattr(self, name):g} is outside 0..")


def solve(
    unknown: Sequence[str],
    known: Mapping[str, float],
    ties: Mapping[str, str],
    measurements: Sequence[Measurement],
) -> dict[str, float]:
    """The ``unknown`` costs, and those tied to them, with which the measurements come out, ns.

    ``known``: the other costs. ``ties``: costs that equal another one. There is one measurement for
    each unknown cost; raises :class:`ValueError` when they do not tell these apart.
    """
    rows = [_equation(unknown, known, ties, measured) for measured in measurements]
    for column in range(len(unknown)):
        pivot = max(range(column, len(rows)), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        if not rows[column][column]:
            raise ValueError(f"measurements do not tell {unknown[column]} from the other costs")
        rows[column] = [term / rows[column][column] for term in rows[column]]
        for row, terms in enumerate(rows):
            if row != column:
                factor = terms[column]
                rows[row] = [a - factor * b for a, b in zip(terms, rows[column], strict=True)]
    return {name: float(row[-1]) for name, row in zip(unknown, rows, strict=True)}


def _equation(
    unknown: Sequence[str],
    known: Mapping[str, float],
    ties: Mapping[str, str],
    measured: Measurement,
) -> list[Fraction]:
    """One row: coefficients of the unknown costs, then what they must come to."""
    terms = dict.fromkeys(unknown, Fraction(0))
    rest = Fraction(measured.handler_ns) * Fraction(measured.handlers)
    for cost, count in COUNT_OF.items():
        name = ties.get(cost, cost)
        number = Fraction(getattr(measured, count))
        if name in terms:
            terms[name] += number
        else:
            rest -= number * Fraction(known[name])
    return [*terms.values(), rest]
