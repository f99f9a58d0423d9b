"""Random programs for the differential layer: operations of the kit, legal and illegal.

A program is made while the oracle runs it, so that counts can aim at overflows and handlers at the
status that is set. What comes out is plain data, which any target can play.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Any

from pvpmu.conformance import oracle
from pvpmu.conformance.oracle import EVENTS, Counter, Fields, Oracle, Seen

Op = tuple[str, dict[str, Any]]
"""Name and fields, as a target is asked; ``migrate`` is a save and a restore."""
Where = tuple[int, int]
"""(-1, position) in the program, (n, position) in the handler of NMI n."""
Trace = list[tuple[Where, str, Seen]]

GUARD: Op = ("wr", {"msr": oracle.GLOBAL_CTRL, "value": 0})
"""Every handler starts so: what counts before it may differ with FREEZE."""
OF_PAGE = frozenset({"register", "unregister", "sync"})
"""Only a guest with a page does them."""
UNSEEN = OF_PAGE | {"preempt", "move"}
"""Nothing of them is seen by a guest."""
_NMIS = 12
"""Handlers that do something; an NMI, or LVTPC's vector, after that many finds only the guard."""
_FAR = 5000
_LVTPCS = (0x400, 0x1_0400, 0x1_0000, 0xEF, 0x40, 0xF, 0x2400, 0x700, 1 << 32 | 0x400)


@dataclass(slots=True)
class Program:
    """``config``: a vector's. ``handlers[n]`` runs at NMI n, the last one at all further ones."""

    config: dict[str, Any]
    ops: list[Op]
    handlers: list[list[Op]] = field(default_factory=list)

    def without(self, gone: set[Where]) -> Program:
        """The same less some operations."""
        ops = [op for i, op in enumerate(self.ops) if (-1, i) not in gone]
        handlers = [
            [op for i, op in enumerate(body) if (n, i) not in gone]
            for n, body in enumerate(self.handlers)
        ]
        return Program(self.config, ops, handlers)


class Player:
    """Plays a program on one machine, ``do``; ``trace`` is what the guest saw."""

    def __init__(
        self, program: Program, do: Callable[[str, Fields, Callable[[], None]], Seen]
    ) -> None:
        self._program = program
        self._do = do
        self._nmis = 0
        self.trace: Trace = []

    def play(self) -> Trace:
        """From the first operation to the last."""
        for position, op in enumerate(self._program.ops):
            self._step((-1, position), op)
        return self.trace

    def _step(self, where: Where, op: Op) -> None:
        name, fields = op
        at = len(self.trace)
        seen = self._do(name, fields, self._nmi)
        if name not in UNSEEN:
            self.trace.insert(at, (where, name, seen))

    def _nmi(self) -> None:
        handlers = self._program.handlers
        number, self._nmis = self._nmis, self._nmis + 1
        self.trace.append(((number, -1), "NMI", oracle.DONE))
        self._step((number, -1), GUARD)
        if number < len(handlers):
            for position, op in enumerate(handlers[number]):
                self._step((number, position), op)


class Author:
    """Writes one program of ``length`` operations at top level, running the oracle as it goes."""

    def __init__(self, random: Random, profile: str, length: int) -> None:
        self._random = random
        self.program = Program(_config(random, profile), [])
        self._oracle = Oracle(self.program.config)
        self._length = length
        # How this program's driver sets LVTPC, most of the time.
        self._lvtpc = random.choice((0x400, 0x400, 0x400, 0x400, 0x400, 0xEF))
        self.done = 0
        kinds: dict[Callable[[], Op], float] = {
            self._read: 18, self._rdpmc: 7, self._write_evtsel: 9, self._write_counter: 14,
            self._write_control: 16, self._write_lvtpc: 4, self._write_anything: 3,
            self._run_some: 34, self._run_emulated: 2, lambda: ("nmi", {}): 2,
            lambda: ("sync", {}): 3, lambda: ("register", {}): 2, lambda: ("unregister", {}): 0.6,
            lambda: ("preempt", {"times": 1}): 1, lambda: ("move", {}): 1, self._iflag: 2,
            self._filter: 1, self._host_get: 3, self._host_set: 3, self._reset: 0.7,
            self._migrate: 1.5,
        }  # fmt: skip
        self._makers = list(kinds)
        self._weights = list(accumulate(kinds.values()))

    def write(self) -> Program:
        """The program; ``done`` operations have run, those of handlers included."""
        for op in self._setup():
            self._run(self.program.ops, op)
        while len(self.program.ops) < self._length:
            self._run(self.program.ops, self._any())
        for address in self._existing():
            self._run(self.program.ops, ("rd", {"msr": address}))
        return self.program

    def _run(self, into: list[Op], op: Op) -> None:
        into.append(op)
        self.done += 1
        name, fields = op
        self._oracle.op("restore" if name == "migrate" else name, fields, self._nmi)

    def _nmi(self) -> None:
        body: list[Op] = []
        self.done += 1
        self._oracle.op(*GUARD, self._nmi)
        if len(self.program.handlers) >= _NMIS:
            return
        self.program.handlers.append(body)
        for make in self._handler():
            self._run(body, make())

    # What to do --------------------------------------------------------------------------------

    def _setup(self) -> list[Op]:
        ops: list[Op] = [("rd", {"msr": oracle.LVTPC}), _wr(oracle.LVTPC, self._lvtpc)]
        ops.append(("iflag", {"value": self._random.random() < 0.8}))
        ops += [_wr(oracle.EVTSEL + c.number, self._evtsel()) for c in self._oracle.gp[:3]]
        ops += [_wr(oracle.LEGACY + c.number, self._value(32)) for c in self._oracle.gp[:3]]
        if self._oracle.has_globals:
            ops.append(_wr(oracle.FIXED_CTRL, 0xBBB & self._nibbles()))
            ops.append(_wr(oracle.GLOBAL_CTRL, self._oracle.all_bits))
        return ops

    def _handler(self) -> list[Callable[[], Op]]:
        """Mostly what a handler does: status, acknowledge, reload, unmask, enable."""
        chance = self._random.random
        steps: list[Callable[[], Op]] = [lambda: ("rd", {"msr": oracle.STATUS})]
        if chance() < 0.9:
            steps.append(lambda: _wr(oracle.OVF_CTRL, self._oracle.status))
        if chance() < 0.7:
            steps.append(self._write_counter)
        steps += [self._any for _ in range(self._random.choice((0, 0, 1, 3)))]
        if chance() < 0.8:
            steps.append(lambda: _wr(oracle.LVTPC, self._lvtpc))
        if chance() < 0.9:
            steps.append(lambda: _wr(oracle.GLOBAL_CTRL, self._oracle.all_bits))
        steps += [self._any for _ in range(self._random.choice((0, 0, 0, 2)))]
        return steps

    def _any(self) -> Op:
        (make,) = self._random.choices(self._makers, cum_weights=self._weights)
        return make()

    def _read(self) -> Op:
        return "rd", {"msr": self._address()}

    def _rdpmc(self) -> Op:
        choice = self._random.choice
        bank, first = choice(((self._oracle.gp, 0), (self._oracle.fixed, 1 << 30)))
        index = first | self._one_of(bank) | choice((0, 0, 0, 1 << 31))
        cpl, pce = choice(((0, True), (0, True), (3, True), (3, False)))
        protected = choice((True, True, True, False))
        fields = {"index": index, "cpl": cpl, "pce": pce, "protected": protected}
        return "rdpmc", fields | {"emulated": choice((False, False, False, True))}

    def _write_evtsel(self) -> Op:
        return _wr(oracle.EVTSEL + self._one_of(self._oracle.gp), self._evtsel())

    def _write_counter(self) -> Op:
        first, bank, width = self._random.choice(
            (
                (oracle.LEGACY, self._oracle.gp, 32),
                (oracle.FULL, self._oracle.gp, self.program.config["gp_width"]),
                (oracle.FIXED, self._oracle.fixed, self.program.config["fixed_width"]),
            )
        )
        return _wr(first + self._one_of(bank), self._value(width))

    def _write_control(self) -> Op:
        choice, bits = self._random.choice, self._random.getrandbits
        everything = self._oracle.all_bits
        address = choice(
            (oracle.GLOBAL_CTRL, oracle.GLOBAL_CTRL, oracle.FIXED_CTRL, oracle.OVF_CTRL)
        )
        if address == oracle.GLOBAL_CTRL:
            return _wr(
                address, choice((0, everything, everything, bits(35) & everything, bits(40)))
            )
        if address == oracle.FIXED_CTRL:
            return _wr(
                address,
                choice((0xBBB, bits(12), bits(12) & 0xBBB, bits(13)))
                & choice((self._nibbles(), self._nibbles(), 0x1FFF)),
            )
        status = self._oracle.status
        return _wr(
            address, choice((status, status, everything, bits(35) & everything, 3 << 62, bits(64)))
        )

    def _write_lvtpc(self) -> Op:
        return _wr(oracle.LVTPC, self._random.choice((self._lvtpc, self._lvtpc, *_LVTPCS)))

    def _iflag(self) -> Op:
        return "iflag", {"value": self._random.choice((False, True, True))}

    def _write_anything(self) -> Op:
        value = self._random.getrandbits(self._random.choice((1, 8, 32, 48, 64)))
        return _wr(self._address(), value)

    def _run_some(self) -> Op:
        counts = dict.fromkeys(EVENTS, 0)
        random = self._random
        cpl = random.choice((0, 0, 3))
        near = [c for c in self._oracle.counters if c.running and c.distance < _FAR]
        if near and random.random() < 0.6:
            chosen = random.choice(near)
            if chosen.kind is not None:
                counts[EVENTS[chosen.kind]] = max(chosen.distance + random.choice((-1, 0, 0, 3)), 0)
        for event in random.sample(EVENTS, random.choice((0, 1, 1, 3))):
            counts[event] += random.randrange(60)
        return "run", counts | {"cpl": cpl, "emulated": False}

    def _run_emulated(self) -> Op:
        counts = dict.fromkeys(EVENTS, 0)
        counts["instructions"] = self._random.randrange(4)
        counts["branches"] = self._random.randrange(4)
        return "run", counts | {"cpl": self._random.choice((0, 3)), "emulated": True}

    def _filter(self) -> Op:
        action = self._random.choice(("none", "none", "allow", "deny"))
        chosen = self._random.sample(sorted(oracle.SELECTORS), self._random.randrange(5))
        entries = [
            {"event": each & 0xFF, "umask": each >> 8, "mask": None, "exclude": False}
            for each in chosen
        ]
        if action == "none":
            entries = []
        fields = {"action": action, "events": entries, "fixed": self._random.randrange(8)}
        return "filter", fields | {"masked": False, "fill": 0}

    def _host_get(self) -> Op:
        return "host_get", {"msr": self._address()}

    def _host_set(self) -> Op:
        # PERF_CAPABILITIES depends on whether the vCPU has run, which a restore forgets.
        _, fields = self._random.choice(
            (self._write_evtsel, self._write_counter, self._write_control, self._write_anything)
        )()
        address = fields["msr"] if fields["msr"] != oracle.CAPS else oracle.STATUS
        if self._random.random() < 0.2:
            return "host_set", {
                "msr": oracle.STATUS,
                "value": self._random.getrandbits(35) & self._oracle.all_bits,
            }
        return "host_set", {"msr": address, "value": fields["value"]}

    def _reset(self) -> Op:
        return "reset", {"kind": self._random.choice(("reset", "init"))}

    def _migrate(self) -> Op:
        return "migrate", {"fresh": self._random.random() < 0.5}

    # Values ------------------------------------------------------------------------------------

    def _existing(self) -> list[int]:
        own = self._oracle
        found = [first + c.number for c in own.gp for first in (oracle.EVTSEL, oracle.LEGACY)]
        found += [oracle.FIXED + c.number for c in own.fixed]
        return [
            *found,
            oracle.FIXED_CTRL,
            oracle.STATUS,
            oracle.GLOBAL_CTRL,
            oracle.OVF_CTRL,
            oracle.LVTPC,
        ]

    def _one_of(self, bank: list[Counter]) -> int:
        """A counter's number; sometimes of one that does not exist."""
        some = max(len(bank), 1)
        return self._random.randrange(some if self._random.random() < 0.95 else 9)

    def _address(self) -> int:
        choice = self._random.choice
        first = choice((oracle.LEGACY, oracle.FULL, oracle.EVTSEL, oracle.FIXED, 0))
        if first:
            return first + self._one_of(
                self._oracle.fixed if first == oracle.FIXED else self._oracle.gp
            )
        return choice((
            oracle.CAPS, oracle.FIXED_CTRL, oracle.STATUS, oracle.STATUS, oracle.STATUS,
            oracle.GLOBAL_CTRL, oracle.OVF_CTRL, oracle.LVTPC, 0x38C, 0x391, 0x10,
        ))  # fmt: skip

    def _value(self, width: int) -> int:
        roll = self._random.random()
        if roll < 0.75:
            return -self._random.randrange(1, 60) & (1 << width) - 1
        if roll < 0.85:
            return self._random.choice((0, 1, (1 << width - 1), (1 << 31), (1 << width) - 1))
        return self._random.getrandbits(width if roll < 0.95 else 64)

    def _evtsel(self) -> int:
        random = self._random
        value = random.choice(tuple(oracle.SELECTORS)) | 1 << 16 | 1 << 17 | 1 << 20 | 1 << 22
        for bit in (16, 17, 20, 22):
            if random.random() < 0.12:
                value &= ~(1 << bit)
        if random.random() < 0.1:
            value ^= 1 << random.choice((0, 5, 18, 19, 21, 23, 24, 31, 32, 33, 63))
        return value

    def _nibbles(self) -> int:
        return sum(0xF << 4 * c.number for c in self._oracle.fixed)


def _wr(address: int, value: int) -> Op:
    return "wr", {"msr": address, "value": value}


def _config(random: Random, profile: str) -> dict[str, Any]:
    """A machine: mostly the usual one."""
    pdcm = random.random() < 0.95
    return {
        "gp": random.choice((4, 4, 2, 8, 1, 3)), "fixed": random.choice((3, 3, 2, 0)),
        "gp_width": random.choice((48, 48, 40, 32)), "fixed_width": random.choice((48, 48, 36)),
        "version": 2 if random.random() < 0.95 else 1, "unavailable": 0, "length": 7,
        "full_width": random.random() < 0.85, "pdcm": pdcm, "pmu": True, "vcpus": 1,
        "page": True, "is_paused": random.random() < 0.8, "lvtpc_masked": None,
        "lvtpc_auto": False, "profile": profile, "nmi_at": False, "pages": 3,
    }  # fmt: skip
