"""The recording of a real VM's host: what it counted, one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pvpmu.bench.realvm_recorded import host_as_counted
from pvpmu.bench.recorded import Recorded
from pvpmu.shared.control import VcpuStats
from pvpmu.shared.tally import TALLY_WORDS

STATS = VcpuStats(
    exits={32: 3, 31: 1, 0: 2},
    accesses=[(32, 0x38F, 3), (31, 0x38E, 1)],
    tallies=[[4, 1] + [0] * (TALLY_WORDS - 2), [1] + [0] * (TALLY_WORDS - 1)],
    exits_by=[4, 2, 0],
    pmi={"raised": 2, "delivered": 2, "coalesced": 0, "dropped": 0, "late": 0, "stray": 0},
    undelivered=0,
    load=None,
)


def recorded(**changes: Any) -> Recorded:
    made = Recorded()
    made.exits.update({32: 3, 31: 1, 0: 2})
    made.exits_host.update({("wrmsr", 0x38F): 3, ("rdmsr", 0x38E): 1})
    made.calls[:2] = [5, 1]
    made.pmi.update(raised=2, delivered=2)
    return replace(made, **changes)


def test_it_holds_what_was_counted() -> None:
    assert host_as_counted(recorded(), STATS)


@pytest.mark.parametrize(
    "change",
    [
        {"lost": 1},
        {"calls": [5, 1, 1, 0, 0, 0, 0]},
        {"exits": recorded().exits | Counter({0: 3})},
        {"exits_host": recorded().exits_host | Counter({("wrmsr", 0x4C1): 1})},
        {"pmi": recorded().pmi | Counter(late=1)},
    ],
)
def test_one_more_of_anything_is_noticed(change: dict[str, Any]) -> None:
    assert not host_as_counted(recorded(**change), STATS)
