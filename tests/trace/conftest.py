"""Traces made by running the driver, and the samples of real tools in ``data``."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pvpmu.trace.events import EventReader
from pvpmu.trace.reading import Trace, read_trace
from pvpmu.trace.source import Source

from ..short import SHORT  # noqa: TID252 (tests are no package)

HERE = Path(__file__).parent


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trace_generator", HERE / "generator.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def generator() -> Any:
    """The module that makes traces."""
    return _generator()


@pytest.fixture(scope="session")
def short_runs(generator: Any) -> list[Any]:
    """Two vCPUs' exits of the short script: 27 + 2 handlers, 5 ticks, 3 sched-ins, 2 sched-outs."""
    return [generator.record(SHORT, vcpu=vcpu) for vcpu in range(2)]


@pytest.fixture(scope="session")
def later_runs(generator: Any) -> list[Any]:
    """The same of the driver of Linux 6.12."""
    return [generator.record(SHORT, vcpu=vcpu, driver="linux-6.12") for vcpu in range(2)]


@pytest.fixture(scope="session")
def render(generator: Any) -> Callable[..., bytes]:
    """Exits of some vCPUs as a tool prints them."""

    def text(runs: Sequence[Any], style: str = "perf-script", **options: Any) -> bytes:
        lines = generator.lines(generator.events(runs, **options), style)
        return ("\n".join(lines) + "\n").encode()

    return text


@pytest.fixture(scope="session")
def mail_run(generator: Any) -> Any:
    """The exits of the script of the 2021 trace."""
    return generator.record("br_instr-trace")


def read_events(text: bytes) -> EventReader:
    """Event lines, read to their end."""
    reader = EventReader()
    reader.feed(text)
    reader.finish()
    return reader


def make_source(data: bytes, name: str = "some.txt") -> Source:
    """An input."""
    return Source(name, io.BytesIO(data), len(data))


def read(data: bytes, **options: Any) -> Trace:
    """An input of any format, read to its end."""
    return read_trace(make_source(data), **options)


@pytest.fixture(scope="session")
def events_of() -> Callable[[bytes], EventReader]:
    """Read event lines."""
    return read_events


@pytest.fixture(scope="session")
def reading() -> Callable[..., Trace]:
    """Read an input of any format."""
    return read


@pytest.fixture(scope="session")
def source_of() -> Callable[[bytes], Source]:
    """An input of these bytes."""
    return make_source


@pytest.fixture(scope="session")
def sample() -> Callable[[str], bytes]:
    """The bytes of a file of ``data``."""
    return lambda name: (HERE / "data" / name).read_bytes()
