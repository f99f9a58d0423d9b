"""Typed TOML with one-line messages."""

from dataclasses import dataclass, field

import pytest

from pvpmu.shared.datafile import load_toml
from pvpmu.shared.errors import UsageError


@dataclass(frozen=True)
class Item:
    name: str
    rate: int = 0


@dataclass(frozen=True)
class Part:
    size: int
    items: list[Item] = field(default_factory=list)


@dataclass(frozen=True)
class Whole:
    name: str
    part: Part
    limit: int | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    optional: Part | None = None


GOOD = """\
name = "x"

[part]
size = 3

[[part.items]]
name = "first"

[[part.items]]
name = "second"
rate = 7
"""


def load(text: str) -> Whole:
    return load_toml(text, source="file.toml", kind=Whole)


def failure(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(text)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.status == 2
    return message


def test_a_good_file_becomes_its_dataclass() -> None:
    assert load(GOOD) == Whole("x", Part(3, [Item("first"), Item("second", 7)]))


def test_text_that_is_no_toml_is_reported_with_its_position() -> None:
    message = failure("name = \n")
    assert message.startswith("file.toml: ")
    assert "line 1" in message


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('name = "x"', "name = 3", "line 1: field name: Expected `str`"),
        ("size = 3", 'size = "3"', "line 4: field part.size: Expected `int`"),
        ("rate = 7", "rate = 7.5", "line 11: field part.items[1].rate: Expected `int`"),
        ('name = "first"', "name = 1", "line 7: field part.items[0].name: Expected `str`"),
        ("rate = 7", "rat = 7", "line 11: field part.items[1].rat: unknown field `rat`"),
        ("size = 3", "size = 3\nsiz = 3", "line 5: field part.siz: unknown field `siz`"),
        ('name = "x"', 'name = "x"\nnam = 1', "line 2: field nam: unknown field `nam`"),
        ("[part]", "[parts.a]\nsiez = 1\n[part]", "line 4: field parts.a.siez: unknown field"),
        ("[part]", "[optional]\nsiez = 1\n[part]", "line 4: field optional.siez: unknown field"),
    ],
)
def test_a_wrong_value_is_reported_with_line_and_field(old: str, new: str, where: str) -> None:
    assert failure(GOOD.replace(old, new, 1)).startswith(f"file.toml: {where}")


def test_an_unknown_field_is_reported_with_the_known_ones() -> None:
    assert failure(GOOD.replace("rate", "rat")).endswith("known: name, rate")


def test_a_missing_field_is_reported_at_its_table() -> None:
    message = failure(GOOD.replace("size = 3\n", ""))
    assert message == "file.toml: line 3: field part: Object missing required field `size`"
