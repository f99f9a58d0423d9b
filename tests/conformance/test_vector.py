"""Vector files: the shipped ones are whole, and every mistake names file, vector and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pvpmu.conformance.catalogue import load_catalogue
from pvpmu.conformance.features import FEATURES
from pvpmu.conformance.vector import Vector, load_vectors, parse_vectors, schema
from pvpmu.shared.errors import UsageError

FOLDER = Path(str(resources.files("pvpmu.conformance") / "vectors"))
FILES = sorted(path for path in FOLDER.glob("*.json") if path.name != "schema.json")
ROOT = Path(__file__).parents[2]


def test_the_published_schema_is_that_of_the_types() -> None:
    same = (FOLDER / "schema.json").read_bytes() == schema()
    assert same, "run: pvpmu conform schema > pvpmu/conformance/vectors/schema.json"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_file_validates(path: Path) -> None:
    checker = jsonschema.Draft202012Validator(json.loads(schema()))
    data = json.loads(path.read_text("utf-8"))
    assert [error.message for error in checker.iter_errors(data)] == []
    assert data["area"] == path.stem


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    checker = jsonschema.Draft202012Validator(json.loads(schema()))
    data = json.loads((FOLDER / "SMP.json").read_text("utf-8"))
    data["vectors"][0]["ops"][0]["valeu"] = 1
    assert list(checker.iter_errors(data))


def test_the_catalogue_is_covered_exactly(vectors: list[Vector]) -> None:
    catalogue = load_catalogue()
    assert len(catalogue.ids) == len(set(catalogue.ids)) == 166
    ours = {vector.case for vector in vectors if vector.area in catalogue.own_areas}
    done = {vector.case for vector in vectors} - ours
    random = {each.id for each in catalogue.properties}
    out = {each.id for each in catalogue.out_of_scope}
    assert done | random | out == set(catalogue.ids)
    assert not done & out
    assert not random & out
    assert not done & random
    assert not ours & set(catalogue.ids)


def test_vectors_are_in_order_of_their_ids_areas_apart(vectors: list[Vector]) -> None:
    cases = [vector.case for vector in vectors]
    assert cases == sorted(cases)


def test_every_feature_is_asked_for_by_some_vector(vectors: list[Vector]) -> None:
    asked = {name for vector in vectors for path in vector.runs_on() for name in vector.needs(path)}
    assert asked == set(FEATURES)


def _file(**changes: Any) -> dict[str, Any]:
    vector = {
        "id": "MSR-01",
        "title": "t",
        "clause": "c",
        "ops": [{"op": "wr", "msr": "0x38F", "value": 0}],
    }
    return {"area": "MSR", "title": "x", "vectors": [vector | changes]}


def _refused(data: object) -> str:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(UsageError) as caught:
        parse_vectors(text, "mine.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ops": []}, "vectors[0].ops (MSR-01)"),
        ({"ops": [{"op": "wr", "msr": 1}]}, "missing required field `value`"),
        ({"ops": [{"op": "wrr", "msr": 1}]}, "Invalid value 'wrr'"),
        ({"ops": [{"op": "mark", "x": 1}]}, "unknown field `x`"),
        ({"level": "must"}, "vectors[0].level (MSR-01)"),
        ({"colour": 1}, "unknown field `colour`"),
        ({"id": "msr-1"}, "vectors[0].id"),
        ({"id": "OVF-01"}, "field id: is not of area MSR"),
        ({"requires": ["wings"]}, "unknown feature wings"),
        ({"config": {"page": False}, "paths": ["page"]}, "leaves no path"),
        ({"config": {"vcpus": 9}}, "vectors[0].config.vcpus (MSR-01)"),
        (
            {"ops": [{"op": "rd", "msr": "0x38E", "expect": "1 +"}]},
            "field ops[0] (rd expect): '1 +' is no expression",
        ),
        (
            {"ops": [{"op": "repeat", "times": 2, "do": [{"op": "check", "that": ["f(x)"]}]}]},
            "field ops[0] (check that)",
        ),
        (
            {"ops": [{"op": "rd", "msr": "STATSU"}]},
            "field ops[0] (rd msr): 'STATSU': unknown name 'STATSU'",
        ),
        (
            {"ops": [{"op": "rd", "msr": "pmc + 1"}]},
            "unknown name 'pmc'",
        ),
        (
            {"ops": [{"op": "filter", "action": "deny", "events": [{"event": "X"}]}]},
            "field ops[0] (filter events): 'X': unknown name 'X'",
        ),
        (
            {"ops": [{"op": "rd", "msr": "a.b", "when": "1"}]},
            "field ops[0] (rd msr): 'a.b'",
        ),
        (
            {"ops": [{"op": "rd", "msr": 1, "expect": {"in": ["1", "2**3"]}}]},
            "field ops[0] (rd expect)",
        ),
    ],
)
def test_a_mistake_names_file_vector_and_field(changes: dict[str, Any], said: str) -> None:
    message = _refused(_file(**changes))
    assert message.startswith("mine.json: ")
    assert said in message


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"area": "MSR"}'])
def test_what_is_no_vector_file_is_refused_in_one_line(text: bytes) -> None:
    assert _refused(text).startswith("mine.json: ")


def test_vectors_from_outside_come_on_top(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(_file(id="MSR-99")))
    assert [vector.id for vector in load_vectors([tmp_path])][-1] == "MSR-99"


def test_a_vector_that_exists_already_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(_file()))
    with pytest.raises(UsageError, match="vector MSR-01 exists already"):
        load_vectors([tmp_path])


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        load_vectors([tmp_path / "gone"])


def test_kvm_like_means_both_kvm_profiles(new_vector: Callable[..., Vector]) -> None:
    mark = {"op": "mark"}
    assert new_vector(mark, profile=["kvm-like"]).profiles == ("kvm-5.14", "kvm-6.12")
    assert new_vector(mark).profiles == ("kvm-5.14", "kvm-6.12", "strict-sdm")


def test_needs_follow_from_operations_configuration_and_path(
    new_vector: Callable[..., Vector],
) -> None:
    made = new_vector(
        {"op": "repeat", "times": 1, "do": [{"op": "exits", "on": ["page"], "expect": 0}]},
        {"op": "rdpmc", "index": 0, "cpl": 3},
        paths=["trap", "page", "page+freeze"],
        config={"gp": 2},
        requires=["save"],
    )
    assert made.needs("trap") == {"cpuid", "save", "privilege"}
    assert made.needs("page") == {"cpuid", "save", "privilege", "page", "exits"}
    assert made.needs("page+freeze") == {"cpuid", "save", "privilege", "page", "freeze"}


def test_the_tests_of_properties_are_named(vectors: list[Vector]) -> None:
    for each in load_catalogue().properties:
        assert each.test.startswith("tests/conformance/test_")
