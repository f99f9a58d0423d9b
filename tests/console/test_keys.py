"""kvm_stat's keys: what each does to the view."""

from __future__ import annotations

import pytest

from pvpmu.console.keys import (
    BACKSPACE,
    ENTER,
    ESCAPE,
    SORTS,
    View,
    interval_problem,
    press,
)

VIEW = View(0.5)


def typed(text: str, view: View = VIEW, *, vcpus: int = 4) -> View:
    for key in text:
        view = press(view, ENTER if key == "\n" else key, vcpus).view
    return view


def test_q_quits_and_r_resets() -> None:
    assert press(VIEW, "q", 4).quit
    assert press(VIEW, "r", 4).reset
    assert not press(VIEW, "x", 4).quit
    assert press(VIEW, "x", 4).view == VIEW


def test_h_and_space_are_there_and_back() -> None:
    assert typed("h").help
    assert typed("hh") == VIEW
    assert not press(typed("h"), ESCAPE, 4).view.help
    assert typed(" ").paused
    assert typed("  ") == VIEW


def test_o_goes_round_the_orders() -> None:
    seen = [typed("o" * times).sort for times in range(len(SORTS) + 1)]
    assert seen == [*SORTS, SORTS[0]]


def test_s_asks_for_the_interval() -> None:
    assert typed("s").prompt is not None
    assert typed("s2.5\n").interval_s == 2.5
    assert typed("s\n") == VIEW


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ("0", "interval 0 s, expected 0.1 to 3600 s"),
        ("-1", "interval -1 s, expected 0.1 to 3600 s"),
        ("nan", "interval nan s, expected 0.1 to 3600 s"),
        ("x", "'x' is no number of seconds"),
    ],
)
def test_an_interval_that_cannot_be_is_refused_in_words(answer: str, note: str) -> None:
    view = typed(f"s{answer}\n")
    assert view.note == note
    assert view.interval_s == 0.5
    assert view.prompt is None
    # The next key takes it away.
    assert typed("x", view).note == ""


def test_f_asks_for_a_regular_expression() -> None:
    assert typed("fGLOBAL|PMC\n").pattern == "GLOBAL|PMC"
    assert typed("f\n", typed("fGLOBAL\n")).pattern == ""
    broken = typed("f(\n", typed("fGLOBAL\n"))
    assert "'(' is no regular expression" in broken.note
    assert broken.pattern == "GLOBAL"


def test_p_chooses_a_vcpu_that_exists() -> None:
    assert typed("p3\n").vcpu == 3
    assert typed("p\n", typed("p3\n")).vcpu is None
    for answer in ("4", "-1", "x", "²"):
        assert typed(f"p{answer}\n").note == f"vCPU {answer!r}, expected 0 to 3"


def test_a_question_takes_letters_that_are_keys_elsewhere() -> None:
    view = typed("fqhr")
    assert view.prompt is not None
    assert view.prompt.line.endswith(": qhr")
    assert press(view, "q", 4).quit is False
    view = press(view, BACKSPACE, 4).view
    assert typed("\n", view).pattern == "qh"


def test_escape_leaves_a_question_and_nothing_changes() -> None:
    assert press(typed("s9"), ESCAPE, 4).view == VIEW


def test_intervals_that_can_be_have_no_problem() -> None:
    assert [interval_problem(seconds) for seconds in (0.1, 1, 3600)] == [""] * 3
    assert interval_problem(0.09)
