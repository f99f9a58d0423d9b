"""What a run of cases leaves: the reports asked for, the console, the exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pvpmu.shared.errors import UsageError
from pvpmu.shared.process import writable, writing

if TYPE_CHECKING:
    from pvpmu.conformance.verdict import RunResult


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :class:`Output` reads."""
    add = parser.add_argument
    add("--strict", action="store_true", help="a SHOULD or MAY that fails is a fail")
    add("--skips", action="store_true", help="print every skipped case")
    add("--expect", metavar="FILE", help="a JSON result: only deviations from it fail")
    add("--json", metavar="FILE|-", help="write the result as JSON")
    add("--junit", metavar="FILE|-", help="write it as JUnit XML")
    add("--tap", metavar="FILE|-", help="write it as TAP 14")
    add("--html", metavar="FILE|-", help="write it as one HTML page")


class Output:
    """``args``: of :func:`add_options`, with ``id``; ``path``: the run's.

    Raises :class:`UsageError` before the run for what cannot be read or written.
    """

    def __init__(self, args: argparse.Namespace, *, path: str) -> None:
        # Reports take longer to load than list and explain take to run.
        from pvpmu.conformance import matrix, reports  # noqa: PLC0415
        from pvpmu.conformance.verdict import load_result  # noqa: PLC0415

        self._makers: dict[str, Callable[[RunResult], str]] = {
            "json": reports.as_json,
            "junit": reports.as_junit,
            "tap": reports.as_tap,
            "html": matrix.as_html,
        }
        self._whole = not args.id
        self._skips: bool = args.skips
        self._baseline = load_result(Path(args.expect)) if args.expect else None
        if self._baseline is not None and self._baseline.path != path:
            raise UsageError(
                f"{args.expect}: was run with --path {self._baseline.path}, not {path}"
            )
        self._asked = {name: getattr(args, name) for name in self._makers if getattr(args, name)}
        if list(self._asked.values()).count("-") > 1:
            raise UsageError("only one report can go to standard output")
        for name in self._asked.values():
            if name != "-":
                writable(Path(name))

    def give(self, result: RunResult) -> int:
        """Write and print; returns the exit status."""
        for kind, name in self._asked.items():
            text = self._makers[kind](result)
            if name == "-":
                sys.stdout.write(text)
            else:
                with writing(name):
                    Path(name).write_text(text, "utf-8")
        if "-" not in self._asked.values():
            from pvpmu.conformance.console import show  # noqa: PLC0415 (rich)

            show(result, skips=self._skips)
        return self._status(result)

    def _status(self, result: RunResult) -> int:
        """Where every case was asked for, a case of the baseline may not be missing."""
        from pvpmu.conformance.verdict import deviations  # noqa: PLC0415

        if self._baseline is None:
            return 1 if result.failed else 0
        ran = {case.id for case in result.results}
        expected = [case for case in self._baseline.results if self._whole or case.id in ran]
        found = deviations(expected, result.results)
        for line in found:
            print(f"deviates: {line}", file=sys.stderr)
        return 1 if found else 0
