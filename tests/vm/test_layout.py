"""The VM's memory map: nothing lies on anything else."""

from __future__ import annotations

import pytest

from pvpmu.shared.page import PAGE_SIZE
from pvpmu.vm import layout
from pvpmu.vm.layout import MemoryMap
from pvpmu.vm.machine import pmu_msrs


@pytest.mark.parametrize("vcpus", [1, 2, 7])
def test_no_two_parts_overlap_and_all_lie_in_the_memory(vcpus: int) -> None:
    where = MemoryMap(vcpus, 17_001)
    starts = [(vcpu * PAGE_SIZE, PAGE_SIZE) for vcpu in range(vcpus)]
    for vcpu in range(vcpus):
        starts += [
            (where.box(vcpu), layout.BOX.size),
            (where.state(vcpu), layout.STATE_SIZE),
            (where.tables(vcpu), PAGE_SIZE),
            *((where.stack_top(vcpu, which) - (1 << 14), 1 << 14) for which in range(3)),
            (where.log(vcpu), 8 * layout.LOG_WORDS),
        ]
    starts += [(where.program, 17_001), (where.page_tables, layout.TABLE_PAGES * PAGE_SIZE)]
    end = 0
    for start, size in sorted(starts):
        assert start >= end
        end = start + size
    assert end == where.memory_bytes
    assert where.memory_bytes < layout.SLOTS


def test_every_pmu_register_exits_but_for_the_one_that_no_filter_takes() -> None:
    covered = {first + i for first, count in pmu_msrs() for i in range(count)}
    assert {0x38D, 0x38E, 0x38F, 0x390, 0x345, 0xC1, 0x4C1, 0x186, 0x309} <= covered
    assert 0x834 not in covered
    assert len(pmu_msrs()) <= 16
