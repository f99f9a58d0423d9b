"""The import rules, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Collection
from functools import cache
from pathlib import Path

import pytest

import pvpmu

PACKAGE = Path(pvpmu.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
PURE = (
    "guest/pmu.py", "guest/perf.py", "guest/perf_event.py", "guest/perf_context.py",
    "guest/msr.py", "guest/pvpage.py", "guest/workload.py", "guest/accuracy.py", "guest/timers.py",
    "guest/meter.py", "guest/rate_limit.py", "guest/passing.py",
    "host/hardware.py", "host/perf.py", "host/hostevents.py", "host/pmc.py", "host/counters.py",
    "host/filter.py", "host/vpmu.py", "host/pmi.py", "host/mediated.py",
    "host/pvpage.py", "host/pvwords.py", "host/registrar.py", "host/vmm.py", "host/migrate.py",
    "host/stats.py", "host/vcpu.py", "host/traced.py", "guest/traced.py", "recording/format.py",
    "recording/ring.py", "recording/tracer.py",
    "recording/names.py", "recording/kvm.py", "recording/samples.py", "recording/text.py",
    "recording/tracefmt.py", "recording/perfdata.py", "recording/chrome.py", "recording/jsonl.py",
    "recording/elf.py", "host/liveview.py", "guest/liveview.py",
    "shared/liveview.py", "shared/clock.py",
    "trace/names.py", "trace/counts.py", "trace/tables.py", "trace/tokens.py",
    "trace/operations.py", "trace/tracker.py", "trace/eventtext.py", "trace/events.py",
    "trace/reading.py",
    "trace/fit.py", "trace/player.py", "trace/analysis.py", "trace/document.py",
    "shared/costs.py", "cost/file.py", "cost/fit.py", "cost/model.py", "cost/sensitivity.py",
    "cost/calibrate.py", "cost/prediction.py",
    "sweep/parameters.py", "sweep/shape.py", "sweep/grid.py", "sweep/row.py",
    "console/snapshot.py", "console/model.py", "console/units.py", "console/chart.py",
    "console/grid.py", "console/keys.py", "console/tables.py", "console/screen.py",
    "console/document.py", "console/lines.py",
    "report/page.py", "report/html.py", "report/markdown.py", "report/statistics.py",
    "report/factorial.py", "report/plan.py", "report/choices.py", "report/content.py",
)  # fmt: skip
EXTRAS = {
    "distributed": {"sweep/engine.py"},
    "hdrh": {"console/export.py"},
    "matplotlib": {"trace/plot.py", "report/plots.py", "report/write.py"},
    "zstandard": {"trace/unpack.py"},
}
"""Libraries that extras install, and who uses them."""
DRAWS = ("report/plots.py",)
"""Loaded only when something is drawn, so that it may load its library at once."""
RECORDS = ("format", "ring", "tracer", "file", "options", "handed")
"""Modules that a host or guest needs to record; the others read recordings."""
PRINTS = {"trace/table.py", "conformance/console.py"}
BOTH_SIDES = {
    f"conformance/{name}.py"
    for name in (
        "guests/broken", "guests/faults", "guests/host", "guests/vcpu", "hostcalls", "inline",
        "machine", "realvm", "mutants_guest", "mutants_host", "mutants_kvm", "process", "window",
    )
}  # fmt: skip
WORLD = {"os", "time", "socket", "multiprocessing", "posix_ipc", "threading", "concurrent"}


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text("utf-8"), filename=file)


@cache
def _imports(file: str, without: Collection[int] = frozenset()) -> set[str]:
    """Every module that the file names in an import, absolute; ``from a import b`` gives both."""
    parts = ["pvpmu", *file.removesuffix(".py").split("/")]
    found: set[str] = set()
    for node in ast.walk(_tree(file)):
        if id(node) in without:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


@cache
def _imports_at_the_top(file: str) -> set[str]:
    """What importing the file imports: not what its functions do."""
    inside = frozenset(
        id(node)
        for function in ast.walk(_tree(file))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    )
    return _imports(file, without=inside)


def _inside(names: set[str], *packages: str) -> set[str]:
    return {
        name
        for name in names
        if any(name == package or name.startswith(package + ".") for package in packages)
    }


def _under(folder: str) -> list[str]:
    return [file for file in FILES if file.startswith(folder)]


def test_the_package_is_where_these_rules_look() -> None:
    assert {"guest", "host", "shared"} <= {file.split("/")[0] for file in FILES}
    assert set(PURE) <= set(FILES)
    assert "pvpmu.guest.msr" in _imports("guest/pmu.py")


@pytest.mark.parametrize("file", _under("guest/"))
def test_the_guest_never_imports_the_host(file: str) -> None:
    users = ("pvpmu.conformance", "pvpmu.cost", "pvpmu.trace", "pvpmu.vm")
    assert not _inside(_imports(file), "pvpmu.host", *users)


@pytest.mark.parametrize("file", _under("host/"))
def test_the_host_never_imports_the_guest(file: str) -> None:
    users = ("pvpmu.conformance", "pvpmu.cost", "pvpmu.trace")
    assert not _inside(_imports(file), "pvpmu.guest", *users)


@pytest.mark.parametrize("file", _under("shared/"))
def test_what_both_share_imports_neither_side_nor_bench_nor_kit(file: str) -> None:
    users = ("host", "guest", "bench", "conformance", "cost", "sweep", "trace", "report")
    users = (*users, "recording", "vm", "console")
    assert not _inside(_imports(file), *(f"pvpmu.{user}" for user in users))


@pytest.mark.parametrize("file", [f"recording/{name}.py" for name in RECORDS])
def test_what_records_knows_neither_side_nor_what_reads_recordings(file: str) -> None:
    others = _inside(_imports(file), "pvpmu") - _inside(_imports(file), "pvpmu.shared")
    recording = {f"pvpmu.recording.{name}" for name in RECORDS}
    assert all(_inside({name}, *recording) for name in others - {"pvpmu", "pvpmu.__version__"})


@pytest.mark.parametrize("file", _under("vm/"))
def test_the_vm_has_a_guest_of_its_own(file: str) -> None:
    assert not _inside(_imports(file), "pvpmu.guest", "pvpmu.conformance", "pvpmu.bench")


@pytest.mark.parametrize("file", sorted(set(_under("conformance/")) - BOTH_SIDES))
def test_only_targets_of_this_project_know_the_implementation(file: str) -> None:
    assert not _inside(_imports(file), "pvpmu.host", "pvpmu.guest")


@pytest.mark.parametrize("file", [*_under("host/"), *_under("guest/")])
def test_a_side_that_records_reads_no_recordings(file: str) -> None:
    allowed = [f"pvpmu.recording.{name}" for name in RECORDS]
    used = _inside(_imports(file), "pvpmu.recording")
    assert used == _inside(used, *allowed)


@pytest.mark.parametrize("file", FILES)
def test_only_what_prints_may_import_rich(file: str) -> None:
    prints = file.startswith(("bench/", "console/")) or file in PRINTS
    prints = prints or Path(file).name == "cli.py"
    if not prints:
        assert not _inside(_imports(file), "rich")


@pytest.mark.parametrize("file", FILES)
def test_what_an_extra_installs_is_imported_by_one_file_when_it_is_needed(file: str) -> None:
    if file not in DRAWS:
        assert not _inside(_imports_at_the_top(file), *EXTRAS)
    for library, users in EXTRAS.items():
        assert bool(_inside(_imports(file), library)) == (file in users)


@pytest.mark.parametrize("file", PURE)
def test_the_model_touches_no_clock_process_or_socket(file: str) -> None:
    assert not _inside(_imports(file), *WORLD)


def _calls(file: str) -> set[str]:
    """Names of functions and methods that are called."""
    calls = [node.func for node in ast.walk(_tree(file)) if isinstance(node, ast.Call)]
    names = {func.id for func in calls if isinstance(func, ast.Name)}
    return names | {func.attr for func in calls if isinstance(func, ast.Attribute)}


@pytest.mark.parametrize("file", FILES)
def test_only_the_starts_of_workers_and_commands_import_by_a_computed_name(file: str) -> None:
    computed = _calls(file) & {"import_module", "__import__"}
    assert computed == ({"import_module"} if file in ("shared/workers.py", "cli.py") else set())


@pytest.mark.parametrize(("folder", "other"), [("guest/", "pvpmu.host"), ("host/", "pvpmu.guest")])
def test_no_side_starts_a_worker_of_the_other(folder: str, other: str) -> None:
    for file in _under(folder):
        texts = [
            node.value
            for node in ast.walk(_tree(file))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [text for text in texts if text.startswith(other)]


def _identifiers(file: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(_tree(file)):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                found.add(name)
            case ast.Attribute(attr=name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found |= {name, other or ""}
            case ast.ImportFrom(module=str(name)):
                found.add(name)
            case _:
                pass
    return found


@pytest.mark.parametrize(
    "file", ["guest/pmu.py", "guest/perf.py", "guest/perf_event.py", "guest/perf_context.py"]
)
def test_the_driver_knows_nothing_of_a_page(file: str) -> None:
    identifiers = _identifiers(file)
    assert len(identifiers) > 50
    suspicious = [
        name
        for name in identifiers
        if any(word in name.lower() for word in ("paravirt", "page", "seam", "design"))
    ]
    assert suspicious == []
