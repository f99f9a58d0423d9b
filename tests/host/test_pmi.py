"""PMI delivery: LVTPC, requests and the NMI queue."""

import pytest

from pvpmu.host.pmi import REQUEST_NMI, REQUEST_PMI, PmiDelivery, deliverable

NMI_MODE, MASKED = 0x400, 1 << 16


def unmasked() -> PmiDelivery:
    delivery = PmiDelivery()
    delivery.lvtpc = NMI_MODE
    return delivery


@pytest.mark.parametrize(
    ("lvtpc", "expected"),
    [
        (NMI_MODE, True),
        (NMI_MODE | 0xFF, True),
        (NMI_MODE | MASKED, False),
        (0, False),
        (0x0F, False),
        (0x10, True),
        (0x20, True),
        (0x20 | MASKED, False),
        (0x200, False),
        (0x700, False),
        (MASKED, False),
    ],
)
def test_lvtpc_delivers_only_unmasked_an_nmi_or_a_vector_that_is_not_the_processors(
    lvtpc: int, expected: bool
) -> None:
    assert deliverable(lvtpc) is expected


def test_a_pmi_raised_in_the_guest_is_a_request() -> None:
    delivery = unmasked()
    delivery.raise_pmi(in_guest=True)
    assert (delivery.requests, delivery.irq_work) == (REQUEST_PMI, False)
    assert delivery.pmi_pending


def test_a_pmi_raised_outside_the_guest_goes_through_irq_work() -> None:
    delivery = unmasked()
    delivery.raise_pmi(in_guest=False)
    assert (delivery.requests, delivery.irq_work) == (0, True)
    assert delivery.pmi_pending


@pytest.mark.rule("PMI-2")
@pytest.mark.parametrize("in_guest", [False, True])
def test_two_pmis_before_delivery_are_one(in_guest: bool) -> None:
    delivery = unmasked()
    delivery.raise_pmi(in_guest=in_guest)
    delivery.raise_pmi(in_guest=in_guest)
    assert (delivery.counts.raised, delivery.counts.coalesced) == (2, 1)
    assert delivery.undelivered == 1


@pytest.mark.rule("PMI-1")
def test_a_masked_lvtpc_drops_the_pmi_and_unmasking_resends_nothing() -> None:
    delivery = PmiDelivery()
    assert delivery.lvtpc == MASKED
    delivery.raise_pmi(in_guest=True)
    delivery.lvtpc = NMI_MODE
    assert delivery.requests == 0
    assert not delivery.pmi_pending
    assert delivery.counts.raised == 0


def test_delivery_acts_on_lvtpc_as_it_stands_then() -> None:
    delivery = unmasked()
    delivery.lvtpc = NMI_MODE | MASKED
    delivery.deliver()
    assert delivery.requests == 0
    delivery.lvtpc = NMI_MODE
    delivery.deliver()
    assert delivery.requests == REQUEST_NMI


def test_delivery_does_not_mask_lvtpc() -> None:
    delivery = unmasked()
    delivery.deliver()
    assert delivery.lvtpc == NMI_MODE


@pytest.mark.rule("PMI-5")
@pytest.mark.parametrize(("blocked", "kept"), [(False, 2), (True, 1)])
def test_two_nmis_are_kept_or_one_while_blocked(blocked: bool, kept: int) -> None:
    delivery = unmasked()
    for _ in range(5):
        delivery.queue_nmi(pmi=True)
    delivery.process_nmis(blocked=blocked)
    assert delivery.pending == [True] * kept
    assert delivery.counts.coalesced == 5 - kept


def test_a_foreign_nmi_that_collapses_is_no_coalesced_pmi() -> None:
    delivery = unmasked()
    delivery.queue_nmi(pmi=True)
    delivery.queue_nmi(pmi=False)
    delivery.process_nmis(blocked=True)
    assert delivery.pending == [True]
    assert delivery.counts.coalesced == 0


@pytest.mark.rule("PMI-5")
def test_nmis_are_injected_in_order() -> None:
    delivery = unmasked()
    delivery.queue_nmi(pmi=False)
    delivery.queue_nmi(pmi=True)
    delivery.process_nmis(blocked=False)
    assert not delivery.next_is_pmi()
    assert [delivery.inject(), delivery.inject()] == [False, True]


@pytest.mark.parametrize("stage", ["request", "irq_work", "queued", "pending"])
def test_a_pmi_is_pending_and_undelivered_at_every_stage(stage: str) -> None:
    delivery = unmasked()
    if stage in ("request", "irq_work"):
        delivery.raise_pmi(in_guest=stage == "request")
    else:
        delivery.queue_nmi(pmi=True)
        if stage == "pending":
            delivery.process_nmis(blocked=False)
    assert delivery.pmi_pending
    assert delivery.next_is_pmi()
    assert delivery.undelivered == 1


def test_a_foreign_nmi_is_no_pending_pmi() -> None:
    delivery = unmasked()
    delivery.queue_nmi(pmi=False)
    delivery.process_nmis(blocked=False)
    assert not delivery.pmi_pending
    assert delivery.undelivered == 0


def fixed(vector: int = 0x40, *, masks: bool = False) -> PmiDelivery:
    delivery = PmiDelivery(masks=masks)
    delivery.lvtpc = vector
    return delivery


@pytest.mark.rule("PMI-12")
def test_a_vector_waits_in_the_irr_once_and_is_no_nmi() -> None:
    delivery = fixed()
    for _ in range(3):
        delivery.raise_pmi(in_guest=True)
        delivery.requests = 0
        delivery.deliver()
    assert (delivery.irr, delivery.waiting) == (1 << 0x40, [])
    assert (delivery.counts.raised, delivery.counts.coalesced, delivery.undelivered) == (3, 2, 1)
    assert delivery.pmi_pending
    assert not delivery.next_is_pmi(), "which is what freezes"
    assert delivery.accept_vector() == 0x40
    assert delivery.undelivered == 0


@pytest.mark.rule("PMI-12")
def test_the_highest_vector_goes_first_whatever_lvtpc_has_become() -> None:
    delivery = fixed(0x31)
    delivery.deliver()
    delivery.write_lvtpc(0xFE)
    delivery.deliver()
    delivery.write_lvtpc(NMI_MODE | MASKED)
    assert [delivery.accept_vector(), delivery.accept_vector()] == [0xFE, 0x31]


@pytest.mark.rule("PMI-4")
@pytest.mark.parametrize("masks", [False, True])
def test_delivery_masks_lvtpc_by_era_in_fixed_mode_too(masks: bool) -> None:
    delivery = fixed(masks=masks)
    delivery.deliver()
    assert delivery.lvtpc == (0x40 | MASKED if masks else 0x40)
    assert not delivery.freezes


def test_reset_and_init_empty_the_irr() -> None:
    delivery = fixed()
    delivery.deliver()
    delivery.reset()
    assert (delivery.irr, delivery.undelivered) == (0, 0)
