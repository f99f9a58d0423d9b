"""Where a bench's result goes: a file, standard output as JSON, or a table on the screen."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvpmu.shared.process import writable, writing

if TYPE_CHECKING:
    from rich.console import Console

Json = dict[str, Any]
Print = Callable[[Json, "Console", int | None], None]


class Output:
    """``where``: of ``--json``, a file's name or "-"; raises :class:`UsageError` for a bad one."""

    def __init__(self, where: str | None) -> None:
        self._bare = where == "-"
        self._target = None if where is None or self._bare else writable(Path(where))

    def give(self, result: Json, show: Print, endless: int) -> int:
        """Write the result, and ``show`` it unless it went to standard output; the exit status."""
        # rich takes longer to import than a worker takes to start.
        from rich.console import Console  # noqa: PLC0415

        text = json.dumps(result, indent=2) + "\n"
        if self._bare:
            sys.stdout.write(text)
        else:
            if self._target is not None:
                with writing(self._target):
                    self._target.write_text(text, "utf-8")
            screen = Console()
            fit = screen.width if screen.is_terminal else None
            show(result, Console(width=endless), fit)
        return 0 if all(check["ok"] for check in result["checks"]) else 1
