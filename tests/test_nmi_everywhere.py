"""An NMI before and after every load and store of the page, in every operation of the driver.

The page's window is instrumented: at one chosen point the vCPU is made to exit and the host
injects NMIs there, whose handler runs through the same seam. The truth is what the silicon
counted; nothing of the driver's or the host's bookkeeping is trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from pvpmu.shared import page
from pvpmu.shared.events import BRANCH_MISSES

# What tests/conftest.py's nmi_machine fixture builds.
Machine: TypeAlias = Any
Build: TypeAlias = Callable[[], Any]

ON = 0x7_0000_00FF
NEVER = 1 << 62
SPARE = 0x53_00C5
"""A selector for PMC2, which no event of the driver uses: branch-misses."""

INJECTIONS = (
    ("foreign",),
    ("stray",),
    ("overflow",),
    ("foreign", "overflow"),
    ("overflow", "overflow"),
)

# What happens under the NMI: (prepare, operation), the operation alone is instrumented -----------


def _in(machine: Machine) -> None:
    machine.core.sched_in(machine.now)
    machine.retire({event.config.event.kind: 100 for event in machine.core.events})


def _in_with_status(machine: Machine) -> None:
    """Two status bits that nobody has handled: they overflowed while LVTPC was masked."""
    _in(machine)
    machine.seam.wrmsr(0x834, 0x1_0400)
    for event in machine.core.events[1:3]:
        machine.overflow(event)
    assert machine.handlers == 0


def _in_with_one_bit(machine: Machine) -> None:
    _in(machine)
    machine.seam.wrmsr(0x834, 0x1_0400)
    machine.overflow(machine.core.events[2])


def _in_unmasked(machine: Machine) -> None:
    _in_with_status(machine)
    machine.seam.wrmsr(0x834, 0x400)


def _disabled(machine: Machine) -> None:
    _in_with_status(machine)
    machine.driver.disable()


def _out(machine: Machine) -> None:
    _in(machine)
    machine.core.sched_out(machine.now)


def _never_in(machine: Machine) -> None:
    """GLOBAL_CTRL on, no selector: the next enabling selector write is the COMMIT."""
    machine.driver.disable()
    machine.driver.enable()


def _write(address: int, value: int) -> Callable[[Machine], None]:
    return lambda machine: machine.seam.wrmsr(address, value)


def _enable_event(machine: Machine) -> None:
    machine.driver.disable()
    machine.driver.enable()


def _tick(machine: Machine) -> None:
    machine.core.tick()


def _handler(machine: Machine) -> None:
    machine.trace_handler = True
    machine.window.quiet = True
    machine.overflow(machine.core.events[0])


OPERATIONS: dict[str, tuple[Callable[[Machine], None], Callable[[Machine], None]]] = {
    "sched-in": (lambda _: None, lambda machine: machine.core.sched_in(machine.now)),
    "sched-in again": (_out, lambda machine: machine.core.sched_in(machine.now)),
    "sched-out": (_in, lambda machine: machine.core.sched_out(machine.now)),
    "sched-out, status set": (
        _in_with_status,
        lambda machine: machine.core.sched_out(machine.now),
    ),
    "tick": (_in, _tick),
    "tick, status set": (_in_with_status, _tick),
    "disable and enable": (_in, _enable_event),
    "handler": (_in, _handler),
    "handler, status set": (_in_unmasked, _handler),
    "ack while running": (_in_with_status, _write(0x390, 1 << 32 | 1)),
    "ack of the only bit": (_in_with_one_bit, _write(0x390, 1)),
    "ack of one of two": (_in_with_status, _write(0x390, 1)),
    "ack of clear bits": (_in, _write(0x390, 1 << 33 | 2)),
    "ack while frozen": (_disabled, _write(0x390, 1 << 32 | 1)),
    "read status": (_in_with_status, lambda machine: machine.seam.rdmsr(0x38E) and None),
    "selector while running": (_in, _write(0x188, SPARE)),
    "selector while frozen": (_disabled, _write(0x188, SPARE)),
    "selector is the commit": (_never_in, _write(0x188, SPARE)),
    "fixed control while running": (_in, _write(0x38D, 0x3BB)),
    "fixed control while frozen": (_disabled, _write(0x38D, 0x3BB)),
    "fixed control is the commit": (_never_in, _write(0x38D, 0x300)),
    "counter while frozen": (_disabled, _write(0x4C3, 12345)),
    "legacy counter while frozen": (_disabled, _write(0xC3, 0x8000_0001)),
    "fixed counter while frozen": (_disabled, _write(0x30B, 54321)),
    "lvtpc while running": (_in, _write(0x834, 0x400)),
    "lvtpc while frozen": (_disabled, _write(0x834, 0x400)),
    "same global control while running": (_in, _write(0x38F, ON)),
    "same global control while frozen": (_never_in, _write(0x38F, ON)),
}


def _play(build: Build, name: str, point: int, injection: tuple[str, ...]) -> tuple[Machine, int]:
    prepare, operate = OPERATIONS[name]
    machine = build()
    prepare(machine)
    machine.trace_handler = name.startswith("handler")
    machine.arm(point, injection)
    operate(machine)
    return machine, machine.disarm()


def _commit(machine: Machine) -> None:
    """What the guest would do next: end whatever it was in, and go on."""
    if not machine.driver.enabled:
        machine.driver.enable()
    if not any(event.hw.counter is not None for event in machine.core.events):
        machine.core.sched_in(machine.now)
    # A write to a register that does not change it makes the host look at the page.
    machine.driver.disable()
    machine.driver.enable()


def _at_once(machine: Machine) -> tuple[int, list[int]]:
    """GLOBAL_CTRL as it reads and the kinds that count, before anything else is written."""
    kinds = sorted(counter.kind for counter in machine.host.hardware.started)
    return machine.seam.rdmsr(0x38F), kinds


def _state(machine: Machine) -> dict[str, Any]:
    """What the host holds after a COMMIT, less what a handler may legitimately have changed."""
    vpmu = machine.host.vpmu
    return {
        "global_ctrl": vpmu.global_ctrl,
        "fixed_ctr_ctrl": vpmu.fixed_ctr_ctrl,
        "evtsel": [pmc.eventsel for pmc in vpmu.gp],
        "live": vpmu.live,
        "counts in silicon": sorted(counter.kind for counter in machine.host.hardware.started),
        "spare counters": [vpmu.rdpmc(2), vpmu.rdpmc(1 << 30 | 2)],
        "rejected": machine.words[page.REJECTED],
    }


def _check(machine: Machine, expected: dict[str, Any], lvtpc: int) -> None:
    vpmu, words = machine.host.vpmu, machine.words
    assert _state(machine) == expected
    assert not vpmu.held
    assert not machine.seam.held
    assert words[page.FREEZE_SEQ] == words[page.RELEASE_SEQ]
    assert machine.seam.rdmsr(0x38F) == vpmu.global_ctrl == ON
    # No status lost or invented: each overflow is handled once or its bit is still there.
    status = machine.seam.rdmsr(0x38E)
    assert status == vpmu.global_status
    assert words[page.PMI_ACK] == words[page.PMI_SEQ]
    assert machine.seam.rdmsr(0x834) == (0x400 if machine.handlers else lvtpc)


def _check_counts(machine: Machine) -> None:
    # Let every live counter count on, so that one that was not restarted is missed.
    before = dict(machine.truth)
    machine.retire({event.config.event.kind: 7 for event in machine.core.events})
    for event in machine.core.events:
        assert machine.truth[event.config.event.kind] == before.get(event.config.event.kind, 0) + 7
    machine.core.sched_out(machine.now)
    for event in machine.core.events:
        assert event.hw.count == machine.truth[event.config.event.kind]


def _status_balance(machine: Machine) -> int:
    """Overflows less the bits that handlers saw less those still set: what acks took, or lost."""
    return machine.raised - machine.handled - machine.status.bit_count()


@pytest.mark.rule("ACC-3", "FRZ-10", "OWN-9", "PMI-11")
@pytest.mark.parametrize("injection", INJECTIONS, ids="+".join)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_nmi_at_any_access_changes_nothing_but_its_own(
    nmi_machine: Build, name: str, injection: tuple[str, ...]
) -> None:
    plain, points = _play(nmi_machine, name, NEVER, injection)
    acked_plainly = _status_balance(plain)
    at_once = _at_once(plain)
    _commit(plain)
    expected, lvtpc = _state(plain), plain.host.delivery.lvtpc
    _check(plain, expected, lvtpc)
    _check_counts(plain)
    for point in range(points):
        machine, _ = _play(nmi_machine, name, point, injection)
        assert machine.handlers > plain.handlers or injection[0] == "overflow"
        assert not machine.seam.held, f"held after point {point}"
        assert _at_once(machine) == at_once, f"at point {point}"
        balance = _status_balance(machine)
        # A bit that the operation itself acks may have been taken by the handler first.
        assert 0 <= balance <= acked_plainly, f"status at point {point}"
        if not name.startswith("ack"):
            assert balance == acked_plainly == 0
        _commit(machine)
        _check(machine, expected, lvtpc)
        _check_counts(machine)


def test_the_instruments_see_the_accesses_of_every_operation(nmi_machine: Build) -> None:
    points = {name: _play(nmi_machine, name, NEVER, ())[1] for name in OPERATIONS}
    assert all(number >= 2 and number % 2 == 0 for number in points.values())
    # The stores and loads of 2 + 2 x 2 + 2 x 3 + 1 accesses, two moments each, at least.
    assert points["sched-in"] >= 26
    assert points["sched-out"] >= 24
    assert points["tick"] >= 44
    assert points["handler"] >= 16


@pytest.mark.rule("FRZ-3")
def test_a_held_handler_that_is_interrupted_by_an_exit_stays_held(nmi_machine: Build) -> None:
    machine = nmi_machine()
    _in(machine)
    seen: list[bool] = []

    def look() -> None:
        machine.inject("foreign")
        seen.append(machine.host.vpmu.held)

    machine.trace_handler = True
    machine.arm(0, ())
    machine.window.fire = look
    _handler(machine)
    machine.disarm()
    assert seen == [True]
    # The foreign NMI waited for the end of the handler and got one of its own.
    assert machine.handlers == 2


@pytest.mark.rule("ACC-3")
def test_a_selector_counts_after_two_nmis_hit_the_end_of_a_hold(nmi_machine: Build) -> None:
    """FREEZE_SEQ is loaded, two NMIs run, and the stale value must not look like a hold."""
    _, points = _play(nmi_machine, "disable and enable", NEVER, ("foreign",))
    for point in range(points):
        machine, _ = _play(nmi_machine, "disable and enable", point, ("foreign", "overflow"))
        # With GLOBAL_CTRL on, stop every event by its own enable, then start one again.
        for address in (0x186, 0x187, 0x38D):
            machine.seam.wrmsr(address, 0)
        assert not machine.host.hardware.started
        machine.seam.wrmsr(0x188, SPARE)
        kinds = [counter.kind for counter in machine.host.hardware.started]
        assert kinds == [BRANCH_MISSES], f"at point {point}"


def test_a_status_read_returns_what_stood_before_or_after_the_nmi(nmi_machine: Build) -> None:
    """Both times 0 here: the handler acknowledges what overflowed."""
    machine = nmi_machine()
    _in(machine)
    machine.arm(NEVER, ())
    machine.seam.rdmsr(0x38E)
    points = machine.disarm()
    for point in range(points):
        machine = nmi_machine()
        _in(machine)
        machine.arm(point, ("overflow",))
        status = machine.seam.rdmsr(0x38E)
        machine.disarm()
        assert machine.handlers == 1
        assert status == machine.status == 0, f"at point {point}"
