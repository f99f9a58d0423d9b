"""Where the guest's workers put their pages."""

import pytest

from pvpmu.guest.session import memory_needed
from pvpmu.guest.worker import page_address
from pvpmu.shared.page import PAGE_SIZE


@pytest.mark.rule("REG-10", "BND-6")
def test_every_vcpu_has_a_page_of_its_own_within_the_memory() -> None:
    addresses = [page_address(vcpu) for vcpu in range(5)]
    assert addresses == [0, PAGE_SIZE, 2 * PAGE_SIZE, 3 * PAGE_SIZE, 4 * PAGE_SIZE]
    assert memory_needed(5) == addresses[-1] + PAGE_SIZE
