"""Cost model files: what they may say, and one line for whatever they may not."""

from __future__ import annotations

import pytest

from pvpmu.cost.file import ALLOWED, CostFile, Range, load_cost_file
from pvpmu.shared.errors import UsageError

PLAIN = """\
name = "mine"
summary = "a server"
source = "me"

[costs]
exit_ns = 1200
call_ns = 900.5
redundant_call_ns = 400
guest_ns = { value = 2000, low = 1500, high = 2500, source = "a guess" }
"""
FITTED = """\
name = "mine"
summary = "a server"
source = "me"

[costs]
exit_ns = { value = 1000, low = 500, high = 1500 }
call_ns = "fitted"
redundant_call_ns = "call_ns"
guest_ns = 100

[[measurements]]
what = "one handler"
handler_ns = 10_000
handlers = 10
exits = 40
live_calls = 50
redundant_calls = 10
locks = 60
placements = 0
"""


def load(text: str) -> CostFile:
    return load_cost_file(text, "mine.toml")


def failure(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_plain_file_gives_its_costs() -> None:
    file = load(PLAIN)
    assert file.costs.guest_ns == Range(value=2000, low=1500, high=2500, source="a guess")
    costs = file.at()
    assert (costs.exit_ns, costs.call_ns, costs.redundant_call_ns) == (1200, 900.5, 400)
    assert (costs.guest_ns, costs.lock_ns, costs.placement_ns) == (2000, 0, 0)
    assert [corner.guest_ns for corner in file.corners] == [1500, 2500]


def test_fitted_costs_follow_the_assumed_ones() -> None:
    file = load(FITTED)
    # 10,000 ns a handler = 4 exits + 6 calls (one of them redundant) + 100 ns
    assert file.at().call_ns == pytest.approx((10_000 - 4 * 1000 - 100) / 6)
    assert file.at().redundant_call_ns == file.at().call_ns
    assert file.at({"exit_ns": 500}).call_ns == pytest.approx((10_000 - 4 * 500 - 100) / 6)
    assert [corner.exit_ns for corner in file.corners] == [500, 1500]


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("exit_ns = 1200\n", "", "line 5: field costs: Object missing required field `exit_ns`"),
        ("1200", "-1", "line 6: field costs.exit_ns: exit_ns -1 ns is outside 0..1000000000 ns"),
        ("1200", "nan", "line 6: field costs.exit_ns: exit_ns nan ns is outside"),
        ("1200", "inf", "line 6: field costs.exit_ns: exit_ns inf ns is outside"),
        ("1200", "true", "line 6: field costs.exit_ns: Expected"),
        ("1200", '"much"', "line 6: field costs.exit_ns: exit_ns 'much' is not 'fitted'"),
        ("1200", '"exit_ns"', "line 6: field costs.exit_ns: exit_ns 'exit_ns' is not"),
        ("1200", "{ value = 1 }", "line 6: field costs.exit_ns: Object missing required field"),
        ("low = 1500", "low = -5", "line 9: field costs.guest_ns.low: low -5 ns is outside 0.."),
        (
            "low = 1500",
            "low = 2200",
            "line 9: field costs.guest_ns.value: value 2000 ns is outside",
        ),
        ("exit_ns", "exits_ns", "line 6: field costs.exits_ns: unknown field"),
    ],
)
def test_a_wrong_cost_names_file_line_and_field_and_says_what_is_allowed(
    old: str, new: str, where: str
) -> None:
    message = failure(PLAIN.replace(old, new, 1))
    assert message.startswith(f"mine.toml: {where}")
    assert message.endswith(ALLOWED)


def test_a_cost_cannot_equal_one_that_equals_another() -> None:
    text = PLAIN.replace("1200", '"call_ns"').replace("900.5", '"redundant_call_ns"')
    assert "exit_ns equals call_ns, which must not equal another" in failure(text)


def test_each_fitted_cost_needs_a_measurement() -> None:
    message = failure(PLAIN.replace("1200", '"fitted"'))
    assert "measurements has 0 entries for 1 fitted costs (exit_ns): one each" in message


def test_measurements_without_a_fitted_cost_are_refused() -> None:
    message = failure(FITTED.replace('"fitted"', "5"))
    assert "measurements has 1 entries for 0 fitted costs (none)" in message


def test_costs_that_leave_less_than_nothing_are_refused_and_told_where() -> None:
    message = failure(FITTED.replace("high = 1500", "high = 3000"))
    assert message.startswith("mine.toml: line 5: field costs: costs leave -350.0 ns for call_ns")
    assert "where exit_ns = 3000" in message


def test_measurements_that_do_not_tell_costs_apart_are_refused() -> None:
    block = FITTED[FITTED.index("[[measurements]]") :]
    text = FITTED.replace("guest_ns = 100", 'guest_ns = "fitted"') + block
    assert "measurements do not tell guest_ns from the other costs" in failure(text)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("handlers = 10", "handlers = 0", "line 14: field measurements[0].handlers: handlers 0 is"),
        ("exits = 40", "exits = -1", "line 15: field measurements[0].exits: exits -1 is outside"),
        ("locks = 60\n", "", "Object missing required field `locks`"),
        ('"mine"', '""', "line 1: field name: name must be printable text, not empty"),
    ],
)
def test_other_mistakes_name_their_field(old: str, new: str, says: str) -> None:
    assert says in failure(FITTED.replace(old, new, 1))
