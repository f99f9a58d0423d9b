"""Designs as data."""

import pytest

from pvpmu.shared.datafile import load_toml
from pvpmu.shared.design import Design, design_named, design_names
from pvpmu.shared.errors import UsageError

TEXT = """\
name = "mine"
summary = "s"
is_paused = true
page = true
"""


def load(text: str) -> Design:
    return load_toml(text, source="mine.toml", kind=Design)


def test_every_shipped_design_loads_under_its_own_name() -> None:
    names = design_names()
    assert {"trap-5.14", "trap", "page"} <= set(names)
    assert names == sorted(names)
    assert [design_named(name).name for name in names] == names


def test_the_shipped_designs_differ_as_their_names_say() -> None:
    old, new, paged = (design_named(name) for name in ("trap-5.14", "trap", "page"))
    assert (old.is_paused, old.page) == (False, False)
    assert (new.is_paused, new.page) == (True, False)
    assert (paged.is_paused, paged.page, paged.freeze) == (True, True, True)


def test_freeze_is_off_and_equivalence_claimed_unless_said() -> None:
    design = load(TEXT)
    assert (design.freeze, design.equivalent) == (False, True)


def test_freeze_without_a_page_is_refused() -> None:
    text = TEXT.replace("page = true", "page = false\nfreeze = true")
    with pytest.raises(UsageError, match=r"mine\.toml: .*freeze needs page = true"):
        load(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("is_paused = 1", "mine.toml: line 3: field is_paused: Expected `bool`, got `int`"),
        ("", "mine.toml: line 1: field -: Object missing required field `is_paused`"),
        ("is_pused = true", "mine.toml: line 3: field is_pused: unknown field `is_pused`; known: "),
    ],
)
def test_a_mistake_is_reported_with_file_line_and_field(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(TEXT.replace("is_paused = true", line))
    assert str(caught.value).startswith(message)


def test_an_unknown_design_is_refused_naming_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"unknown design '../page'; known: .*page"):
        design_named("../page")
