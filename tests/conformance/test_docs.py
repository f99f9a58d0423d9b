"""docs/conformance.md: whole, and its examples are what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from pvpmu.conformance.catalogue import load_catalogue
from pvpmu.conformance.features import FEATURES
from pvpmu.conformance.guests.cases import CASES
from pvpmu.conformance.names import FIXED_NAMES, Shape
from pvpmu.conformance.ops import AnyOp, tag_of
from pvpmu.conformance.runner import Runner
from pvpmu.conformance.vector import Config, Vector, parse_vectors, walk
from pvpmu.conformance.verdict import Verdict

TEXT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text("utf-8")
BLOCKS = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
LISTS = [block for block in BLOCKS if isinstance(block, list)]


def _ops() -> list[AnyOp]:
    return [op for block in LISTS for op in msgspec.convert(block, type=tuple[AnyOp, ...])]


def test_every_operation_has_an_example() -> None:
    shown = {tag_of(op) for op in walk(_ops())}
    assert shown == {kind.__struct_config__.tag for kind in get_args(AnyOp)}


@pytest.mark.parametrize("block", LISTS, ids=lambda block: block[0]["op"])
def test_every_example_can_be_read(block: list[dict[str, Any]]) -> None:
    file = {
        "area": "DOC",
        "title": "t",
        "vectors": [{"id": "DOC-01", "title": "t", "clause": "c", "ops": block}],
    }
    assert parse_vectors(json.dumps(file).encode(), "docs").vectors[0].ops


def test_the_example_file_passes(inline_runner: Any) -> None:
    (example,) = [block for block in BLOCKS if isinstance(block, dict)]
    (vector,) = parse_vectors(json.dumps(example).encode(), "docs").vectors
    runner: Runner = inline_runner()
    results = runner.run_vector(vector)
    assert [result.verdict for result in results] == [Verdict.PASS] * 3


def test_every_field_of_vector_and_configuration_is_explained() -> None:
    for name in (*Vector.__struct_fields__, *Config.__struct_fields__):
        assert f"`{name}`" in TEXT


def test_every_name_is_explained() -> None:
    shape = Shape(version=2, gp=4, fixed=3, gp_width=48, fixed_width=48, full_width=True)
    for name in FIXED_NAMES | shape.names():
        assert f"`{name}`" in TEXT


def test_features_and_scope_are_those_of_the_kit() -> None:
    for name, meaning in FEATURES.items():
        assert f"| `{name}` | {meaning} |" in TEXT
    catalogue = load_catalogue()
    for case in catalogue.out_of_scope:
        assert f"| {case.id} | {case.reason} |" in TEXT
    for each in catalogue.properties:
        assert f"| {each.id} | {each.why} |" in TEXT


def test_every_case_of_the_guest_role_is_in_a_table() -> None:
    section = TEXT.partition("## Testing a guest")[2].partition("\n## ")[0]
    rows = "".join(line for line in section.splitlines() if line.startswith("| "))
    named = set(re.findall(r"[A-Z]{2,3}-\d+", rows))
    assert {case.id.partition("/")[0] for case in CASES} == named
