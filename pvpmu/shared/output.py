"""Standard output that says so when it cannot be written: a full disk behind it, a closed one."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

STANDARD_OUTPUT = "standard output"
"""The ``filename`` of an OSError of it."""


class _Raw(io.FileIO):
    """A descriptor whose errors carry a name, as those of a file that was opened by name do.

    ``failure``: the last of them; argparse, for one, keeps those of its help to itself.
    """

    failure: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = STANDARD_OUTPUT
            self.failure = error
            raise


@contextlib.contextmanager
def named_output() -> Iterator[None]:
    """While it lasts, an OSError of ``sys.stdout`` has :data:`STANDARD_OUTPUT` as its filename.

    At its end everything is written: raises OSError where that fails, unless something else has
    failed before. A ``sys.stdout`` that somebody else put there is left alone.
    """
    before = sys.stdout
    if before is not sys.__stdout__:
        yield
        return
    raw, output = _named(before)
    sys.stdout = output
    try:
        yield
    except SystemExit:
        # --help and --version end so.
        _write_out(raw, output)
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            _write_out(raw, output)
        raise
    else:
        _write_out(raw, output)
    finally:
        sys.stdout = before


def _named(output: TextIO | None) -> tuple[_Raw, io.TextIOWrapper]:
    if output is None:
        # Closed by whoever started us; what cannot be written must not go where files go.
        raw = _Raw(os.open(os.devnull, os.O_RDONLY), "wb")
        return raw, io.TextIOWrapper(io.BufferedWriter(raw))
    assert isinstance(output, io.TextIOWrapper)
    raw = _Raw(output.fileno(), "wb", closefd=False)
    unbuffered = isinstance(output.buffer, io.RawIOBase)
    return raw, io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=output.encoding,
        errors=output.errors,
        line_buffering=output.line_buffering,
        write_through=output.write_through,
    )


def _write_out(raw: _Raw, output: io.TextIOWrapper) -> None:
    """Write what is left, and raise what has failed; then nothing is left that tries again."""
    with contextlib.suppress(OSError):
        output.flush()
    if raw.failure is not None:
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, output.fileno())
        os.close(number)
        output.flush()
        raise raw.failure
