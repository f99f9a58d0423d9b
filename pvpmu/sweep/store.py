"""A sweep's CSV file: rows in the order of points, each on the disk before the next is awaited.

**Invariants**: the file is at all times a prefix of the finished one, except for a last line that
is cut; one process writes to it.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pvpmu.shared.errors import NameInUseError, UsageError

_MARK = "# pvpmu-sweep/1 grid "
_HEADER_LINES = 3
POINT = "point"


class SweepFile:
    """An open file. ``rows``: points that it holds already, which are the first so many."""

    def __init__(self, path: Path, fd: int, rows: int) -> None:
        self._path = path
        self._fd = fd
        self.rows = rows

    def append(self, rows: Iterable[Sequence[object]]) -> None:
        """Append the next points' cells and wait until the disk has them."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        number = self.rows
        for cells in rows:
            writer.writerow([number, *map(_text, cells)])
            number += 1
        _write(self._fd, text.getvalue().encode())
        self.rows = number

    def kept(self) -> int:
        """Points in the file: ``rows``, and what an interrupted or failed append has written."""
        with self._path.open("rb") as file:
            return sum(line.endswith(b"\n") for line in file) - _HEADER_LINES


@contextlib.contextmanager
def open_file(
    path: Path, *, digest: str, command: str, columns: Sequence[str], size: int
) -> Iterator[SweepFile]:
    """Open or create ``path`` for a grid of ``size`` points; a last line that is cut is dropped.

    ``command`` is noted in the file. Raises :class:`UsageError` when the file holds anything but
    the beginning of this grid's rows, :class:`NameInUseError` when another process writes to it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(fd, path)
        with path.open("rb") as file:
            content = file.read()
        names = io.StringIO()
        csv.writer(names, lineterminator="\n").writerow([POINT, *columns])
        mark = f"{_MARK}{digest}\n"
        header = f"{mark}# {command}\n{names.getvalue()}".encode()
        rows = _rows(path, content, mark, names.getvalue())
        if rows is None:
            os.ftruncate(fd, 0)
            _write(fd, header)
            _sync_folder(path)
            rows = 0
        else:
            whole = content.rindex(b"\n") + 1
            os.ftruncate(fd, whole)
            os.lseek(fd, whole, os.SEEK_SET)
        if rows > size:
            raise UsageError(f"{path}: holds {rows:,} points, expected at most {size:,}")
        yield SweepFile(path, fd, rows)
    finally:
        os.close(fd)


def _text(cell: object) -> object:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return "" if cell is None else cell


def _rows(path: Path, content: bytes, mark: str, names: str) -> int | None:
    """Whole rows of this grid in ``content``; None if the header is not complete yet."""
    start = content[: len(mark)]
    if not mark.encode().startswith(start):
        if not content.startswith(_MARK.encode()):
            raise UsageError(f"{path}: is no file of pvpmu sweep; give another, or remove it")
        theirs = start.decode(errors="replace").removeprefix(_MARK).strip()
        ours = mark.removeprefix(_MARK).strip()
        raise UsageError(
            f"{path}: holds the grid {theirs}, this one is {ours}: {_command(content)}"
        )
    lines = content.split(b"\n")
    if len(lines) <= _HEADER_LINES:
        return None
    if lines[_HEADER_LINES - 1].decode(errors="replace") + "\n" != names:
        raise UsageError(f"{path}: line {_HEADER_LINES}: other columns than this version writes")
    width = len(next(csv.reader([names])))
    for number, line in enumerate(lines[_HEADER_LINES:-1]):
        at = number + _HEADER_LINES + 1
        cells = next(csv.reader([line.decode(errors="replace")]), [])
        if len(cells) != width or cells[0] != str(number):
            raise UsageError(
                f"{path}: line {at}: expected point {number} in {width} cells, "
                f"found {cells[0] if cells else 'nothing'} in {len(cells)}"
            )
    return len(lines) - _HEADER_LINES - 1


def _command(content: bytes) -> str:
    line = content.split(b"\n", 2)[1] if content.count(b"\n") > 1 else b"# ?"
    return "made by " + line.decode(errors="replace").removeprefix("# ")


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise NameInUseError(f"{path}: another sweep is writing to it") from None


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
    os.fsync(fd)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
