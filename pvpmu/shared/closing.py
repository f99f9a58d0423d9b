"""What a ``with`` statement closes."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """A context manager that is itself, and closes itself on leaving."""

    def close(self) -> None:
        """Let go of what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
