"""What counts each event on this machine, and on others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from pvpmu.host import perf_open, perf_sources
from pvpmu.host.perf import Attr
from pvpmu.host.perf_sources import Sources, attr_of, sources_here
from pvpmu.shared.errors import ResourceError
from pvpmu.shared.events import (
    BRANCHES,
    CACHE_REFERENCES,
    CYCLES,
    INSTRUCTIONS,
    MODELLED,
    REF_CYCLES,
    REFUSED,
)

CLOCKS = Sources({CYCLES: (1, 0), REF_CYCLES: (1, 1)}, clocks=True)


@pytest.fixture
def with_pmu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sources]]:
    """A machine with a PMU whose kernel refuses some configs."""

    def found(*, missing: tuple[int, ...] = (), error: type[ResourceError]) -> Sources:
        def opened(attr: perf_open.Attr, _what: str) -> int:
            if attr.config in missing:
                raise error("no")
            return os.open(os.devnull, os.O_RDONLY)

        monkeypatch.setattr(perf_open, "has_pmu", lambda: True)
        monkeypatch.setattr(perf_open, "opened", opened)
        perf_sources._found_here.cache_clear()
        return sources_here()

    yield found
    perf_sources._found_here.cache_clear()


@pytest.mark.skipif(perf_open.has_pmu(), reason="there is a hardware PMU")
def test_without_a_pmu_clocks_stand_for_cycles_and_what_becomes_of_the_rest_is_said() -> None:
    modelled, refused = sources_here(), sources_here(REFUSED)
    for text in (modelled.described, refused.described):
        assert "cpu-clock stands for cpu-cycles" in text
        assert "includes host time; instructions, cache-references" in text
    assert "branch-misses are modelled" in modelled.described
    assert refused.described.endswith("branch-misses are refused (ENOENT)")


def test_each_event_has_what_counts_it() -> None:
    hardware = Sources({BRANCHES: (perf_open.TYPE_HARDWARE, 4)}, clocks=False, missing=REFUSED)
    assert [CLOCKS.counted_by(kind) for kind in (CYCLES, REF_CYCLES, BRANCHES)] == [
        "cpu-clock", "task-clock", MODELLED,
    ]  # fmt: skip
    assert [hardware.counted_by(kind) for kind in (BRANCHES, CYCLES)] == ["hardware", REFUSED]
    assert CLOCKS.models((CYCLES, BRANCHES))
    assert not CLOCKS.models((CYCLES, REF_CYCLES))
    assert not hardware.models((BRANCHES, CYCLES))


def test_a_pmu_that_lacks_an_event_says_so_itself(with_pmu: Callable[..., Sources]) -> None:
    made = with_pmu(missing=(2,), error=perf_open.MissingEventError)
    assert made.counted_by(CACHE_REFERENCES) == MODELLED
    assert {made.counted_by(kind) for kind in (CYCLES, INSTRUCTIONS, BRANCHES)} == {"hardware"}
    assert made.described.endswith(
        "exclude_host; cache-references are modelled, and each call made on a dummy event, which "
        "never counts, for its time"
    )


def test_an_event_that_may_not_be_opened_is_there_all_the_same(
    with_pmu: Callable[..., Sources],
) -> None:
    made = with_pmu(missing=tuple(range(10)), error=ResourceError)
    assert made.described == "perf_event_open: hardware and raw events, pinned, exclude_host"


def test_a_machine_with_a_pmu_has_hardware_events_as_kvm_asks_for_them() -> None:
    made = attr_of(
        Sources({INSTRUCTIONS: (perf_open.TYPE_HARDWARE, 1)}, clocks=False),
        Attr(INSTRUCTIONS, 1, pinned=True, exclude_host=True),
        1000,
    )
    wanted = perf_open.PINNED | perf_open.EXCLUDE_HOST | perf_open.EXCLUDE_IDLE
    assert (made.type, made.config, made.sample_period) == (perf_open.TYPE_HARDWARE, 1, 1000)
    assert made.flags == wanted | perf_open.EXCLUDE_KERNEL


def test_what_is_missing_is_a_dummy_or_asked_for_in_vain() -> None:
    attr = Attr(BRANCHES, 3, pinned=True, exclude_host=True)
    dummy = attr_of(CLOCKS, attr, 1000)
    assert (dummy.type, dummy.config, dummy.flags) == (perf_open.TYPE_SOFTWARE, 9, 0)
    asked = attr_of(Sources(CLOCKS.of, clocks=True, missing=REFUSED), attr, 1000)
    assert (asked.type, asked.config) == (perf_open.TYPE_HARDWARE, 4)


def test_a_raw_selector_is_a_raw_event_where_there_is_a_pmu_and_missing_elsewhere() -> None:
    attr = Attr(None, 3, pinned=True, exclude_host=True, raw=0x0184_01D1)
    with_pmu = Sources({CYCLES: (perf_open.TYPE_HARDWARE, 0)}, clocks=False)
    made = attr_of(with_pmu, attr, 1000)
    assert (made.type, made.config) == (perf_open.TYPE_RAW, 0x0184_01D1)
    assert made.flags & perf_open.EXCLUDE_HOST
    assert CLOCKS.source_of(attr) is None
    assert attr_of(CLOCKS, attr, 1000).config == 9
    refused = attr_of(Sources(CLOCKS.of, clocks=True, missing=REFUSED), attr, 1000)
    assert (refused.type, refused.config) == (perf_open.TYPE_RAW, 0x0184_01D1)
