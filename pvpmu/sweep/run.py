"""Run a sweep: simulate what its file lacks, in order, as many at once as the engine takes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from pvpmu.bench.totals import Totals
from pvpmu.shared.errors import PeerError
from pvpmu.sweep.engine import Engine
from pvpmu.sweep.grid import Block, Grid
from pvpmu.sweep.point import Task, simulate
from pvpmu.sweep.row import cells
from pvpmu.sweep.store import SweepFile

_AHEAD = 8
"""Simulations begun per slot: enough that a slow one does not idle the others, few to lose."""

Done = Callable[[int], None]
"""Told how many points the file holds."""


def run_sweep(grid: Grid, file: SweepFile, engine: Engine, done: Done) -> None:
    """Append every point that ``file`` lacks; raises what a simulation raises."""
    blocks = _missing(grid, file.rows)
    window: deque[tuple[Block, Future[Totals]]] = deque()

    def refill() -> None:
        for block in itertools.islice(blocks, _AHEAD * engine.slots - len(window)):
            window.append((block, engine.executor.submit(simulate, _task(block))))

    try:
        refill()
        while window:
            block, future = window.popleft()
            totals = future.result()
            refill()
            skip = file.rows - block.first
            file.append(_rows(block, totals, skip))
            done(file.rows)
    except engine.losses as error:
        raise PeerError(f"a worker ended in the middle ({type(error).__name__})") from None
    finally:
        for _, future in window:
            future.cancel()


def _missing(grid: Grid, rows: int) -> Iterator[Block]:
    return (block for block in grid.blocks() if block.first + len(block.points) > rows)


def _task(block: Block) -> Task:
    first = block.resolved[0]
    return Task(first.scenario, first.design, first.seed, first.charge)


def _rows(block: Block, totals: Totals, skip: int) -> Iterator[list[object]]:
    pairs = zip(block.points, block.resolved, strict=True)
    for point, resolved in itertools.islice(pairs, skip, None):
        yield [*point.values(), *cells(resolved, totals).values()]
