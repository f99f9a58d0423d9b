"""A view's turn on CPUs that vCPUs keep busy."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

_PROC = Path("/proc")
_FIRST = -10
"""As nice(2): a session counts nine times another's weight of 0."""


@contextlib.contextmanager
def before(hosts: Collection[int], proc: Path = _PROC) -> Iterator[bool]:
    """Meanwhile this session's processes come before those of other sessions.

    Linux divides CPUs between sessions first (sched(7), autogroups). A view in another session
    than busy vCPUs waited 0.3 s for each of its turns, whatever its own nice value. Yields whether
    anything was changed: not in the session of one of ``hosts`` (process ids), where the view has
    its turns anyway, not without CAP_SYS_NICE, and not on a kernel without autogroups.
    """
    file = proc / "self" / "autogroup"
    found = _group(file)
    if found is None or any(_group(proc / str(pid) / "autogroup") == found for pid in hosts):
        yield False
        return
    nice = found.rpartition(" ")[2]
    # Another view of this session has seen to it, and puts back what was before it.
    changed = nice != str(_FIRST) and _store(file, str(_FIRST))
    try:
        yield changed
    finally:
        if changed:
            _store(file, nice)


def _group(file: Path) -> str | None:
    """A process's session and its nice value, as in ``/autogroup-25 nice 0``."""
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _store(file: Path, nice: str) -> bool:
    try:
        file.write_text(nice)
    except OSError:
        return False
    return True
