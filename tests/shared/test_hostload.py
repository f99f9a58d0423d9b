"""The host's own events as data."""

from __future__ import annotations

import pytest

from pvpmu.shared.errors import UsageError
from pvpmu.shared.hostload import MAX_PERIOD, HostEvent, HostLoad


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("cpu-cycles", HostEvent(name="cpu-cycles")),
        (
            "cpu-cycles:period=7,pinned,host-only",
            HostEvent(name="cpu-cycles", period=7, pinned=True, guest=False),
        ),
        ("branch-misses:host-only", HostEvent(name="branch-misses", guest=False)),
    ],
)
def test_an_event_is_one_word_of_a_command_line(text: str, event: HostEvent) -> None:
    assert HostEvent.parse(text) == event
    assert event.text == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cycles", "name 'cycles' is no event; known: cpu-cycles, "),
        ("cpu-cycles:often", "unknown option 'often'; known: period=COUNTS, pinned, host-only"),
        ("cpu-cycles:period=-1", "unknown option 'period=-1'; known: period=COUNTS, "),
        (f"cpu-cycles:period={MAX_PERIOD + 1}", f"is outside 0..{MAX_PERIOD} counts"),
    ],
)
def test_a_mistake_is_one_line_with_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        HostEvent.parse(text)
    assert str(caught.value).startswith(f"host event {text!r}: ")
    assert message in str(caught.value)
    assert caught.value.status == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gp": 9}, "gp 9 is outside 1..8"),
        ({"fixed": 4}, "fixed 4 is outside 0..3"),
        ({"mux_cycles": 0}, "mux_cycles 0 is below 1"),
    ],
)
def test_a_physical_pmu_that_cannot_be_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HostLoad(**changes)


def test_a_guest_has_no_more_counters_than_the_physical_pmu() -> None:
    load = HostLoad(gp=4, fixed=2)
    load.check(4, 2)
    with pytest.raises(UsageError, match="gp counters: the guest's 5 are more than the physical"):
        load.check(5, 2)
    with pytest.raises(UsageError, match="fixed counters: the guest's 3 are more"):
        load.check(4, 3)
