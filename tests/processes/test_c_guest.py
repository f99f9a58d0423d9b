"""The guest in C, written from the specification, on a real host."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from .conftest import Vm, ended, one_line

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "c"
PMIS = 20
BRANCH_PERIOD, CYCLE_PERIOD = 10_007, 65_536
FREEZE, LVTPC_AUTO = 2, 4
SHARED = ("pvpmu_guest.h", "pvpmu_driver.h", "pvpmu_live.h")
"""What every C guest uses, beside the generated header."""


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest, built as its Makefile says."""
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("needs a C compiler (cc) and make")
    folder = tmp_path_factory.mktemp("c-guest")
    subprocess.run(["make", "-C", SOURCE, f"OUT={folder}"], check=True, capture_output=True)
    return folder / "pvpmu-c-guest"


def start(vm: Vm, program: Path, *args: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [program, vm.name, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    vm.started.append(process)
    return process


def running(vm: Vm, program: Path) -> subprocess.Popen[str]:
    """A guest that will not end soon, after its registration."""
    guest = start(vm, program, "1000000000")
    assert guest.stdout is not None
    assert guest.stdout.readline().startswith("page: registered")
    return guest


def counted(name: str, counts: int, samples: int) -> str:
    return f"ok: {counts} {name}, expected {counts}; {samples} samples, expected {samples}"


def expected_lines() -> list[str]:
    """What a PMU without any host would give: the program's arithmetic, one cycle at a time."""
    now = branches = cycles = pmis = instructions = 0
    digest = 0xCBF29CE484222325
    while pmis < PMIS:
        kernel = now // 1000 % 9 == 8
        now += 1
        branch = now % 5 == 0 and not kernel
        branches += branch
        instructions += now % 3 != 0
        cycles += 1
        due = [0] if branch and branches % BRANCH_PERIOD == 0 else []
        due += [33] if cycles % CYCLE_PERIOD == 0 else []
        for index in due:
            digest = (digest ^ (now << 8 | index)) * 0x100000001B3 % (1 << 64)
        pmis += bool(due)
    branch_samples, cycle_samples = branches // BRANCH_PERIOD, cycles // CYCLE_PERIOD
    return [
        counted("branches", branches, branch_samples),
        counted("cycles", cycles, cycle_samples),
        counted("instructions", instructions, 0),
        f"samples: {branch_samples + cycle_samples}, digest 0x{digest:016x}",
        f"PMIs: {PMIS}, empty 0, generations lost 0, COMMITs refused 0",
    ]


@pytest.mark.rule("BND-17", "FEA-9")
@pytest.mark.parametrize(
    ("design", "profile", "first", "per_pmi"),
    [
        ("page", "kvm-5.14", f"page: registered, status 1, features {FREEZE:#x}", "1.00"),
        (
            "page",
            "kvm-6.12",
            f"page: registered, status 1, features {FREEZE | LVTPC_AUTO:#x}",
            "1.00",
        ),
        (
            "page",
            "strict-sdm",
            f"page: registered, status 1, features {FREEZE | LVTPC_AUTO:#x}",
            "1.00",
        ),
        ("trap", "kvm-5.14", "page: none, every access exits, status 0, features 0x0", "8.00"),
        ("trap", "kvm-6.12", "page: none, every access exits, status 0, features 0x0", "8.00"),
    ],
)
def test_it_takes_the_samples_that_the_program_says_with_and_without_a_page(
    vm: Vm, program: Path, design: str, profile: str, first: str, per_pmi: str
) -> None:
    host = vm.host("--design", design, "--profile", profile)
    status, output, errors = ended(start(vm, program, str(PMIS)))
    assert (status, errors) == (0, "")
    assert output.splitlines()[0] == first
    assert output.splitlines()[1:6] == expected_lines()
    assert output.splitlines()[-1] == f"exits per PMI: {per_pmi}"
    assert re.search(rf"^exits: {PMIS} of reason 0 ", output, re.MULTILINE)
    assert ended(host)[0] == 0
    assert vm.left() == []


@pytest.mark.parametrize(("gp", "fixed", "width"), [("1", "2", "32"), ("8", "3", "40")])
def test_it_uses_the_counters_that_cpuid_names(
    vm: Vm, program: Path, gp: str, fixed: str, width: str
) -> None:
    host = vm.host("--design", "page", "--gp", gp, "--fixed", fixed, "--width", width)
    status, output, errors = ended(start(vm, program, str(PMIS)))
    assert (status, errors) == (0, "")
    assert output.splitlines()[1:6] == expected_lines()
    assert ended(host)[0] == 0


def test_a_pmu_without_the_counters_it_needs_ends_it_with_one_line(vm: Vm, program: Path) -> None:
    host = vm.host("--pmu-version", "1")
    status, _, errors = ended(start(vm, program, str(PMIS)))
    assert status == 1
    assert "a PMU of version 2" in one_line(errors)
    assert "gone without Bye" in one_line(ended(host)[2])
    assert vm.left() == []


@pytest.mark.rule("BND-11")
def test_a_killed_c_guest_ends_its_host_with_one_line(vm: Vm, program: Path) -> None:
    host = vm.host("--design", "page")
    running(vm, program).kill()
    status, _, errors = ended(host)
    assert status == 1
    one_line(errors)
    assert vm.left() == []


@pytest.mark.rule("BND-11", "END-6")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_c_guest_says_so_and_leaves_nothing(
    vm: Vm, program: Path, end: signal.Signals
) -> None:
    host = vm.host("--design", "page")
    guest = running(vm, program)
    guest.send_signal(end)
    status, _, errors = ended(guest)
    assert status == 1
    assert f"interrupted by signal {int(end)}" in one_line(errors)
    assert ended(host)[0] == 1
    assert vm.left() == []


@pytest.mark.rule("BND-4", "BND-11")
def test_a_killed_host_ends_the_c_guest_with_one_line_and_no_name_stays(
    vm: Vm, program: Path
) -> None:
    host = vm.host("--design", "page")
    guest = running(vm, program)
    host.kill()
    status, _, errors = ended(guest)
    assert status == 1
    assert "the host has gone" in one_line(errors)
    assert vm.left() == []


@pytest.mark.rule("BND-12")
def test_a_second_c_guest_of_a_name_changes_nothing(vm: Vm, program: Path) -> None:
    vm.host("--design", "page")
    first = running(vm, program)
    status, _, errors = ended(start(vm, program, str(PMIS)))
    assert status == 1
    assert "live guest" in one_line(errors)
    assert first.poll() is None


def test_no_host_ends_it_with_one_line(vm: Vm, program: Path) -> None:
    status, _, errors = ended(start(vm, program, str(PMIS), "0"))
    assert status == 1
    assert "no host" in one_line(errors)
    assert vm.left() == []


def test_the_seam_needs_no_library(program: Path, tmp_path: Path) -> None:
    source = tmp_path / "seam.c"
    source.write_text(
        '#include "pvpmu_guest.h"\n'
        "int access(struct pvpmu_guest *g, uint64_t v) {\n"
        "  pvpmu_register(g, g->page, 0);\n"
        "  return pvpmu_rdmsr(g, v, &v) + pvpmu_rdpmc(g, v, &v) + pvpmu_wrmsr(g, v, v)\n"
        "       + pvpmu_unregister(g);\n"
        "}\n"
    )
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-ffreestanding", "-nostdinc"]
    include = subprocess.run(
        ["cc", "-print-file-name=include"], check=True, capture_output=True, text=True
    ).stdout.strip()
    folders = [f"-I{ROOT / 'include'}", "-isystem", include]
    made = tmp_path / "seam.o"
    subprocess.run(["cc", *flags, *folders, "-c", source, "-o", made], check=True)
    named = subprocess.run(["nm", "-u", made], check=True, capture_output=True, text=True).stdout
    assert set(named.split()) - {"U", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"} == {"pvpmu_exit"}


def code_lines(*paths: Path) -> int:
    """Lines that are neither blank nor a comment."""
    lines = [line.strip() for path in paths for line in path.read_text("utf-8").splitlines()]
    return sum(bool(line) and not line.startswith(("/*", "*")) for line in lines)


def test_the_whole_example_has_at_most_400_lines() -> None:
    files = [*SOURCE.glob("*.[ch]"), SOURCE / "Makefile"]
    assert sum(len(path.read_text("utf-8").splitlines()) for path in files) <= 400


def test_driver_and_seam_stay_small() -> None:
    assert code_lines(*(ROOT / "include" / name for name in SHARED)) <= 500


def test_the_driver_needs_no_library_but_what_its_environment_gives(tmp_path: Path) -> None:
    source = tmp_path / "driver.c"
    source.write_text(
        '#include "pvpmu_driver.h"\n'
        '#include "pvpmu_live.h"\n'
        "int all(struct pvpmu_driver *d, struct pvpmu_live *l, uint64_t *counts) {\n"
        "  pvpmu_drv_probe(d); pvpmu_drv_sched_in(d); pvpmu_drv_tick(d); pvpmu_drv_handle(d);\n"
        "  pvpmu_drv_sched_out(d); pvpmu_live_entered(l);\n"
        "  pvpmu_live_pass(l, 1, counts, 1);\n"
        "  return pvpmu_live_retire(l, 1, counts, pvpmu_live_steps(l, 1, counts, 9));\n"
        "}\n"
    )
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-ffreestanding"]
    made = tmp_path / "driver.o"
    include = f"-I{ROOT / 'include'}"
    subprocess.run(["cc", *flags, include, "-c", source, "-o", made], check=True)
    named = subprocess.run(["nm", "-u", made], check=True, capture_output=True, text=True).stdout
    needed = set(named.split()) - {"U", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}
    assert needed == {"pvpmu_exit", "pvpmu_broken", "pvpmu_sampled"}
