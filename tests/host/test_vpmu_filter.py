"""The event filter in the vPMU: one place for both paths, and a change takes effect at once."""

from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.host.filter import Action, EventFilter
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.events import INSTRUCTIONS
from pvpmu.shared.exits import INJECT_NMI
from pvpmu.shared.profile import KVM_6_12

New, Paged = Callable[..., Any], Any
EVTSEL0, EVTSEL1 = 0x186, 0x187
PMC0, PMC1, FIXED0 = 0x4C1, 0x4C2, 0x309
BRANCHES, MISSES = 0x5300C4, 0x53412E
EN = 1 << 22
ALL_ON = 0x7_0000_00FF
MASK = (1 << 48) - 1
LEFT = (1 << 48) - 1000
NMI_MODE = 0x400
NO_BRANCHES = EventFilter(Action.DENY, (0xC4,))
NO_FIXED_0 = EventFilter(Action.DENY, fixed_counters=1)


def test_a_denied_event_has_no_host_event_and_reads_back_as_written(new_bench: New) -> None:
    bench = new_bench(event_filter=NO_BRANCHES)
    bench.write(msr.LVTPC, NMI_MODE)
    bench.write(PMC0, MASK)
    assert bench.calls((EVTSEL0, BRANCHES), (msr.GLOBAL_CTRL, 0), (msr.GLOBAL_CTRL, ALL_ON)) == []
    bench.retire(branches=1000)
    assert bench.read(EVTSEL0) == BRANCHES
    assert bench.read(PMC0) == bench.vpmu.rdpmc(0) == MASK
    assert bench.vpmu.global_status == 0
    assert not bench.delivery.requests
    assert (bench.vpmu.live, bench.vpmu.not_counting) == (1, 1)


@pytest.mark.parametrize(
    "event_filter", [NO_FIXED_0, EventFilter(Action.ALLOW, (0xC0,), fixed_counters=2)]
)
def test_a_fixed_counter_is_denied_by_the_bitmap_alone(
    new_bench: New, event_filter: EventFilter
) -> None:
    bench = new_bench(event_filter=event_filter)
    bench.write(msr.FIXED_CTR_CTRL, 0x33)
    bench.write(EVTSEL0, 0x5300C0)
    bench.retire(instructions=6, cycles=9)
    assert (bench.read(FIXED0), bench.read(FIXED0 + 1), bench.read(PMC0)) == (0, 9, 6)


@pytest.mark.parametrize("skip_paused", [False, True])
def test_a_filter_stops_what_runs_and_its_removal_starts_it_again(
    new_bench: New, skip_paused: bool
) -> None:
    bench = new_bench(skip_paused=skip_paused)
    bench.start_four()
    bench.retire(branches=7, misses=7)
    bench.vpmu.set_filter(NO_BRANCHES)
    bench.retire(branches=5000, misses=2)
    assert (bench.read(PMC0), bench.read(PMC1)) == (LEFT + 7, LEFT + 9)
    assert (bench.vpmu.not_counting, bench.vpmu.global_status) == (1, 0)
    bench.vpmu.set_filter(None)
    assert bench.vpmu.not_counting == 0
    bench.retire(branches=3)
    assert bench.read(PMC0) == LEFT + 10


def test_a_filter_change_reprograms_every_enabled_counter_once(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.vpmu.set_filter(NO_BRANCHES)
    assert bench.perf.take() == ["pause"] + ["pause", "period", "enable"] * 3
    bench.vpmu.set_filter(NO_BRANCHES)
    assert bench.perf.take() == ["pause", "period", "enable"] * 3
    bench.vpmu.set_filter(None)
    assert bench.perf.take() == ["release", "create"] + ["pause", "period", "enable"] * 3


def test_a_denied_event_does_not_resume_when_its_old_selector_comes_back(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.write(EVTSEL0, 0)
    bench.vpmu.set_filter(NO_BRANCHES)
    bench.write(EVTSEL0, BRANCHES)
    bench.retire(branches=50)
    assert bench.read(PMC0) == LEFT
    bench.write(EVTSEL0, MISSES)
    bench.retire(misses=50)
    assert bench.read(PMC0) == LEFT + 50


def test_an_event_left_by_an_allowed_selector_resumes_after_a_denied_one(new_bench: New) -> None:
    bench = new_bench(event_filter=NO_BRANCHES)
    bench.write(EVTSEL0, MISSES)
    bench.write(EVTSEL0, BRANCHES)
    bench.retire(branches=50, misses=50)
    assert bench.read(PMC0) == 0
    assert bench.calls((EVTSEL0, MISSES)) == ["period", "enable"]


def test_a_filter_change_starts_nothing_while_held(new_bench: New) -> None:
    bench = new_bench()
    bench.start_four()
    bench.vpmu.stop_live()
    bench.vpmu.held = True
    for event_filter in (NO_BRANCHES, None):
        bench.vpmu.set_filter(event_filter)
        assert bench.hardware.started == []
    bench.vpmu.held = False
    bench.vpmu.start_paused()
    bench.retire(branches=5)
    assert bench.read(PMC0) == LEFT + 5


def test_emulated_instructions_obey_the_filter(new_bench: New) -> None:
    bench = new_bench(profile=KVM_6_12, event_filter=NO_FIXED_0)
    bench.write(msr.GLOBAL_CTRL, ALL_ON)
    bench.write(msr.FIXED_CTR_CTRL, 0x3)
    bench.write(EVTSEL0, 0x5300C0)
    bench.vpmu.count_emulated(INSTRUCTIONS, 5, 0)
    assert (bench.read(FIXED0), bench.read(PMC0)) == (0, 5)


@pytest.mark.rule("SEC-3")
def test_page_and_trapped_writes_meet_the_same_filter(paged: Paged) -> None:
    paged.stop()
    paged.host.vpmu.set_filter(NO_BRANCHES)
    # Branches on counter 0 from before, on counter 1 by the page; misses on counter 2.
    for index, selector in ((1, BRANCHES), (2, MISSES)):
        paged.page[page.EVTSEL + index] = selector
        paged.page[page.PMC + index] = MASK
    assert paged.commit() == 0
    assert paged.page[page.NOT_COUNTING] == 3
    assert paged.write(0x189, BRANCHES) == 0
    assert paged.write(0x4C4, MASK) == 0
    assert paged.page[page.NOT_COUNTING] == 0xB
    assert paged.nmi(branches=5000) == 0
    assert paged.status == 0
    assert paged.nmi(misses=1) == INJECT_NMI
    assert paged.status == 4
    assert [paged.read(address) for address in (0x187, 0x189)] == [BRANCHES, BRANCHES]
    assert [paged.rdpmc(number) for number in (0, 1, 2, 3)] == [LEFT, MASK, 0, MASK]


@pytest.mark.rule("SEC-3")
def test_removing_the_filter_lets_the_next_commit_count(paged: Paged) -> None:
    paged.host.vpmu.set_filter(NO_BRANCHES)
    paged.stop()
    paged.host.vpmu.set_filter(None)
    paged.commit()
    assert paged.page[page.NOT_COUNTING] == 0
    paged.nmi(branches=4)
    assert paged.rdpmc(0) == LEFT + 4
