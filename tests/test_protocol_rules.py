"""The rules of docs/protocol.md and what cites them: neither may name what the other has not.

A test cites rules with ``@pytest.mark.rule("FRZ-3", ...)``, a conformance vector with its
``rules``.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from pvpmu.abi.words import PAGE_RULES
from pvpmu.conformance.guests.cases import CASES

ROOT = Path(__file__).parents[1]
SPEC = (ROOT / "docs" / "protocol.md").read_text("utf-8")
VECTORS = ROOT / "pvpmu" / "conformance" / "vectors"
RULE = r"[A-Z]{3}-\d+|PG-\d+"


def defined() -> list[str]:
    """Rule numbers where the specification states them: bold, at the start of an item or row."""
    return re.findall(rf"^(?:- |\| )\*\*({RULE})\*\*", SPEC, re.MULTILINE)


def _marks(file: Path) -> list[str]:
    """What the ``pytest.mark.rule`` calls of a file name."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"), str(file))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.rule":
            found += [ast.literal_eval(argument) for argument in node.args]
    return found


def _rules(file: Path) -> list[str]:
    """The rules that the vectors of a file cite."""
    content = json.loads(file.read_text("utf-8"))
    return [rule for vector in content["vectors"] for rule in vector.get("rules", [])]


@cache
def cited() -> dict[str, list[str]]:
    """Rule number to the files that cite it."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for rule in _marks(file):
            found.setdefault(rule, []).append(file.name)
    for file in sorted(VECTORS.glob("[A-Z]*.json")):
        for rule in _rules(file):
            found.setdefault(rule, []).append(file.name)
    return found


def test_every_rule_is_stated_once() -> None:
    assert len(defined()) > 150
    assert [rule for rule, times in Counter(defined()).items() if times > 1] == []


def test_every_bold_rule_number_is_a_statement() -> None:
    assert sorted(re.findall(rf"\*\*({RULE})\*\*", SPEC)) == sorted(defined())


def test_the_specification_refers_to_rules_that_exist() -> None:
    assert set(re.findall(rf"\b({RULE})\b", SPEC)) == set(defined())


def test_the_table_of_the_page_refers_to_rules_that_exist() -> None:
    named = {rule for words in PAGE_RULES.values() for rule in re.findall(RULE, str(words))}
    assert named <= set(defined())
    assert {rule for rule in defined() if rule.startswith("FRE-")} <= named


def test_what_is_cited_exists() -> None:
    unknown = {rule: files for rule, files in cited().items() if rule not in defined()}
    assert unknown == {}


def test_the_cases_of_the_guest_role_are_named_after_rules_that_exist() -> None:
    assert {case.id.partition("/")[0] for case in CASES} <= set(defined())


def test_every_rule_is_cited() -> None:
    assert [rule for rule in defined() if rule not in cited()] == []


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", SPEC))))
def test_what_the_specification_links_to_exists(link: str) -> None:
    assert (ROOT / "docs" / link).resolve().is_file()
