"""The vPMU against a small oracle written from the SDM's rules: random accesses, one machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvpmu.host.filter import MASKED_EVENTS, Action, EventFilter, masked_entry
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.events import BRANCHES, CYCLES, EVENTS, FIXED_KIND, INSTRUCTIONS, KINDS
from pvpmu.shared.profile import KVM_5_14, STRICT_SDM, Profile

New = Callable[..., Any]
EN, USR, OS, MODIFIERS = 1 << 22, 1 << 16, 1 << 17, 0xFF84_0000
SELECTORS = {event.selector: event.kind for event in EVENTS}


class Oracle:
    """Counters that count what their control word selects while both enables are set."""

    def __init__(self, cpuid: PmuCpuid, profile: Profile, *, emulates: bool) -> None:
        self.cpuid = cpuid
        self.emulates = emulates
        self.strict = profile is STRICT_SDM
        self.selector = [0] * cpuid.gp
        self.value = [0] * (cpuid.gp + cpuid.fixed)
        self.fixed_control = 0
        self.enables = profile.power_on_global_ctrl(cpuid)
        self.status = 0
        self.denied = denies(None)

    def width(self, number: int) -> int:
        return self.cpuid.gp_width if number < self.cpuid.gp else self.cpuid.fixed_width

    def control(self, number: int) -> tuple[int, int | None, bool, bool, bool]:
        """Global index, event, whether it has modifiers, and whether CPL 3 and CPL 0 count."""
        if number < self.cpuid.gp:
            word = self.selector[number]
            rings = bool(word & EN and word & USR), bool(word & EN and word & OS)
            return number, SELECTORS.get(word & 0xFFFF), bool(word & MODIFIERS), *rings
        j = number - self.cpuid.gp
        nibble = self.fixed_control >> 4 * j
        return 32 + j, FIXED_KIND[j], False, bool(nibble & 2), bool(nibble & 1)

    def count(self, user: list[int], kernel: list[int], *, emulated: bool = False) -> None:
        for number in range(len(self.value)):
            index, kind, modified, at_user, at_kernel = self.control(number)
            selector = self.selector[number] if number < self.cpuid.gp else 0
            stopped = not self.enables >> index & 1 or (modified and not emulated)
            if kind is None or stopped or self.denied(index, selector):
                continue
            value = self.value[number] + at_user * user[kind] + at_kernel * kernel[kind]
            if value >> self.width(number):
                self.status |= 1 << index
            self.value[number] = value & (1 << self.width(number)) - 1

    def registers(self) -> dict[int, int]:
        gp, fixed = self.cpuid.gp, self.cpuid.fixed
        found = {0xC1 + i: self.value[i] for i in range(gp)}
        found |= {0x186 + i: self.selector[i] for i in range(gp)}
        found |= {0x309 + j: self.value[gp + j] for j in range(fixed)}
        if self.cpuid.version >= 2:
            found |= {0x38D: self.fixed_control, 0x38E: self.status, 0x38F: self.enables}
        return found

    def write(self, address: int, value: int, *, host: bool) -> bool:
        """WRMSR, or KVM_SET_MSRS; False for #GP."""
        gp, fixed = self.cpuid.gp, self.cpuid.fixed
        if 0xC1 <= address < 0xC1 + gp:
            low = value & 0xFFFF_FFFF
            if not host:
                value = low | 0xFFFF_FFFF_0000_0000 if low >> 31 else low
            self.value[address - 0xC1] = value & (1 << self.cpuid.gp_width) - 1
        elif 0x4C1 <= address < 0x4C1 + gp:
            if value >> self.cpuid.gp_width:
                return False
            self.value[address - 0x4C1] = value
        elif 0x309 <= address < 0x309 + fixed:
            if self.strict and value >> self.cpuid.fixed_width:
                return False
            self.value[gp + address - 0x309] = value & (1 << self.cpuid.fixed_width) - 1
        elif 0x186 <= address < 0x186 + gp:
            if value >> 32 or value >> 21 & 1:
                return False
            self.selector[address - 0x186] = value
        else:
            return self.cpuid.version >= 2 and self.write_global(address, value, host=host)
        return True

    def write_global(self, address: int, value: int, *, host: bool) -> bool:
        gp, fixed = self.cpuid.gp, self.cpuid.fixed
        exist = {*range(gp), *(32 + j for j in range(fixed))}
        bits = {bit for bit in range(64) if value >> bit & 1}
        if address == 0x38D:
            if not bits <= {4 * j + bit for j in range(fixed) for bit in (0, 1, 3)}:
                return False
            self.fixed_control = value
        elif address == 0x38F and bits <= exist:
            self.enables = value
        elif address == 0x390 and bits <= exist | {62, 63}:
            self.status &= ~value if not host else -1
        elif address == 0x38E and bits <= exist and host:
            self.status = value
        else:
            return False
        return True


CPUIDS = st.builds(
    PmuCpuid,
    gp=st.integers(1, 8),
    fixed=st.integers(0, 3),
    gp_width=st.integers(32, 48),
    fixed_width=st.integers(32, 48),
    version=st.integers(1, 2),
)
RUNNING = EN | USR | OS
SELECTOR_VALUES = st.builds(
    int.__or__,
    st.sampled_from(list(SELECTORS)) | st.just(0x77),
    st.sampled_from(
        [RUNNING] * 8
        + [0, EN, EN | USR, EN | OS, RUNNING | 1 << 20, RUNNING | 1 << 18, RUNNING | 2 << 24]
        + [1 << 21, 1 << 40]
    ),
)
# A negative value is a distance to the wrap of the counter that it goes to.
VALUES = st.integers(-150, -1) | st.integers(0, 50) | st.integers(0, (1 << 64) - 1)
ENABLES = st.builds(lambda gp, fixed: gp | fixed << 32, st.integers(0, 0x1FF), st.integers(0, 7))
WRITES = st.one_of(
    st.tuples(st.sampled_from([0x186 + i for i in range(9)]), SELECTOR_VALUES),
    st.tuples(st.sampled_from([b + i for b in (0xC1, 0x4C1) for i in range(8)]), VALUES),
    st.tuples(st.sampled_from([0x309, 0x30A, 0x30B]), VALUES),
    st.tuples(st.just(0x38D), st.integers(0, 0xFFF) | st.sampled_from([0xBBB, 0x333])),
    st.tuples(st.sampled_from([0x38E, 0x38F, 0x390]), ENABLES),
    st.tuples(st.just(0x38F), st.just(0x7_0000_00FF)),
)
COUNTS = st.lists(st.integers(20, 60) | st.just(0), min_size=KINDS, max_size=KINDS)
FILTERS = st.none() | st.builds(
    EventFilter,
    st.sampled_from(Action),
    st.lists(st.sampled_from(list(SELECTORS)), max_size=4).map(tuple),
    st.integers(0, 7),
)
RELOADS = st.tuples(st.sampled_from([0xC1, 0x4C1, 0x309]), st.integers(-90, -1))
RETIRE = st.tuples(st.just("retire"), COUNTS, COUNTS)
OPERATIONS = st.one_of(
    RETIRE,
    st.tuples(st.just("write"), WRITES, st.booleans()),
    RETIRE,
    st.tuples(st.just("write"), RELOADS, st.booleans()),
    st.tuples(st.just("acknowledge"), st.none(), st.none()),
    st.tuples(st.just("filter"), FILTERS, st.none()),
    st.tuples(
        st.just("emulate"),
        st.sampled_from([INSTRUCTIONS, BRANCHES, INSTRUCTIONS, BRANCHES, CYCLES]),
        st.sampled_from([0, 3]),
    ),
    st.tuples(st.just("cleanup"), st.none(), st.none()),
)
PROGRAM = st.lists(st.tuples(SELECTOR_VALUES, st.integers(-150, -1)), min_size=8, max_size=8)


def programmed(cpuid: PmuCpuid, program: list[tuple[int, int]]) -> list[tuple[str, Any, Any]]:
    """Writes that leave counters near their wrap and most of them counting."""
    writes: list[tuple[int, int]] = []
    for i, (selector, value) in enumerate(program[: cpuid.gp]):
        writes += [(0x4C1 + i, value), (0x186 + i, selector)]
    if cpuid.version >= 2:
        writes += [(0x309 + j, -20 - 30 * j) for j in range(cpuid.fixed)]
        writes += [(0x38D, 0x333 & (1 << 4 * cpuid.fixed) - 1), (0x38F, cpuid.counters)]
    return [("write", write, False) for write in writes]


def denies(event_filter: EventFilter | None) -> Callable[[int, int], bool]:
    """The plain meaning of a list of events and a bitmap."""

    def denied(index: int, selector: int) -> bool:
        if event_filter is None:
            return False
        fixed = event_filter.fixed_counters >> index - 32 & 1 if index >= 32 else 0
        listed = fixed if index >= 32 else selector & 0xFFFF in event_filter.events
        return bool(listed) == (event_filter.action is Action.DENY)

    return denied


@pytest.mark.parametrize("skip_paused", [False, True], ids=["always-paused", "is_paused"])
@pytest.mark.parametrize("profile", [KVM_5_14, STRICT_SDM], ids=lambda profile: profile.name)
@given(cpuid=CPUIDS, program=PROGRAM, operations=st.lists(OPERATIONS, min_size=20, max_size=40))
@settings(max_examples=60)
def test_random_accesses_agree_with_the_oracle_after_every_step(
    new_bench: New,
    profile: Profile,
    skip_paused: bool,
    cpuid: PmuCpuid,
    program: list[tuple[int, int]],
    operations: list[tuple[str, Any, Any]],
) -> None:
    bench = new_bench(cpuid=cpuid, profile=profile, skip_paused=skip_paused)
    oracle = Oracle(cpuid, profile, emulates=profile.emulated_counted)
    vpmu = bench.vpmu
    p6 = (0xC1, 0xC2, 0x186, 0x187) if profile.p6_tolerated else ()
    for what, first, second in programmed(cpuid, program) + operations:
        if what == "write":
            address, value = first
            if value < 0:
                width = cpuid.fixed_width if 0x309 <= address <= 0x30B else cpuid.gp_width
                value += 1 << width
            done = vpmu.host_wrmsr(address, value) if second else vpmu.wrmsr(address, value)
            absent = address not in vpmu.msr_list()
            if absent and ((second and not value and address < 0x390) or (address in p6)):
                continue  # what only a larger PMU has takes 0 from the host; P6 drops
            assert done == oracle.write(address, value, host=second)
        elif what == "retire":
            bench.hardware.retire(first, second)
            bench.perf.handle_nmi()
            oracle.count(first, second)
            vpmu.handle_pmu_request(pause_only=False)
        elif what == "acknowledge":
            assert vpmu.wrmsr(0x390, oracle.status) == oracle.write(
                0x390, oracle.status, host=False
            )
        elif what == "filter":
            vpmu.set_filter(first)
            oracle.denied = denies(first)
        elif what == "emulate":
            vpmu.count_emulated(first, 40, second)
            if oracle.emulates and first in (INSTRUCTIONS, BRANCHES):
                counts = [40 * (kind == first) for kind in range(KINDS)]
                nothing = [0] * KINDS
                user, kernel = (counts, nothing) if second else (nothing, counts)
                oracle.count(user, kernel, emulated=True)
        else:
            vpmu.cleanup()
        assert {a: vpmu.rdmsr(a) for a in oracle.registers()} == oracle.registers()
        assert vpmu.live == vpmu.global_ctrl & vpmu.own_enable
        assert [vpmu.rdpmc(i) for i in range(cpuid.gp)] == oracle.value[: cpuid.gp]


ENTRIES = st.lists(
    st.builds(
        masked_entry,
        st.sampled_from([0xC4, 0x2E]),
        st.integers(0, 0xFF),
        st.integers(0, 0xFF) | st.just(0),
        exclude=st.booleans(),
    ),
    max_size=12,
)


@given(action=st.sampled_from(Action), entries=ENTRIES, umask=st.integers(0, 0xFF))
@settings(max_examples=300)
def test_masked_entries_mean_some_include_matches_and_no_exclude_does(
    action: Action, entries: list[int], umask: int
) -> None:
    def matches(entry: int) -> bool:
        return entry & 0xFF == 0xC4 and umask & entry >> 56 == entry >> 8 & 0xFF

    included = any(matches(entry) for entry in entries if not entry >> 55 & 1)
    excluded = any(matches(entry) for entry in entries if entry >> 55 & 1)
    listed = included and not excluded
    event_filter = EventFilter(action, tuple(entries), flags=MASKED_EVENTS)
    assert event_filter.allows_event(0xC4 | umask << 8) == (listed == (action is Action.ALLOW))
