"""The event table against the architectural encodings."""

import pytest

from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.errors import UsageError
from pvpmu.shared.events import BY_SELECTOR, EVENTS, FIXED_KIND, KINDS, event_named


@pytest.mark.parametrize(
    ("kind", "selector"),
    list(enumerate([0x003C, 0x00C0, 0x013C, 0x4F2E, 0x412E, 0x00C4, 0x00C5])),
)
def test_a_kind_is_the_cpuid_bit_of_its_architectural_event(kind: int, selector: int) -> None:
    assert BY_SELECTOR[selector].kind == kind


def test_the_table_has_one_event_per_kind() -> None:
    assert [event.kind for event in EVENTS] == list(range(KINDS))
    assert len({event.name for event in EVENTS}) == KINDS


def test_fixed_counters_count_instructions_cycles_and_reference_cycles() -> None:
    names = {number: EVENTS[kind].name for number, kind in FIXED_KIND.items()}
    assert names == {0: "instructions", 1: "cpu-cycles", 2: "ref-cycles"}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_an_event_that_cpuid_marks_unavailable_is_refused(event: object) -> None:
    name, kind = event.name, event.kind  # type: ignore[attr-defined]
    assert event_named(name, PmuCpuid()) is event
    with pytest.raises(UsageError, match=f"event '{name}': no counter"):
        event_named(name, PmuCpuid(unavailable=1 << kind))


def test_reference_cycles_need_their_fixed_counter_and_others_do_not() -> None:
    two_fixed = PmuCpuid(fixed=2)
    with pytest.raises(UsageError, match="ref-cycles"):
        event_named("ref-cycles", two_fixed)
    assert event_named("cpu-cycles", PmuCpuid(fixed=0)).kind == 0


def test_an_unknown_event_is_an_error_that_names_the_known() -> None:
    with pytest.raises(UsageError, match=r"unknown event 'cycle'; known: cpu-cycles, "):
        event_named("cycle", PmuCpuid())
