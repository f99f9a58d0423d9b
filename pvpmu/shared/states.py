"""The states of a vCPU's page and what moves it from one to the next: the one source.

Pure data and its renderings. ``docs/generated/states.md`` and ``docs/model/transitions.pml`` are
made from it (``python -m pvpmu.shared.states``); tests drive guest and host through every row.

A hold lasts while ``freeze_seq`` differs from ``release_seq``; ``live`` is GLOBAL_CTRL and own
enable bits. STOPPED and HELD together are FROZEN, in which the turn words are the guest's.
"""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass
from pathlib import Path


class State(enum.Enum):
    """A vCPU's page as both sides see it between two accesses of the guest."""

    UNREGISTERED = "no page: every access traps"
    RUNNING = "a counter is live and nothing is held"
    STOPPED = "FROZEN, no hold: no counter is live"
    HELD = "FROZEN: the host froze for a PMI and the guest has not released"


class Event(enum.Enum):
    """What happens: an access of the guest, or something at a VM-entry."""

    REGISTER_LIVE = "registration accepted, a counter is live"
    REGISTER_STOPPED = "registration accepted, no counter is live"
    REGISTER_REFUSED = "registration refused"
    UNREGISTER = "unregistration, or INIT"
    RESET = "vCPU reset: the registers start anew"
    PAGE_READ = "read that the page serves"
    PAGE_ELIDED = "write of the value that the page has, which does nothing"
    PAGE_STORE = "write that is a store"
    PAGE_RELEASE = "write of GLOBAL_CTRL that is a store: no counter gets live"
    PAGE_ACK = "write of OVF_CTRL"
    TRAPPED_READ = "trapped read, or any access of the VMM: imports in FROZEN"
    WRITE_STOPS = "trapped write, not of GLOBAL_CTRL, after which no counter is live"
    GLOBAL_CTRL_STOPS = "trapped write of GLOBAL_CTRL after which no counter is live"
    WRITE_STARTS = "trapped write, not of GLOBAL_CTRL, after which a counter is live"
    GLOBAL_CTRL_STARTS = "trapped write of GLOBAL_CTRL after which a counter is live"
    REFUSED = "trapped write whose own value is #GP"
    COMMIT_REFUSED = "COMMIT that is #GP for a word of the page"
    FREEZE = "VM-entry that injects a PMI's NMI, FREEZE accepted, LVTPC not masked by the guest"
    PMI = "VM-entry that injects a PMI's NMI otherwise"
    OTHER_NMI = "VM-entry that injects an NMI that is no PMI"
    HOST_WRITE = "register written by the VMM, which starts and stops nothing"
    SAVE_RESTORE = "saved, and restored on this or another host, under a new generation"


@dataclass(frozen=True, slots=True)
class Row:
    """``event`` in ``state`` leads to ``next``; ``name`` is the protocol's word for it, if any."""

    state: State
    event: Event
    next: State
    name: str = ""


_U, _R, _S, _H = State.UNREGISTERED, State.RUNNING, State.STOPPED, State.HELD


def _stays(state: State, *events: Event) -> list[Row]:
    return [Row(state, event, state) for event in events]


TABLE: tuple[Row, ...] = (
    Row(_U, Event.REGISTER_LIVE, _R),
    Row(_U, Event.REGISTER_STOPPED, _S),
    *_stays(
        _U,
        Event.REGISTER_REFUSED,
        Event.UNREGISTER,
        Event.RESET,
        Event.TRAPPED_READ,
        Event.WRITE_STOPS,
        Event.GLOBAL_CTRL_STOPS,
        Event.WRITE_STARTS,
        Event.GLOBAL_CTRL_STARTS,
        Event.REFUSED,
        Event.PMI,
        Event.OTHER_NMI,
        Event.HOST_WRITE,
        Event.SAVE_RESTORE,
    ),
    Row(_R, Event.REGISTER_LIVE, _R),
    Row(_R, Event.REGISTER_REFUSED, _U),
    Row(_R, Event.UNREGISTER, _U),
    Row(_R, Event.RESET, _U),
    Row(_R, Event.WRITE_STOPS, _S, "STOP"),
    Row(_R, Event.GLOBAL_CTRL_STOPS, _S, "STOP"),
    Row(_R, Event.FREEZE, _H, "freeze"),
    *_stays(
        _R,
        Event.PAGE_READ,
        Event.PAGE_ELIDED,
        Event.PAGE_ACK,
        Event.TRAPPED_READ,
        Event.WRITE_STARTS,
        Event.GLOBAL_CTRL_STARTS,
        Event.REFUSED,
        Event.PMI,
        Event.OTHER_NMI,
        Event.HOST_WRITE,
        Event.SAVE_RESTORE,
    ),
    Row(_S, Event.REGISTER_STOPPED, _S),
    Row(_S, Event.REGISTER_REFUSED, _U),
    Row(_S, Event.UNREGISTER, _U),
    Row(_S, Event.RESET, _U),
    Row(_S, Event.WRITE_STARTS, _R, "COMMIT"),
    Row(_S, Event.GLOBAL_CTRL_STARTS, _R, "COMMIT"),
    Row(_S, Event.COMMIT_REFUSED, _S, "COMMIT refused"),
    *_stays(
        _S,
        Event.PAGE_READ,
        Event.PAGE_STORE,
        Event.PAGE_RELEASE,
        Event.PAGE_ACK,
        Event.TRAPPED_READ,
        Event.WRITE_STOPS,
        Event.GLOBAL_CTRL_STOPS,
        Event.REFUSED,
        Event.PMI,
        Event.OTHER_NMI,
        Event.HOST_WRITE,
        Event.SAVE_RESTORE,
    ),
    Row(_H, Event.REGISTER_LIVE, _R),
    Row(_H, Event.REGISTER_STOPPED, _S),
    Row(_H, Event.REGISTER_REFUSED, _U),
    Row(_H, Event.UNREGISTER, _U),
    Row(_H, Event.RESET, _U),
    Row(_H, Event.PAGE_RELEASE, _S, "release"),
    Row(_H, Event.GLOBAL_CTRL_STOPS, _S, "release"),
    Row(_H, Event.GLOBAL_CTRL_STARTS, _R, "COMMIT"),
    Row(_H, Event.COMMIT_REFUSED, _S, "COMMIT refused"),
    *_stays(
        _H,
        Event.PAGE_READ,
        Event.PAGE_STORE,
        Event.PAGE_ACK,
        Event.TRAPPED_READ,
        Event.WRITE_STOPS,
        Event.WRITE_STARTS,
        Event.REFUSED,
        Event.PMI,
        Event.OTHER_NMI,
        Event.HOST_WRITE,
        Event.SAVE_RESTORE,
    ),
)
"""At most one row for each state and event; a pair that is absent cannot happen."""


def next_state(state: State, event: Event) -> State | None:
    """Where ``event`` leads from ``state``; None when it cannot happen there."""
    return _NEXT.get((state, event))


_NEXT = {(row.state, row.event): row.next for row in TABLE}


def as_promela() -> str:
    """The states, the events and the test of one transition, for the model in docs/model.

    An event is the bitmap of its allowed pairs: bit 4 x state + next state.
    """
    number = {state: n for n, state in enumerate(State)}
    lines = [
        "/* Made by `python -m pvpmu.shared.states` from pvpmu/shared/states.py.",
        " * An event is the bitmap of its allowed pairs: bit 4 * state + next state. */",
    ]
    lines += [f"#define S_{state.name} {number[state]}" for state in State]
    for event in Event:
        rows = [row for row in TABLE if row.event is event]
        bits = sum(1 << 4 * number[row.state] + number[row.next] for row in rows)
        lines.append(f"#define E_{event.name} {bits}")
    lines.append("#define NEXT_OK(s, e, n) (((e) >> (4 * (s) + (n))) & 1)")
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """The table and its diagram, for docs/generated/states.md."""
    states = list(State)
    lines = [
        "# States of the page and their transitions",
        "",
        "Made by `python -m pvpmu.shared.states` from `pvpmu/shared/states.py`. STOPPED and HELD",
        "together are FROZEN. An empty cell cannot happen.",
        "",
        "| state | meaning |",
        "|---|---|",
        *(f"| {state.name} | {state.value} |" for state in states),
        "",
        "| event | " + " | ".join(state.name for state in states) + " |",
        "|---|" + "---|" * len(states),
    ]
    for event in Event:
        cells = [_cell(state, event) for state in states]
        lines.append(f"| {event.value} | " + " | ".join(cells) + " |")
    lines += ["", "Transitions that change the state:", "", "```mermaid", *_diagram(), "```"]
    return "\n".join(lines) + "\n"


def _cell(state: State, event: Event) -> str:
    for row in TABLE:
        if row.state is state and row.event is event:
            return f"{row.next.name} ({row.name})" if row.name else row.next.name
    return ""


def _diagram() -> list[str]:
    labels: dict[tuple[State, State], list[str]] = {}
    for row in TABLE:
        if row.state is not row.next:
            label = row.name or row.event.name.lower().replace("_", " ")
            seen = labels.setdefault((row.state, row.next), [])
            if label not in seen:
                seen.append(label)
    return [
        "stateDiagram-v2",
        "    [*] --> UNREGISTERED",
        *(
            f"    {source.name} --> {target.name}: {', '.join(names)}"
            for (source, target), names in labels.items()
        ),
    ]


GENERATED = {
    "docs/generated/states.md": as_markdown,
    "docs/model/transitions.pml": as_promela,
}
"""Committed files by path from the project's root, and what makes them."""


def main() -> None:
    """Write every generated file below the directory named (default: here)."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for name, render in GENERATED.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render())


if __name__ == "__main__":
    main()
