"""The file: whole rows in order, whatever happens to the process that writes it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvpmu.shared.errors import NameInUseError, UsageError
from pvpmu.sweep.store import open_file

SIZE = 5
COLUMNS = ("events", "design", "ns")
ROWS = [[n, f"design, {n}", None if n == 3 else n + 0.5] for n in range(SIZE)]
SEED = 5


def fill(path: Path, digest: str = "abc", upto: int = SIZE) -> int:
    """Open, append what is missing up to a point; returns how many rows there were."""
    with open_file(path, digest=digest, command="a b", columns=COLUMNS, size=SIZE) as file:
        before = file.rows
        for cells in ROWS[before:upto]:
            file.append([cells])
        assert file.rows == max(before, upto)
    return before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.csv"


def test_a_row_is_a_line_with_the_number_of_its_point(path: Path) -> None:
    assert fill(path) == 0
    assert path.read_text().splitlines() == [
        "# pvpmu-sweep/1 grid abc",
        "# a b",
        "point,events,design,ns",
        '0,0,"design, 0",0.5',
        '1,1,"design, 1",1.5',
        '2,2,"design, 2",2.5',
        '3,3,"design, 3",',
        '4,4,"design, 4",4.5',
    ]


def test_what_is_kept_is_what_the_file_has_whatever_ended_an_append(path: Path) -> None:
    def interrupted() -> Iterator[list[object]]:
        yield ROWS[1]
        raise KeyboardInterrupt

    with open_file(path, digest="abc", command="a b", columns=COLUMNS, size=SIZE) as file:
        file.append(ROWS[:1])
        with pytest.raises(KeyboardInterrupt):
            file.append(interrupted())
        assert (file.rows, file.kept()) == (1, 1)
        with path.open("ab") as other:
            other.write(b'1,1,"design, 1",1.5\n2,2,"des')
        assert (file.rows, file.kept()) == (1, 2)


def test_a_file_cut_anywhere_is_continued_to_the_same_bytes(path: Path) -> None:
    fill(path)
    whole = path.read_bytes()
    header = whole.index(b"0,0,")
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        assert fill(path) == whole[header:cut].count(b"\n"), cut
        assert path.read_bytes() == whole, cut


def test_a_writer_that_dies_again_and_again_loses_and_repeats_nothing(path: Path) -> None:
    draw = random.Random(SEED)
    fill(path)
    whole = path.read_bytes()
    path.unlink()
    for _ in range(30):
        before = fill(path, upto=draw.randint(0, SIZE))
        content = path.read_bytes()
        assert content.count(b"\n") - 3 >= before
        path.write_bytes(content[: len(content) - draw.randint(0, 25)])
    fill(path)
    assert path.read_bytes() == whole, f"seed {SEED}"


def test_another_grids_file_is_left_alone(path: Path) -> None:
    fill(path, upto=2)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"out.csv: holds the grid abc, this one is abd: .*a b"):
        fill(path, digest="abd")
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"x", b"# pvpmu", b"a,b\n1,2\n", b"\0" * 100])
def test_a_file_of_something_else_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    if b"# pvpmu-sweep/1 grid abc".startswith(content):
        assert fill(path) == 0
        return
    with pytest.raises(UsageError, match=r"out.csv: is no file of pvpmu sweep"):
        fill(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("2,2,", "7,2,", "line 6: expected point 2 in 4 cells, found 7 in 4"),
        ('1,1,"design, 1",1.5\n', "", "line 5: expected point 1 in 4 cells, found 2 in 4"),
        ("1,1,", "1,1,1,", "line 5: expected point 1 in 4 cells, found 1 in 5"),
        ("point,events", "point,event", "line 3: other columns"),
        ("1,1,", "\n1,1,", "line 5: expected point 1 in 4 cells, found nothing in 0"),
    ],
)
def test_a_file_that_someone_edited_is_refused(path: Path, old: str, new: str, says: str) -> None:
    fill(path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UsageError) as refused:
        fill(path)
    assert says in str(refused.value)


def test_a_file_with_more_points_than_the_grid_is_refused(path: Path) -> None:
    fill(path)
    opened = open_file(path, digest="abc", command="", columns=COLUMNS, size=4)
    with pytest.raises(UsageError, match="holds 5 points, expected at most 4"), opened:
        pass


def test_only_one_sweep_writes_to_a_file(path: Path) -> None:
    opened = open_file(path, digest="abc", command="", columns=COLUMNS, size=SIZE)
    with opened, pytest.raises(NameInUseError, match="another sweep is writing"):
        fill(path)
    assert fill(path) == 0
