"""A run as JSON, JUnit XML and TAP 14: text, made from the result alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import msgspec

from pvpmu.conformance.verdict import CaseResult, RunResult, Verdict

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")


def as_json(result: RunResult) -> str:
    """The canonical form; ``--expect`` reads it back. The same run gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"


def as_junit(result: RunResult) -> str:
    """JUnit XML: a suite per area, a case per vector and path."""
    root = ET.Element("testsuites", name=f"pvpmu conform {result.target.name}")
    for area in sorted({_area(case) for case in result.results}):
        cases = [case for case in result.results if _area(case) == area]
        suite = ET.SubElement(root, "testsuite", name=area, tests=str(len(cases)))
        suite.set("failures", str(_count(cases, Verdict.FAIL)))
        suite.set("errors", str(_count(cases, Verdict.ERROR)))
        suite.set("skipped", str(_count(cases, Verdict.SKIP)))
        for case in cases:
            suite.append(_junit_case(case))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def as_tap(result: RunResult) -> str:
    """TAP 14: a line per vector and path, with a YAML block for what is not ok."""
    lines = ["TAP version 14", f"1..{len(result.results)}"]
    for number, case in enumerate(result.results, 1):
        lines += _tap_case(number, case)
    return "\n".join(lines) + "\n"


def story(case: CaseResult) -> Iterator[tuple[str, str]]:
    """What to say of a case that is not well: (label, text), in order."""
    yield "clause", case.clause
    if case.failure is not None:
        yield "op", f"{case.failure.where}: {case.failure.op}"
        if case.failure.variables:
            yield "with", ", ".join(f"{k} = {v}" for k, v in case.failure.variables.items())
        yield "expected", case.failure.expected
        yield "actual", case.failure.actual
    if case.reason:
        yield "reason", case.reason
    if case.replay:
        yield "replay", case.replay


def _junit_case(case: CaseResult) -> ET.Element:
    element = ET.Element("testcase", classname=f"{_area(case)}.{case.path}", name=case.id)
    text = _NO_XML.sub("?", "\n".join(f"{label}: {what}" for label, what in story(case)))
    match case.verdict:
        case Verdict.SKIP:
            ET.SubElement(element, "skipped", message=case.reason)
        case Verdict.FAIL:
            ET.SubElement(element, "failure", message=case.title).text = text
        case Verdict.ERROR:
            ET.SubElement(element, "error", message=case.title).text = text
        case Verdict.NON_STRICT:
            ET.SubElement(element, "system-out").text = f"non-strict\n{text}"
        case Verdict.PASS:
            pass
    return element


def _tap_case(number: int, case: CaseResult) -> list[str]:
    ok = "not ok" if case.verdict.bad else "ok"
    line = f"{ok} {number} - {_tap(case.id)} {case.path}: {_tap(case.title)}"
    if case.verdict is Verdict.SKIP:
        return [f"{line} # SKIP {_tap(case.reason)}"]
    if case.verdict is Verdict.PASS:
        return [line]
    block = ["  ---", f"  verdict: {case.verdict.value}"]
    block += [f"  {label}: {msgspec.json.encode(text).decode()}" for label, text in story(case)]
    return [line, *block, "  ..."]


def _tap(text: str) -> str:
    """A description must not look like a directive."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("#", "\\#")


def _area(case: CaseResult) -> str:
    return case.id.split("-", 1)[0]


def _count(cases: list[CaseResult], verdict: Verdict) -> int:
    return sum(case.verdict is verdict for case in cases)
