"""The transition table: sound in itself, what the committed files say, and what the code does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pvpmu.guest.cpu import Vcpu
from pvpmu.host.migrate import restore, save
from pvpmu.host.vcpu import HostVcpu
from pvpmu.host.vmm import set_msr
from pvpmu.shared import exits, page, states
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import PmuCpuid
from pvpmu.shared.design import design_named
from pvpmu.shared.errors import GeneralProtectionError
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.registration import Request
from pvpmu.shared.states import TABLE, Event, Row, State, next_state

ROOT = Path(__file__).parents[2]
FIXED0 = 0x309
ALL_ON = PmuCpuid().counters
UNMASKED, MASKED = 0x400, 0x1_0400
ACCEPTED = Request(address=0, version=1, features=page.FEATURE_FREEZE).encode()
ON = 0xB
"""FIXED_CTR_CTRL: counter 0 counts everywhere and interrupts."""


class Rig:
    """Guest and host of one vCPU; its NMI handler touches nothing. Counts exits."""

    def __init__(self) -> None:
        self.slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.memory = memoryview(bytearray(2 * PAGE_SIZE)).cast("Q")
        self.host = self.new_host()
        self.exits = 0
        self.cpu = Vcpu(self.slot, self._cross)
        self.cpu.on_nmi = lambda: None
        self.wrmsr, self.rdmsr = self.cpu.seam.wrmsr, self.cpu.seam.rdmsr

    def new_host(self) -> HostVcpu:
        return HostVcpu(self.slot, self.memory, design_named("page"), PmuCpuid())

    def _cross(self) -> None:
        self.exits += 1
        self.host.serve()

    @property
    def state(self) -> State:
        words = self.memory
        if self.host.page is None:
            assert words[page.VERSION] == 0
            return State.UNREGISTERED
        if words[page.LIVE]:
            assert self.host.page.running
            return State.RUNNING
        assert not self.host.page.running
        assert not self.host.hardware.started
        held = words[page.FREEZE_SEQ] != words[page.RELEASE_SEQ]
        return State.HELD if held else State.STOPPED

    def trapped(self, address: int, value: int) -> None:
        """A WRMSR that does not go through the seam."""
        self.cpu.exit(ExitReason.MSR_WRITE, address, value)

    def pmi(self) -> None:
        self.cpu.pmi_exit(stray=True)

    def reach(self, state: State) -> None:
        for address, value in ((msr.LVTPC, UNMASKED), (msr.FIXED_CTR_CTRL, ON)):
            self.wrmsr(address, value)
        if state is not State.UNREGISTERED:
            assert self.cpu.register_page(self.memory, 0)
        if state is State.STOPPED:
            self.wrmsr(msr.GLOBAL_CTRL, 0)
        elif state is State.HELD:
            self.pmi()
        assert self.state is state


def _again(rig: Rig, bits: int = ACCEPTED) -> None:
    rig.trapped(msr.PV_PAGE, bits)


def _register_live(rig: Rig) -> None:
    if rig.state is State.UNREGISTERED:
        assert rig.cpu.register_page(rig.memory, 0)
    else:
        _again(rig)


def _register_stopped(rig: Rig) -> None:
    rig.wrmsr(msr.FIXED_CTR_CTRL, 0)
    _register_live(rig)


def _write_stops(rig: Rig) -> None:
    rig.trapped(msr.FIXED_CTR_CTRL, 0)


def _write_starts(rig: Rig) -> None:
    if rig.state is State.STOPPED:
        rig.wrmsr(msr.FIXED_CTR_CTRL, 0)
        rig.wrmsr(msr.GLOBAL_CTRL, ALL_ON)
        assert rig.state is State.STOPPED
        rig.wrmsr(msr.FIXED_CTR_CTRL, ON)
    else:
        rig.trapped(FIXED0, 7)


def _refused(rig: Rig) -> None:
    with pytest.raises(GeneralProtectionError):
        rig.wrmsr(msr.FIXED_CTR_CTRL, 4)


def _commit_refused(rig: Rig) -> None:
    rig.memory[page.EVTSEL] = 1 << 40
    with pytest.raises(GeneralProtectionError):
        rig.wrmsr(msr.GLOBAL_CTRL, ALL_ON)


def _pmi_without_freeze(rig: Rig) -> None:
    if rig.state is State.RUNNING:
        rig.wrmsr(msr.LVTPC, MASKED)
    rig.pmi()


def _other_nmi(rig: Rig) -> None:
    rig.host.queue_nmi()
    rig.cpu.pmi_exit()


def _host_write(rig: Rig) -> None:
    assert set_msr(rig.host, FIXED0, 9)
    rig.cpu.exit(ExitReason.FLOOR)


def _move(rig: Rig) -> None:
    state = save(rig.host)
    rig.host = rig.new_host()
    restore(rig.host, state)
    # The VM-entry that follows publishes.
    rig.cpu.exit(ExitReason.FLOOR)


DRIVE: dict[Event, Callable[[Rig], object]] = {
    Event.REGISTER_LIVE: _register_live,
    Event.REGISTER_STOPPED: _register_stopped,
    Event.REGISTER_REFUSED: lambda rig: _again(rig, ACCEPTED | 1 << 4),
    Event.UNREGISTER: lambda rig: _again(rig, 0),
    Event.RESET: lambda rig: rig.cpu.exit(ExitReason.CONTROL, value=Control.RESET),
    Event.PAGE_READ: lambda rig: rig.rdmsr(msr.GLOBAL_STATUS),
    Event.PAGE_ELIDED: lambda rig: rig.wrmsr(msr.FIXED_CTR_CTRL, ON),
    Event.PAGE_STORE: lambda rig: rig.wrmsr(FIXED0, 5),
    Event.PAGE_RELEASE: lambda rig: rig.wrmsr(msr.GLOBAL_CTRL, 0),
    Event.PAGE_ACK: lambda rig: rig.wrmsr(msr.OVF_CTRL, 1),
    Event.TRAPPED_READ: lambda rig: rig.cpu.exit(ExitReason.MSR_READ, FIXED0),
    Event.WRITE_STOPS: _write_stops,
    Event.GLOBAL_CTRL_STOPS: lambda rig: rig.trapped(msr.GLOBAL_CTRL, 0),
    Event.WRITE_STARTS: _write_starts,
    Event.GLOBAL_CTRL_STARTS: lambda rig: rig.wrmsr(msr.GLOBAL_CTRL, ALL_ON ^ 1),
    Event.REFUSED: _refused,
    Event.COMMIT_REFUSED: _commit_refused,
    Event.FREEZE: lambda rig: rig.pmi(),
    Event.PMI: _pmi_without_freeze,
    Event.OTHER_NMI: _other_nmi,
    Event.HOST_WRITE: _host_write,
    Event.SAVE_RESTORE: _move,
}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.state.name}-{row.event.name}")
def test_guest_and_host_go_where_the_row_says(row: Row) -> None:
    rig = Rig()
    rig.reach(row.state)
    before = rig.exits
    DRIVE[row.event](rig)
    assert rig.state is row.next
    assert (rig.exits == before) == row.event.name.startswith("PAGE_")


def test_a_row_for_each_pair_at_most_and_a_driver_for_each_event() -> None:
    pairs = [(row.state, row.event) for row in TABLE]
    assert len(pairs) == len(set(pairs))
    assert set(DRIVE) == set(Event)
    assert {row.event for row in TABLE} == set(Event)


def test_every_state_is_left_and_reached() -> None:
    for state in State:
        assert any(row.state is state and row.next is not state for row in TABLE)
        assert any(row.next is state and row.state is not state for row in TABLE)


def test_what_cannot_happen_has_no_next_state() -> None:
    assert next_state(State.STOPPED, Event.FREEZE) is None
    assert next_state(State.HELD, Event.FREEZE) is None
    assert next_state(State.RUNNING, Event.PAGE_STORE) is None
    assert next_state(State.RUNNING, Event.FREEZE) is State.HELD


@pytest.mark.parametrize("name", states.GENERATED)
def test_the_committed_file_is_what_the_table_renders(name: str) -> None:
    assert (ROOT / name).read_text() == states.GENERATED[name](), (
        f"{name} differs: run python -m pvpmu.shared.states"
    )


def test_the_command_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["states", str(tmp_path)])
    states.main()
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")} == set(states.GENERATED)
