"""One vector on one path: evaluate, ask the target, judge, remember what the guest saw."""

from __future__ import annotations

from collections import ChainMap, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from pvpmu.conformance import ops
from pvpmu.conformance.expression import ExpressionError, evaluate
from pvpmu.conformance.names import FIXED_NAMES, PAGE_WORDS, SHAPE_NAMES, Shape
from pvpmu.conformance.ops import AnyOp, Expect, Op, PathName, Value, tag_of, text_of
from pvpmu.conformance.target import Json, Reply, Target
from pvpmu.conformance.vector import Vector, walk
from pvpmu.conformance.verdict import Failure
from pvpmu.shared import cpuid
from pvpmu.shared.page import PAGE_SIZE
from pvpmu.shared.units import U64_MASK

_MOST_TURNS = 100_000
_SPARE_PAGES = 2
"""Guest memory is one page for each vCPU, at number * PAGE_SIZE, and these."""
_VISIBLE = (
    ops.Wr,
    ops.Rd,
    ops.Rdpmc,
    ops.Cpuid,
    ops.Lvtpc,
    ops.Overflow,
    ops.Nmis,
    ops.HostGet,
    ops.MsrList,
)
"""Operations whose outcome a guest (or its VMM) sees: what must not differ between paths."""
_WORDS = frozenset({"of", "what", "event", "register", "kind", "action"})
_JUDGED = frozenset({"on", "when", "differs", "expect", "fault", "refused", "do"})


class CaseFailed(Exception):  # noqa: N818 (a verdict, not an error)
    """The target did otherwise than the vector says."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(f"{failure.where}: {failure.op}")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a guest saw. ``seen``: value, #GP, refused."""

    where: str
    text: str
    seen: tuple[int | None, bool, bool]
    differs: frozenset[str] = frozenset()

    @property
    def text_seen(self) -> str:
        """What was seen, for people."""
        value, fault, refused = self.seen
        if fault:
            return "#GP"
        if refused:
            return "refused"
        return "done" if value is None else hex(value)


@dataclass(slots=True)
class _Handler:
    op: ops.Pmi
    where: str
    left: int
    taken: int = field(default=0)


class Interpreter:
    """Runs ``vector`` once; ``where`` is the operation it is at, ``trace`` what was seen.

    ``check`` is called before each operation and may end the run by raising.
    """

    def __init__(
        self,
        vector: Vector,
        path: PathName,
        profile: str,
        target: Target,
        check: Callable[[], None],
    ) -> None:
        self._vector = vector
        self._path = path
        self._profile = profile
        self._target = target
        self._check_limit = check
        self._asks_shape = bool(SHAPE_NAMES & vector.names())
        self._names: dict[str, int] = {}
        self._loops: dict[str, int] = {}
        self._vcpu = 0
        self._handlers: dict[int, deque[_Handler]] = {}
        self._places: list[str] = []
        self.trace: list[Step] = []
        self._do: dict[type, Callable[..., None]] = {
            ops.Repeat: self._repeat,
            ops.Foreach: self._foreach,
            ops.Let: self._let,
            ops.Check: self._check,
            ops.VcpuOp: self._set_vcpu,
            ops.Pmi: self._pmi,
            ops.Fresh: lambda _: self._start(),
        }

    @property
    def where(self) -> str:
        """The operation that runs, numbered from 0 at each level."""
        return ".".join(self._places)

    def run(self) -> None:
        """Run to the end; raises :class:`CaseFailed`, and whatever the target raises."""
        self._start()
        self._all(self._vector.ops)
        self._no_handler_left()

    def _start(self) -> None:
        """A new VM, registered if the path and the vector say so."""
        self._no_handler_left()
        config = msgspec.structs.asdict(self._vector.config)
        freeze = self._path == "page+freeze"
        if self._path == "trap":
            freeze = config["freeze"] == "on"
        config["freeze"] = freeze
        config["profile"] = self._profile
        config["nmi_at"] = any(isinstance(op, ops.NmiAt) for op in walk(self._vector.ops))
        config["race"] = any(isinstance(op, ops.Race) for op in walk(self._vector.ops))
        config["pages"] = self._vector.config.vcpus + _SPARE_PAGES
        self._target.reset(config)
        self._vcpu = 0
        self._names |= FIXED_NAMES | {"MEMORY": config["pages"] * PAGE_SIZE}
        if self._asks_shape:
            # Only then: asking runs the vCPU, and some cases need one that has not run.
            self._names |= self._shape().names()
        if self._path != "trap" and self._vector.config.register:
            for vcpu in range(self._vector.config.vcpus):
                self._vcpu = vcpu
                if self._ask("register").value != 1:
                    self._fail("register before the first op", "registered", "refused")
            self._vcpu = 0

    def _shape(self) -> Shape:
        return Shape.from_leaf(
            self._ask("cpuid", leaf=cpuid.LEAF, register="eax").value or 0,
            self._ask("cpuid", leaf=cpuid.LEAF, register="edx").value or 0,
            full_width=self._vector.config.full_width and self._vector.config.pdcm,
        )

    def _all(self, operations: Sequence[AnyOp], turn: str = "") -> None:
        for number, op in enumerate(operations):
            if op.on and self._path not in op.on:
                continue
            if op.when is not None and not self._value(op.when):
                continue
            self._places.append(f"{number}{turn}")
            self._one(op)
            # Not in a finally: whoever catches a failure asks where it happened.
            self._places.pop()

    def _one(self, op: AnyOp) -> None:
        self._check_limit()
        control = self._do.get(type(op))
        if control is not None:
            control(op)
            return
        name = tag_of(op)
        where, vcpu = self.where, self._vcpu
        at = len(self.trace)
        reply = self._target.op(name, vcpu, self._fields(op), self._on_nmi)
        self._vcpu = vcpu
        if isinstance(op, _VISIBLE) and not op.on:
            seen = Step(
                where, text_of(op), (reply.value, reply.fault, reply.refused), frozenset(op.differs)
            )
            # An NMI that this operation took comes after it in the trace: say what caused it.
            self.trace.insert(at, seen)
        self._judge(op, reply)

    def _ask(self, name: str, **fields: Json) -> Reply:
        return self._target.op(name, self._vcpu, fields, self._on_nmi)

    # Evaluation ------------------------------------------------------------------------------

    def _fields(self, op: AnyOp) -> dict[str, Json]:
        fields: dict[str, Json] = {}
        for name in op.__struct_fields__:
            value = getattr(op, name)
            named = name == "name" and not isinstance(op, (ops.Save, ops.Restore))
            if value is None or named or name in _JUDGED:
                continue
            if name in _WORDS or name == "name" or isinstance(value, bool):
                fields[name] = value
            elif name == "word":
                fields[name] = evaluate(value, ChainMap(PAGE_WORDS, self._names))
            elif isinstance(op, ops.Filter) and name in ("events", "raw"):
                fields[name] = [self._entry(each) for each in value]
            else:
                fields[name] = self._value(value)
                if name in ("value", "index", "msr"):
                    fields[name] = self._value(value) & U64_MASK
        return fields

    def _entry(self, entry: ops.FilterEntry | Value) -> Json:
        if not isinstance(entry, ops.FilterEntry):
            return self._value(entry)
        return {
            "event": self._value(entry.event),
            "umask": self._value(entry.umask),
            "mask": None if entry.mask is None else self._value(entry.mask),
            "exclude": entry.exclude,
        }

    def _value(self, value: Value) -> int:
        return evaluate(value, self._names)

    # Judging ---------------------------------------------------------------------------------

    def _judge(self, op: AnyOp, reply: Reply) -> None:
        for what, text in (("fault", "#GP"), ("refused", "refused")):
            expected, actual = getattr(op, what, False), getattr(reply, what)
            if expected and not actual:
                done = "no fault" if what == "fault" else "accepted"
                value = "" if reply.value is None else f", {reply.value:#x}"
                self._fail(text_of(op), text, done + value)
            if actual and not expected:
                self._fail(text_of(op), self._wanted(op), text)
            if actual:
                return
        if isinstance(op, ops.Observed):
            self._observe(op, reply.value)

    def _observe(self, op: ops.Observed, value: int | None) -> None:
        if value is None:
            if op.expect is not None or op.name is not None:
                self._fail(text_of(op), self._wanted(op), "no value")
            return
        if op.expect is not None and not self._holds(op.expect, value):
            self._fail(text_of(op), self._wanted(op), hex(value))
        if op.name is not None:
            self._names[op.name] = value

    def _holds(self, expect: Value | Expect, value: int) -> bool:
        if not isinstance(expect, Expect):
            return value == self._value(expect) & U64_MASK
        if expect.mask is not None:
            value &= self._value(expect.mask)
        exact = expect.exact is None or value == self._value(expect.exact) & U64_MASK
        other = expect.other is None or value != self._value(expect.other) & U64_MASK
        among = expect.among is None or value in [
            self._value(each) & U64_MASK for each in expect.among
        ]
        low = expect.min is None or value >= self._value(expect.min)
        high = expect.max is None or value <= self._value(expect.max)
        return exact and other and among and low and high

    def _wanted(self, op: Op) -> str:
        expect = op.expect if isinstance(op, ops.Observed) else None
        if expect is None:
            return "no fault"
        if not isinstance(expect, Expect):
            return hex(self._value(expect) & U64_MASK)
        parts = []
        if expect.exact is not None:
            parts.append(hex(self._value(expect.exact) & U64_MASK))
        if expect.among is not None:
            parts.append("one of " + ", ".join(hex(self._value(each)) for each in expect.among))
        if expect.min is not None:
            parts.append(f"at least {self._value(expect.min):#x}")
        if expect.max is not None:
            parts.append(f"at most {self._value(expect.max):#x}")
        if expect.other is not None:
            parts.append(f"not {self._value(expect.other) & U64_MASK:#x}")
        text = " and ".join(parts)
        return text if expect.mask is None else f"{text} under {self._value(expect.mask):#x}"

    def _fail(self, text: str, expected: str, actual: str) -> None:
        raise CaseFailed(
            Failure(
                where=self.where or "start",
                op=text,
                expected=expected,
                actual=actual,
                variables={name: hex(value) for name, value in self._loops.items()},
            )
        )

    # Control ---------------------------------------------------------------------------------

    def _repeat(self, op: ops.Repeat) -> None:
        self._loop(op, op.var, range(self._turns(op.times)))

    def _foreach(self, op: ops.Foreach) -> None:
        if op.among is not None:
            self._loop(op, op.var, [self._value(each) for each in op.among])
        else:
            stop = self._value(op.start if op.stop is None else op.stop)
            start = self._value(op.start)
            self._turns(stop - start)
            self._loop(op, op.var, range(start, stop))

    def _turns(self, times: Value) -> int:
        turns = self._value(times)
        if turns > _MOST_TURNS:
            raise ExpressionError(f"{turns} turns, at most {_MOST_TURNS}")
        return turns

    def _loop(self, op: ops.Repeat | ops.Foreach, var: str | None, values: Sequence[int]) -> None:
        for turn, value in enumerate(values):
            if var is None:
                self._all(op.do, f"#{turn}")
                continue
            with self._bound(var, value):
                self._all(op.do, f"#{turn}")

    @contextmanager
    def _bound(self, var: str, value: int) -> Iterator[None]:
        self._names[var] = self._loops[var] = value
        yield
        del self._loops[var]
        del self._names[var]

    def _let(self, op: ops.Let) -> None:
        self._names[op.name] = self._value(op.value)

    def _check(self, op: ops.Check) -> None:
        for relation in op.that:
            if not self._value(relation):
                known = {name: value for name, value in self._names.items() if name.islower()}
                actual = ", ".join(f"{name} = {value:#x}" for name, value in known.items())
                self._fail("check", relation, actual or "no named result")

    def _set_vcpu(self, op: ops.VcpuOp) -> None:
        self._vcpu = self._value(op.number)

    # NMIs ------------------------------------------------------------------------------------

    def _pmi(self, op: ops.Pmi) -> None:
        handler = _Handler(op, self.where, self._turns(op.times))
        if not handler.left:
            return
        self._handlers.setdefault(self._vcpu, deque()).append(handler)

    def _on_nmi(self, vcpu: int) -> None:
        """The target's vCPU takes an NMI: run the handler that waits for it, if any."""
        waiting = self._handlers.get(vcpu)
        self.trace.append(Step(self.where, f"NMI on vCPU {vcpu}", (None, False, False)))
        if not waiting:
            return
        handler = waiting[0]
        handler.left -= 1
        if not handler.left:
            waiting.popleft()
        outside = self._places, self._vcpu
        self._places, self._vcpu = [f"{handler.where}.nmi{handler.taken}"], vcpu
        handler.taken += 1
        self._all(handler.op.do)
        self._places, self._vcpu = outside

    def _no_handler_left(self) -> None:
        for waiting in self._handlers.values():
            for handler in waiting:
                if not handler.op.optional:
                    self._places = [handler.where]
                    self._fail(
                        text_of(handler.op),
                        f"{handler.left + handler.taken} NMIs",
                        f"{handler.taken} taken",
                    )
        self._handlers.clear()
