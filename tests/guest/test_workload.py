"""The profiled program: the same stream however it is cut."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvpmu.guest.workload import RATE_ONE, Phase, Workload, make_phases
from pvpmu.shared.events import CACHE_MISSES, CYCLES, INSTRUCTIONS, KINDS

HZ = 2_500_000_000


def _rates(**per_cycle: float) -> tuple[int, ...]:
    rates = [RATE_ONE] + [0] * (KINDS - 1)
    rates[INSTRUCTIONS] = int(per_cycle.get("instructions", 0) * RATE_ONE)
    rates[CACHE_MISSES] = int(per_cycle.get("misses", 0) * RATE_ONE)
    return tuple(rates)


def _phases(seed: int = 7) -> list[Phase]:
    base = [RATE_ONE, 3 * RATE_ONE // 2, RATE_ONE, 5000, 1 << 20, RATE_ONE // 3, 77]
    return make_phases(seed, base=base, shortest=50, longest=300, spread_permille=100, count=5)


def _run(work: Workload, cycles: int, cuts: list[int]) -> list[int]:
    """Retire ``cycles`` in pieces no longer than the cuts ask, and never across a phase."""
    total = [0] * KINDS
    position = 0
    while cycles:
        want = cuts[position % len(cuts)] if cuts else cycles
        step = min(want, cycles, work.phase_left)
        total = [a + b for a, b in zip(total, work.retire(step), strict=True)]
        cycles -= step
        position += 1
    return total


@given(
    seed=st.integers(0, 1 << 32),
    cycles=st.integers(1, 3000),
    cuts=st.lists(st.integers(1, 400), max_size=12),
)
def test_what_a_span_retires_does_not_depend_on_how_it_is_cut(
    seed: int, cycles: int, cuts: list[int]
) -> None:
    whole, cut = Workload(_phases(seed), HZ), Workload(_phases(seed), HZ)
    assert _run(whole, cycles, []) == _run(cut, cycles, cuts)
    assert (whole.cycles, whole.ip, whole.phase_left) == (cut.cycles, cut.ip, cut.phase_left)


def test_the_same_seed_gives_the_same_phases_and_another_seed_others() -> None:
    assert _phases(1) == _phases(1)
    assert _phases(1) != _phases(2)


def test_phases_stay_within_length_and_spread() -> None:
    seed = 20210801
    print("seed", seed)
    base = [0, 1_000_000, 0, 0, 10, 0, 0]
    phases = make_phases(seed, base=base, shortest=5, longest=9, spread_permille=100, count=400)
    assert {phase.cycles for phase in phases} == {5, 6, 7, 8, 9}
    assert all(900_000 <= phase.rates[INSTRUCTIONS] <= 1_100_000 for phase in phases)
    assert {phase.rates[CYCLES] for phase in phases} == {RATE_ONE}
    assert len({phase.rates[INSTRUCTIONS] for phase in phases}) > 100


def test_without_spread_every_phase_has_the_base_rates() -> None:
    base = [0, 5, 6, 7, 8, 9, 10]
    phases = make_phases(3, base=base, shortest=4, longest=4, spread_permille=0, count=3)
    assert phases == [Phase(4, (RATE_ONE, 5, 6, 7, 8, 9, 10))] * 3


def test_cycles_are_counted_one_for_one() -> None:
    work = Workload([Phase(1000, _rates())], HZ)
    assert work.retire(123)[CYCLES] == 123
    assert work.cycles == 123


def test_fractions_of_a_count_carry_over() -> None:
    work = Workload([Phase(1000, _rates(misses=0.25))], HZ)
    counts = [work.retire(1)[CACHE_MISSES] for _ in range(9)]
    assert counts == [0, 0, 0, 1, 0, 0, 0, 1, 0]


def test_phases_follow_one_another_in_a_circle() -> None:
    work = Workload([Phase(10, _rates(instructions=1)), Phase(20, _rates(instructions=2))], HZ)
    assert work.retire(10)[INSTRUCTIONS] == 10
    assert work.phase_left == 20
    assert work.retire(20)[INSTRUCTIONS] == 40
    assert work.phase_left == 10
    assert work.retire(10)[INSTRUCTIONS] == 10


@given(seed=st.integers(0, 1 << 32), before=st.integers(0, 49), count=st.integers(1, 60))
def test_cycles_until_is_the_first_cycle_at_which_the_count_is_reached(
    seed: int, before: int, count: int
) -> None:
    draw = random.Random(seed)
    rate = draw.randrange(RATE_ONE // 8, 2 * RATE_ONE)
    phase = Phase(10_000, (RATE_ONE, rate, 0, 0, 0, 0, 0))
    work = Workload([phase], HZ)
    if before:
        work.retire(before)
    cycles = work.cycles_until(INSTRUCTIONS, count)
    assert cycles is not None
    short = work.retire(cycles - 1)[INSTRUCTIONS] if cycles > 1 else 0
    assert short < count
    assert short + work.retire(1)[INSTRUCTIONS] >= count


def test_an_event_that_does_not_happen_is_never_reached() -> None:
    work = Workload([Phase(10, _rates())], HZ)
    assert work.cycles_until(CACHE_MISSES, 1) is None


@pytest.mark.parametrize("hz", [1_000_000_000, 2_500_000_000, 3_333_333_333, 7])
def test_the_clock_reads_at_least_the_time_asked_for_and_not_one_cycle_later(hz: int) -> None:
    for when in (1, 999, 1_000_000, 123_456_789):
        work: Any = Workload([Phase(1 << 40, _rates())], hz)
        cycle = work.cycle_of(when)
        work.cycles = cycle
        assert work.now >= when
        work.cycles = cycle - 1
        assert work.now < when


def test_time_that_passes_without_the_program_moves_the_clock_and_nothing_else() -> None:
    work, other = (Workload([Phase(1 << 40, _rates())], HZ) for _ in range(2))
    assert work.retire(1000) == other.retire(1000)
    work.pass_time(777)
    assert work.now == other.now + 777
    assert work.cycle_of(work.now + 500) == other.cycle_of(other.now + 500)
    assert (work.cycles, work.ip, work.phase_left) == (other.cycles, other.ip, other.phase_left)
    assert work.retire(333) == other.retire(333)


def test_the_instruction_pointer_stays_in_the_page_of_its_phase() -> None:
    work = Workload([Phase(3000, _rates(instructions=1)), Phase(50, _rates())], HZ)
    first = work.ip
    work.retire(10)
    assert work.ip == first + 40
    work.retire(1020)
    assert first <= work.ip < first + 0x1000
    work.retire(1970)
    assert first + 0x1000 <= work.ip < first + 0x2000
