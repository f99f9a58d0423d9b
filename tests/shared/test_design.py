"""Designs as data."""

from pathlib import Path

import pytest

from pvpmu.shared.datafile import load_toml
from pvpmu.shared.design import (
    ALL,
    KVM_AXES,
    Design,
    design_named,
    design_names,
    designs_named,
)
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
    with pytest.raises(UsageError, match=r"unknown design '../page': no such file, .* page"):
        design_named("../page")


def test_the_axes_are_kvms_unless_said() -> None:
    assert load(TEXT).host_axes == KVM_AXES
    assert load(TEXT + 'rearm = "changed"\n').host_axes != KVM_AXES


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('pmi_path = "straight"', "field pmi_path: Invalid enum value 'straight'"),
        ("equivalent = false", "field equivalent: equivalent = false needs differences"),
        ('name = ""', "field name: name must be 1 to 48 printable characters"),
        ('vpmu = "mediated"', 'field vpmu: vpmu = "mediated" needs page = false'),
    ],
)
def test_a_design_that_makes_no_sense_is_refused(line: str, message: str) -> None:
    text = TEXT.replace('name = "mine"\n', "") if line.startswith("name") else TEXT
    with pytest.raises(UsageError) as caught:
        load(f"{text}{line}\n")
    assert message in str(caught.value)


def test_a_mediated_pmu_leaves_the_host_no_choice() -> None:
    text = TEXT.replace("page = true", 'page = false\nvpmu = "mediated"')
    assert load(text).vpmu == "mediated"
    with pytest.raises(UsageError, match='vpmu = "mediated" needs rearm = "all"'):
        load(text + 'rearm = "changed"\n')


def test_a_file_is_a_design_that_knows_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    assert design_named(str(path)).origin == str(path)
    assert design_named("page").origin == ""


def test_all_stands_for_every_shipped_design_once() -> None:
    assert [design.name for design in designs_named(["page", ALL])] == [
        "page",
        *(name for name in design_names() if name != "page"),
    ]


def test_two_designs_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.toml"
    path.write_text(TEXT.replace("mine", "page"))
    with pytest.raises(UsageError, match=r"two designs are called 'page': a shipped one and .*"):
        designs_named(["page", str(path)])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("[routes.stopped]", "routes.stopped: unknown state; known: running, frozen, pmi"),
        (
            '[routes.pmi]\nEVNTSEL = "page"',
            "routes.pmi.EVNTSEL: unknown register; known: all, PERF",
        ),
        (
            '[routes.pmi]\nEVTSEL = "trap"',
            "line 6: field routes.pmi.EVTSEL: routes.pmi.EVTSEL: 'trap', exp",
        ),
        ('commit = "natural"', "natural_exit_us must be above 0"),
        ("natural_exit_us = 5", "natural_exit_us must be above 0 with commit"),
        ("reload = true", "reload needs page = true, freeze = false"),
        ('commit = "handler-end"', 'commit = "handler-end" needs freeze = true'),
        (
            'commit = "natural"\nnatural_exit_us = 5\n[routes.frozen]\nall = "exit"',
            "routes.frozen.GLOBAL_CTRL must keep writes in the page",
        ),
    ],
)
def test_routes_and_commits_that_contradict_themselves_are_refused(
    lines: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load(TEXT + lines + "\n")
    assert str(caught.value).startswith("mine.toml: line ")
    assert message in str(caught.value)


def test_a_state_without_routes_keeps_everything_in_the_page() -> None:
    guest = load(TEXT + '[routes.running]\nall = "exit"\nLVTPC = "read"\n').guest
    assert set(guest.routes_of("frozen").values()) == {"page"}
    running = guest.routes_of("running")
    assert (running["LVTPC"], running["RDPMC"]) == ("read", "exit")
