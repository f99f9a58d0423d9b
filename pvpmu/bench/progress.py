"""Progress of a long command on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pvpmu.shared.viewprocess import live_view

if TYPE_CHECKING:
    from rich.console import Console

    from pvpmu.bench.measure import Progress


_VIEW_WAIT_S = 120.0


@contextlib.contextmanager
def live_progress(names: Sequence[str]) -> Iterator[Progress]:
    """The live view of these VMs in place of a progress bar."""
    with live_view(names, _VIEW_WAIT_S):
        yield lambda _share, _label: None


@contextlib.contextmanager
def progress_on(console: Console) -> Iterator[Progress]:
    """A live bar on a terminal, a line whenever the label changes elsewhere."""
    if not console.is_terminal:
        last = ""

        def line(_: float, label: str) -> None:
            nonlocal last
            if label != last:
                last = label
                console.print(f"pvpmu: {label}", highlight=False, markup=False)

        yield line
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description:<34}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda share, label: bar.update(task, completed=share, description=label)
