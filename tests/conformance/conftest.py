"""A scripted target and small vectors, as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from pvpmu.conformance.inline import InlineTarget
from pvpmu.conformance.runner import RunConfig, Runner
from pvpmu.conformance.target import Hello, Json, OnNmi, Reply
from pvpmu.conformance.vector import Vector, load_vectors
from pvpmu.conformance.verdict import CaseResult

LEAF_EAX = 2 | 4 << 8 | 48 << 16
LEAF_EDX = 3 | 48 << 5

Answer = Callable[[str, int, Mapping[str, Json], OnNmi], Reply | None]


class FakeTarget:
    """Registers that hold what was written; ``answer`` may reply first."""

    def __init__(self, answer: Answer | None = None, features: tuple[str, ...] = ("page",)) -> None:
        self.answer = answer
        self.features = features
        self.registers: dict[Any, int] = {}
        self.configs: list[dict[str, Json]] = []
        self.asked: list[tuple[str, int, dict[str, Json]]] = []
        self.closed = 0

    def hello(self) -> Hello:
        return Hello(name="fake", version="1", features=self.features, profiles=("kvm-6.12",))

    def reset(self, config: Mapping[str, Json]) -> None:
        self.registers.clear()
        self.configs.append(dict(config))

    def op(self, name: str, vcpu: int, fields: Mapping[str, Json], on_nmi: OnNmi) -> Reply:
        self.asked.append((name, vcpu, dict(fields)))
        if self.answer is not None:
            reply = self.answer(name, vcpu, fields, on_nmi)
            if reply is not None:
                return reply
        if name == "cpuid":
            return Reply(value={"eax": LEAF_EAX, "edx": LEAF_EDX}.get(str(fields["register"]), 0))
        if name == "wr":
            value = fields["value"]
            assert isinstance(value, int)
            self.registers[fields["msr"]] = value
        if name == "rd":
            return Reply(value=self.registers.get(fields["msr"], 0))
        return Reply(value=1 if name == "register" else None)

    def close(self) -> None:
        self.closed += 1


def make_vector(*ops: dict[str, Any], **fields: Any) -> Vector:
    """A vector of these operations, on the trap path unless told otherwise."""
    given = {"id": "MSR-01", "title": "t", "clause": "c", "paths": ["trap"], "ops": list(ops)}
    return msgspec.convert(given | fields, type=Vector)


def run_one(vector: Vector, target: FakeTarget | None = None, **config: Any) -> list[CaseResult]:
    """Run one vector on a fake target."""
    fake = target or FakeTarget()
    runner = Runner(lambda: fake, RunConfig(**({"target": "fake"} | config)))
    return runner.run_vector(vector)


@pytest.fixture
def new_target() -> type[FakeTarget]:
    return FakeTarget


@pytest.fixture
def new_vector() -> Callable[..., Vector]:
    return make_vector


@pytest.fixture
def outcome() -> Callable[..., CaseResult]:
    """Run operations on a fake target (``target=``, ``vector=``): the one result."""

    def run(*ops: dict[str, Any], target: FakeTarget | None = None, **fields: Any) -> CaseResult:
        results = run_one(make_vector(*ops, **fields), target)
        assert len(results) == 1
        return results[0]

    return run


@pytest.fixture
def results() -> Callable[..., list[CaseResult]]:
    return run_one


@pytest.fixture(scope="session")
def vectors() -> list[Vector]:
    return load_vectors()


@pytest.fixture
def inline_runner() -> Callable[..., Runner]:
    """A runner on the inline target."""
    return lambda **config: Runner(InlineTarget, RunConfig(**config))
