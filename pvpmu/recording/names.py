"""What the numbers of a recording are called, in every format that says it in words. Pure."""

from __future__ import annotations

from pvpmu.recording.format import (
    NO_KIND,
    OPERATIONS,
    PATH_MASK,
    Change,
    Op,
    Path,
    Pmi,
    State,
)
from pvpmu.shared.events import EVENTS
from pvpmu.shared.exits import Control, ExitReason, reason_name
from pvpmu.shared.tally import CALL_KINDS
from pvpmu.trace.names import msr_name

_OPS = {int(op): op.name.lower() for op in Op}
_PATHS = {int(path): path.name.lower() for path in Path}
_PMIS = {int(what): what.name.lower() for what in Pmi}
_CHANGES = {int(change): change.name for change in Change}
_STATES = {int(state): state.name.replace("_", "-") for state in State}
_CONTROLS = {int(control): control.name for control in Control}
_MSR_EXITS = (int(ExitReason.MSR_READ), int(ExitReason.MSR_WRITE))
_RDPMC, _CPUID = int(ExitReason.RDPMC), int(ExitReason.CPUID)


def exit_label(reason: int, detail: int) -> str:
    """An exit with what it was for: the register, RDPMC's index or CPUID's leaf."""
    if reason in _MSR_EXITS:
        return f"{reason_name(reason)} {msr_name(detail)}"
    if reason in (_RDPMC, _CPUID):
        return f"{reason_name(reason)} {detail:#x}"
    return reason_name(reason)


def access_label(op: int, detail: int) -> str:
    """An access of the driver."""
    return f"{op_name(op)} {detail:#x}" if op == Op.RDPMC else f"{op_name(op)} {msr_name(detail)}"


def op_name(op: int) -> str:
    """The instruction."""
    return _OPS.get(op) or f"op {op}"


def path_name(flags: int) -> str:
    """Where an access went."""
    path = flags & PATH_MASK
    return _PATHS.get(path) or f"path {path}"


def pmi_name(what: int) -> str:
    """What became of a PMI."""
    return _PMIS.get(what) or f"pmi {what}"


def change_name(change: int) -> str:
    """Why a page's state changed."""
    return _CHANGES.get(change) or f"change {change}"


def state_name(state: int) -> str:
    """A page's state."""
    return _STATES.get(state) or f"state {state}"


def control_name(control: int) -> str:
    """What a CONTROL exit asked for."""
    return _CONTROLS.get(control) or f"CONTROL {control}"


def call_name(call: int) -> str:
    """A kind of perf call."""
    return CALL_KINDS[call] if call < len(CALL_KINDS) else f"call {call}"


def event_name(kind: int) -> str | None:
    """What a host event counts; None for nothing that the silicon has."""
    return EVENTS[kind].name if kind != NO_KIND and kind < len(EVENTS) else None


def operation_name(which: int) -> str:
    """Something that perf does in the guest."""
    return OPERATIONS[which] if which < len(OPERATIONS) else f"operation {which}"
