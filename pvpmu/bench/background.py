"""Exits of other causes than the PMU, given by the scenario, beside those that were made. Pure.

None of the given ones is made: they are numbers of the scenario, the same for every design.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pvpmu.guest.scenario import Scenario

Json = dict[str, Any]
Value = Callable[[Json], str]
Row = tuple[str, Value, str]


def given_exits(scenario: Scenario, runs: int) -> list[Json]:
    """The field ``background`` of ``docs/bench-json.md``; ``runs``: recorded ones, of any vCPU."""
    return [
        {
            "reason": each.reason,
            "what": each.what,
            "exits": each.exits(scenario.duration) * runs,
            "fastpath": each.fastpath,
        }
        for each in scenario.background
    ]


def exit_mix(design: Json, baseline: Json, background: list[Json]) -> Json | None:
    """The field ``exit_mix`` of a design; None where the scenario gives no exits."""
    if not background:
        return None
    given = sum(row["exits"] for row in background)
    made, before = sum(design["exits"].values()), sum(baseline["exits"].values())
    return {
        "made": made,
        "given": given,
        "given_fastpath": sum(row["exits"] for row in background if row["fastpath"]),
        "all": made + given,
        "pmu_share": round(design["pmu_exits"] / (made + given), 6),
        "fewer_than_baseline": round((before - made) / (before + given), 6),
    }


def mix_rows(result: Json) -> Iterator[Row]:
    """The section of the table: by reason what was made and given, then the PMU's share."""
    background = result["background"]
    if not background:
        return
    published: dict[str, int] = (result["reference"] or {}).get("all_exits", {})
    given: Counter[str] = Counter()
    for row in background:
        given[row["reason"]] += row["exits"]
    made = {reason for design in result["designs"] for reason in design["exits"]}
    order = sorted(made | given.keys(), key=lambda reason: -_most(result, reason, given[reason]))
    for reason in order:
        rows = [row for row in background if row["reason"] == reason]
        whole, other = _all_of(reason, given[reason]), _number(published.get(reason))
        if reason not in made and len(rows) == 1:
            yield f"{reason}, given{_described(rows[0])}", whole, other
            continue
        yield reason, whole, other
        if rows and reason in made:
            yield "  made", _all_of(reason, 0), ""
        for row in rows:
            yield f"  given{_described(row)}", _constant(f"{row['exits']:,}"), ""
    yield (
        "all exits",
        lambda design: f"{design['exit_mix']['all']:,}",
        _number(sum(published.values()) or None),
    )
    yield (
        "share of PMU exits (MSR and RDPMC)",
        lambda design: f"{design['exit_mix']['pmu_share']:.2%}",
        "",
    )
    yield (
        f"fewer exits than {result['baseline']}",
        lambda design: f"{design['exit_mix']['fewer_than_baseline']:.2%}",
        "",
    )


def _most(result: Json, reason: str, given: int) -> int:
    made: list[int] = [design["exits"].get(reason, 0) for design in result["designs"]]
    return given + max(made)


def _described(row: Json) -> str:
    what = f", {row['what']}" if row["what"] else ""
    return what + (", fastpath" if row["fastpath"] else "")


def _all_of(reason: str, given: int) -> Value:
    return lambda design: f"{design['exits'].get(reason, 0) + given:,}"


def _constant(text: str) -> Value:
    return lambda _: text


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
