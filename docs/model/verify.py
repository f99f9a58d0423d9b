"""Check the model with spin: the list of runs, and what each must say.

``python docs/model/verify.py`` makes every run in full, ``--bounded`` those that the tests make,
with names only the runs named. Exit status 1 if a run does not say what it must.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
_ONE = "-DFREEZE=1 -DMASKS=0 -DAUTO=0 -DLATE=0 -DVMM=0"
"""One configuration: FREEZE on, delivery does not mask LVTPC."""

_FULL = ("-O2", "-DCOLLAPSE")
_BOUNDED = ("-O0", "-fno-pie", "-no-pie", "-fno-asynchronous-unwind-tables")
"""How pan is compiled: what is quick to compile for short runs."""


@dataclass(frozen=True)
class Run:
    """One search of the model built with ``macros``.

    ``violates``: the property that must fail; empty: none may. ``claim``: an LTL formula, checked
    under weak fairness. ``full``: too long for the tests.
    """

    name: str
    macros: str
    violates: str = ""
    claim: str = ""
    full: bool = False


@dataclass(frozen=True)
class Result:
    """What pan printed: ``violated`` is the property that failed, if any; memory in MiB."""

    violated: str
    complete: bool
    states: int
    transitions: int
    depth: int
    mib: float
    seconds: float
    output: str


RUNS = (
    Run("guest-and-host", "-DOPS=9 -DVMM=0"),
    Run("handler-without-global-ctrl", "-DOPS=9 -DVMM=0 -DHANDLER=0 -DLATE=0"),
    Run("life", "-DLIFE -DOPS=0 -DLATE=0"),
    Run("hostile", f"-DHOSTILE -DOPS=1 -DNMIS=0 {_ONE}"),
    Run("pmi-progress", f"-DPROGRESS -DOPS=9 {_ONE}", claim="pmi_is_delivered"),
    Run("access-progress", f"-DPROGRESS -DOPS=1 {_ONE}", claim="accesses_finish"),
    Run("every-access", "-DOPS=31 -DFREEZE=1 -DMASKS=0 -DAUTO=0 -DLATE=0", full=True),
    Run("every-access-no-freeze", "-DOPS=15 -DFREEZE=0 -DMASKS=0 -DAUTO=0", full=True),
    Run("every-access-masking", "-DOPS=15 -DMASKS=1 -DAUTO=0 -DLATE=0", full=True),
    Run("every-access-auto", "-DOPS=15 -DMASKS=1 -DAUTO=1 -DLATE=0", full=True),
    Run("late-overflows", "-DOPS=15 -DFREEZE=1 -DMASKS=0 -DAUTO=0 -DLATE=1", full=True),
    Run("two-disturbances", "-DOPS=9 -DNMIS=2 -DLATE=0", full=True),
    Run("three-values", "-DOPS=17 -DMOD=3 -DLATE=0", full=True),
    Run("life-with-accesses", "-DLIFE -DOPS=13 -DLATE=0 -DAUTO=0", full=True),
    Run("reader", f"-DREADER=1 -DOPS=1 -DNMIS=0 {_ONE}", full=True),
    Run("dirty-bitmap", f"-DBROKEN_DIRTY_BITMAP -DOPS=25 {_ONE}", "no_lost_write"),
    Run("shared-status", f"-DBROKEN_SHARED_STATUS -DOPS=29 {_ONE}", "no_doubled_overflow"),
    Run("plain-ack", f"-DBROKEN_PLAIN_ACK -DOPS=13 {_ONE}", "no_doubled_overflow"),
    Run("re-raise", f"-DBROKEN_RERAISE -DOPS=9 {_ONE}", "no_doubled_pmi"),
    Run("no-import", f"-DBROKEN_NO_IMPORT -DOPS=3 {_ONE}", "no_lost_write"),
    Run(
        "double-fetch",
        f"-DBROKEN_DOUBLE_FETCH -DHOSTILE -DOPS=1 -DNMIS=0 {_ONE}",
        "commit_is_whole",
    ),
    Run(
        "commit-only-global-ctrl",
        f"-DBROKEN_COMMIT_ONLY_GLOBAL_CTRL -DOPS=1 {_ONE}",
        "enabled_counts",
    ),
    Run(
        "no-generation",
        f"-DBROKEN_NO_GENERATION -DREADER=2 -DOPS=1 -DNMIS=0 {_ONE}",
        "no_torn_snapshot",
    ),
    Run("uncounted-ack", f"-DBROKEN_UNCOUNTED_ACK -DOPS=13 {_ONE}", "no_stale_status"),
    Run("plain-release", f"-DBROKEN_PLAIN_RELEASE -DOPS=9 -DNMIS=2 {_ONE}", "transition_in_table"),
    Run("keep-ready-word", f"-DBROKEN_KEEP_READY -DLIFE -DOPS=0 {_ONE}", "both_sides_agree"),
    Run(
        "host-write-without-count",
        "-DBROKEN_NO_BUMP -DLIFE -DOPS=4 -DFREEZE=1 -DMASKS=0 -DAUTO=0",
        "no_stale_status",
    ),
    Run("status-read-once", f"-DBROKEN_STATUS_READ_ONCE -DOPS=13 {_ONE}", "no_stale_status"),
    Run(
        "auto-by-compare",
        "-DBROKEN_AUTO_BY_COMPARE -DOPS=9 -DFREEZE=1 -DMASKS=1 -DAUTO=1 -DLATE=0 -DVMM=0",
        "auto_clears_only_its_mask",
    ),
    Run("mixed-handlers", f"-DHANDLER=2 -DOPS=1 {_ONE}", "no_lost_write"),
    Run(
        "pmi-era-freeze",
        "-DBROKEN_FREEZE_NEEDS_UNMASKED -DOPS=1 -DFREEZE=1 -DMASKS=1 -DAUTO=0 -DLATE=0 -DVMM=0",
        "freezes_when_negotiated",
    ),
)


def missing() -> str:
    """Why nothing can be run, empty if it can."""
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return ""


def search(run: Run, scratch: Path, *, timeout: float | None = None) -> Result:
    """Make, compile and run the verifier of ``run`` in the empty folder ``scratch``.

    Full runs are compiled with -O2, which takes longer than a bounded run does, and have a larger
    stack; their states are compressed. Raises :class:`subprocess.CalledProcessError` when spin or
    the compiler fails.
    """
    fair = ["-DNFAIR=3"] if run.claim else ["-DSAFETY", "-DNOCLAIM"]
    how, sizes = (_FULL, ["-m4000000"]) if run.full else (_BOUNDED, ["-m400000", "-w22"])
    _call(["spin", "-a", *run.macros.split(), str(HERE / "pvpage.pml")], scratch)
    _call(["gcc", *how, "-w", "-DMEMLIM=6000", *fair, "-o", "pan", "pan.c"], scratch)
    claim = ["-a", "-f", "-N", run.claim] if run.claim else []
    started = time.monotonic()
    done = subprocess.run(
        ["./pan", *sizes, *claim],
        cwd=scratch,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return _read(done.stdout, time.monotonic() - started)


def as_expected(run: Run, result: Result) -> str:
    """What is wrong with ``result``, empty if nothing is."""
    if result.violated != run.violates:
        return (
            f"{run.name}: violates {result.violated or 'nothing'}, "
            f"expected {run.violates or 'nothing'}"
        )
    if not run.violates and not result.complete:
        return f"{run.name}: the search is not complete"
    return ""


def _call(command: list[str], scratch: Path) -> None:
    subprocess.run(command, cwd=scratch, capture_output=True, check=True)


def _read(output: str, seconds: float) -> Result:
    def number(pattern: str) -> float:
        found = re.search(pattern, output)
        return float(found[1]) if found else 0.0

    failed = re.search(r"assertion violated \((\w+)\|\|", output)
    violated = failed[1] if failed else ""
    if "pan:1: invalid end state" in output:
        violated = "no_deadlock"
    elif "pan:1: acceptance cycle" in output:
        violated = "progress"
    return Result(
        violated,
        "errors: 0" in output
        and "max search depth too small" not in output
        and "Search not completed" not in output,
        int(number(r"(\d+) states, stored")),
        int(number(r"(\d+) transitions")),
        int(number(r"depth reached (\d+)")),
        number(r"([\d.]+)\s+total actual memory usage"),
        seconds,
        output,
    )


def main() -> int:
    """Run, print one table row each, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bounded", action="store_true", help="only what the tests run")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these runs")
    options = parser.parse_args()
    if reason := missing():
        print(f"error: {reason}", file=sys.stderr)
        return 1
    wrong = []
    print("| run | violates | states | transitions | depth | MiB | seconds |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for run in RUNS:
        if (options.names and run.name not in options.names) or (options.bounded and run.full):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            result = search(run, Path(scratch))
        print(
            f"| {run.name} | {result.violated or 'nothing'} | {result.states:,} | "
            f"{result.transitions:,} | {result.depth:,} | {result.mib:.0f} | "
            f"{result.seconds:.1f} |",
            flush=True,
        )
        if problem := as_expected(run, result):
            wrong.append(problem)
    for problem in wrong:
        print(f"error: {problem}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
