"""Differences of two snapshots: nothing counted twice, nothing negative, nothing shared."""

from __future__ import annotations

from typing import Any

import pytest

from pvpmu.console import since
from pvpmu.console.since import EXIT, HANDLER, KINDS, PAGE, PMIS_PER_S
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.liveview import HANDLER_KEY, AccessPath, Key

STATUS = Key(ExitReason.MSR_READ, 0x38E, AccessPath.PAGE)
CTRL = Key(ExitReason.MSR_WRITE, 0x38F, AccessPath.EXIT)
COMMIT = Key(ExitReason.MSR_WRITE, 0x38F, AccessPath.COMMIT)
CPUID = Key(ExitReason.CPUID, 0, AccessPath.EXIT)


def test_the_series_of_several_vcpus_are_added_bucket_by_bucket(new_vm: Any) -> None:
    now = new_vm(series=[{STATUS: {5: 2, 7: 1}}, {STATUS: {7: 3}, CTRL: {90: 1}}])
    assert since.series(now, None, [0, 1]) == {STATUS: {5: 2, 7: 4}, CTRL: {90: 1}}
    assert since.series(now, None, [0]) == {STATUS: {5: 2, 7: 1}}


def test_only_what_was_recorded_since_is_in_a_series(new_vm: Any) -> None:
    before = new_vm(series=[{STATUS: {5: 2, 7: 1}, CTRL: {90: 4}}])
    now = new_vm(series=[{STATUS: {5: 2, 7: 3, 8: 1}, CTRL: {90: 4}}])
    assert since.series(now, before, [0]) == {STATUS: {7: 2, 8: 1}}


def test_a_guest_that_takes_something_back_has_not_recorded_less_than_nothing(new_vm: Any) -> None:
    before = new_vm(series=[{STATUS: {5: 9, 7: 1}}])
    now = new_vm(series=[{STATUS: {5: 2, 7: 2}}])
    assert since.series(now, before, [0]) == {STATUS: {7: 1}}
    assert since.count(new_vm(series=[{STATUS: {5: 2}}]), before, [0], PAGE) == 0


def test_what_is_added_up_leaves_the_snapshots_as_they_were(new_vm: Any) -> None:
    own = {STATUS: {5: 2}}
    now = new_vm(series=[own, {STATUS: {5: 1}}])
    since.series(now, None, [0, 1])[STATUS][5] = 100
    kinds = since.by_kind(since.series(now, None, [0]))
    since.merge(kinds[PAGE], {5: 50})
    assert own == {STATUS: {5: 2}}


def test_series_are_sorted_by_what_they_are_of(new_vm: Any) -> None:
    recorded = {STATUS: {5: 1}, CTRL: {90: 2}, COMMIT: {90: 3}, HANDLER_KEY: {400: 4}}
    assert since.by_kind(recorded) == {PAGE: {5: 1}, EXIT: {90: 5}, HANDLER: {400: 4}}
    assert since.by_kind({}) == {kind: {} for kind in KINDS}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (STATUS, PAGE),
        (STATUS._replace(path=AccessPath.PASSED), PAGE),
        (CTRL, EXIT),
        (COMMIT, EXIT),
        (HANDLER_KEY, HANDLER),
        (CPUID, ""),
    ],
)
def test_a_key_is_of_one_kind_or_none(key: Key, kind: str) -> None:
    assert since.kind_of(key) == kind


def test_accesses_are_the_hosts_exits_and_the_guests_page(new_vm: Any) -> None:
    before = new_vm(exits=[{CTRL: 1}], series=[{STATUS: {5: 1}}])
    now = new_vm(
        exits=[{CTRL: 4, CPUID: 9}], series=[{STATUS: {5: 3}, CTRL: {90: 4}}], pmis=[{"raised": 1}]
    )
    assert since.accesses(now, before, [0]) == {CTRL: 3, STATUS: 2}
    assert since.count(now, before, [0], PAGE) == 2
    assert since.count(now, before, [0], PMIS_PER_S) == 0
