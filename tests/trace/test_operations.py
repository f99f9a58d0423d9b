"""Sequences of accesses, told apart as the driver's operations."""

from __future__ import annotations

import pytest

from pvpmu.shared.cpuid import EVTSEL_EN
from pvpmu.trace.names import READ, WRITE
from pvpmu.trace.operations import Context, Operation, bracketed, handler
from pvpmu.trace.tokens import RDPMC_TOKEN, Token, token_of

OFF, ON = token_of(WRITE, 0x38F, 0), token_of(WRITE, 0x38F, 0xF)
LVTPC = token_of(WRITE, 0x834, 0x400)
NOTHING = token_of(READ, 0x38E, 0)
RUNNING = Context(0b11, 0xBB)


def selector(index: int, *, on: bool) -> Token:
    return token_of(WRITE, 0x186 + index, EVTSEL_EN if on else 0)


def counter(index: int) -> Token:
    return token_of(WRITE, 0x4C1 + index)


def fixed_ctrl(value: int, op: int = WRITE) -> Token:
    return token_of(op, 0x38D, value)


def status(bits: int) -> Token:
    return token_of(READ, 0x38E, bits)


def ack(bits: int) -> Token:
    return token_of(WRITE, 0x390, bits)


STOP0 = (selector(0, on=False), RDPMC_TOKEN)
START0 = (counter(0), selector(0, on=True))


def kind(found: Operation | None) -> str | None:
    return found and found.kind


@pytest.mark.parametrize(
    ("middle", "wanted"),
    [
        ((*START0, LVTPC), "sched_in"),
        (START0, "sched_in"),
        (STOP0, "sched_out"),
        ((*STOP0, *START0), "tick"),
        ((*STOP0, selector(0, on=True)), "tick"),
        ((selector(0, on=True),), "tick"),
        ((*STOP0, *START0, LVTPC), "rotation"),
        ((), "toggle"),
        ((fixed_ctrl(0xBB, READ), fixed_ctrl(0xB0), RDPMC_TOKEN), "sched_out"),
        ((fixed_ctrl(0xB0, READ), token_of(WRITE, 0x309), fixed_ctrl(0xBB), LVTPC), "sched_in"),
        # A driver that keeps FIXED_CTR_CTRL in memory writes it once and reads it never.
        ((RDPMC_TOKEN, token_of(WRITE, 0x309), fixed_ctrl(0xBB)), "tick"),
        ((token_of(READ, 0x4C1),), None),
        ((NOTHING,), None),
        ((ack(1),), None),
    ],
)
def test_what_stands_between_off_and_on_names_the_operation(
    middle: tuple[Token, ...], wanted: str | None
) -> None:
    assert kind(bracketed((OFF, *middle, ON), RUNNING)) == wanted


@pytest.mark.parametrize(
    ("middle", "enabled", "wanted"),
    [
        ((NOTHING,), True, "pmi_spurious"),
        ((status(1), ack(1), RDPMC_TOKEN, counter(0), NOTHING), True, "pmi"),
        ((status(3), ack(3), status(1), ack(1), NOTHING), True, "pmi"),
        ((status(1), ack(1), NOTHING), False, "pmi_disabled"),
        ((NOTHING,), False, "pmi_disabled"),
        ((status(1), ack(1)), True, None),
        ((status(1), NOTHING), True, None),
    ],
)
def test_a_handler_looks_once_more_than_it_acknowledges(
    middle: tuple[Token, ...], enabled: bool, wanted: str | None
) -> None:
    assert kind(handler((OFF, *middle, ON, LVTPC), RUNNING, enabled=enabled)) == wanted


def test_operations_leave_the_counters_that_they_started() -> None:
    found = bracketed((OFF, *START0, token_of(WRITE, 0x309), fixed_ctrl(0xB), LVTPC, ON), Context())
    assert found is not None
    assert found.after == Context(1, 0xB)
    assert found.after.counters == 1 | 1 << 32
    gone = bracketed((OFF, *STOP0, fixed_ctrl(0xB, READ), fixed_ctrl(0), ON), found.after)
    assert gone is not None
    assert gone.after == Context()


def test_a_handler_that_throttles_stops_the_counter() -> None:
    tokens = (OFF, status(1), ack(1), RDPMC_TOKEN, counter(0), selector(0, on=False), NOTHING, ON)
    found = handler(tokens, RUNNING, enabled=True)
    assert found is not None
    assert (found.kind, found.after) == ("pmi", Context(0b10, 0xBB))
