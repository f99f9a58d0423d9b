"""The C header: compiled as C and as C++, and read back by a compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pvpmu.abi.c import c_header
from pvpmu.shared import exits, memory, page
from pvpmu.shared.control import RefusalCode
from pvpmu.shared.exits import Control, ExitReason
from pvpmu.shared.layout import Layout
from pvpmu.shared.page import Reject
from pvpmu.shared.registers import REGISTERS
from pvpmu.shared.registration import Registration

COMMITTED = Path(__file__).parents[2] / "include" / "pvpmu.h"
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")
LAYOUTS = (page.PAGE, exits.SLOT, memory.SEGMENT_HEADER)


def compiled(tmp_path: Path, command: str, *options: str, source: str, language: str) -> Path:
    compiler = shutil.which(command)
    if compiler is None:
        pytest.skip(f"no {language} compiler: {command} is not installed")
    file, program = tmp_path / f"probe.{language}", tmp_path / "probe"
    file.write_text(source)
    done = subprocess.run(
        [compiler, *options, *STRICT, "-I", str(COMMITTED.parent), "-o", str(program), str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return program


def test_the_header_compiles_freestanding_as_c11(tmp_path: Path) -> None:
    source = '#include "pvpmu.h"\n#include "pvpmu.h"\nextern int nothing;\n'
    compiled(tmp_path, "cc", "-std=c11", "-ffreestanding", "-c", source=source, language="c")


def test_the_header_compiles_as_cplusplus(tmp_path: Path) -> None:
    source = '#include "pvpmu.h"\nextern int nothing;\n'
    compiled(tmp_path, "c++", "-std=c++11", "-c", source=source, language="cpp")


def test_a_c_program_sees_the_offsets_that_python_uses(tmp_path: Path) -> None:
    fields = [(layout, field) for layout in LAYOUTS for field in layout.fields]
    prints = "".join(
        f'printf("%zu %zu\\n", offsetof(struct {layout.name}, {field.name}), '
        f"sizeof(((struct {layout.name} *)0)->{field.name}));\n"
        for layout, field in fields
    )
    source = f'#include <stdio.h>\n#include "pvpmu.h"\nint main(void) {{\n{prints}return 0;\n}}\n'
    program = compiled(tmp_path, "cc", "-std=c11", source=source, language="c")
    output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    seen = [tuple(map(int, line.split())) for line in output.splitlines()]
    assert seen == [(field.offset, field.size) for _, field in fields]


def test_a_wrong_offset_fails_the_compiler(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: cc is not installed")
    file = tmp_path / "shifted.c"
    text = c_header()
    shifted = text.replace("    uint64_t features;", "    uint64_t extra;\n    uint64_t features;")
    assert shifted != text
    file.write_text(shifted)
    done = subprocess.run(
        [compiler, "-std=c11", "-fsyntax-only", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode != 0
    assert "features" in done.stderr


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_word_and_every_gap_is_asserted(layout: Layout) -> None:
    text = c_header()
    body = text[text.index(f"struct {layout.name} {{") :].split("};")[0]
    names = re.findall(r"uint64_t (\w+)", body)
    assert names[-1] == "tail"
    for name in names:
        assert f"PVPMU_STATIC_ASSERT(offsetof(struct {layout.name}, {name}) == " in text
        assert f"PVPMU_STATIC_ASSERT(sizeof(((struct {layout.name} *)0)->{name}) == " in text
    assert f"PVPMU_STATIC_ASSERT(sizeof(struct {layout.name}) == {layout.size:#x}" in text


def defined() -> dict[str, int]:
    found = {}
    for line in c_header().splitlines():
        if line.startswith("#define PVPMU_") and "UINT64_C(" in line:
            _, name, rest = line.split(maxsplit=2)
            assert name not in found
            found[name] = int(rest.split("(")[1].split(")")[0], 0)
    return found


@pytest.mark.parametrize(
    ("prefix", "members"),
    [
        ("PVPMU_STATUS", Registration),
        ("PVPMU_REJECT", Reject),
        ("PVPMU_EXIT", ExitReason),
        ("PVPMU_CONTROL", Control),
        ("PVPMU_REFUSED", RefusalCode),
    ],
)
def test_every_code_is_in_the_header(prefix: str, members: type) -> None:
    constants = defined()
    assert {f"{prefix}_{member.name}": member.value for member in members}.items() <= (
        constants.items()
    )


def test_every_feature_bit_and_register_address_is_in_the_header() -> None:
    constants = defined()
    for name, value in vars(page).items():
        if name.startswith("FEATURE_"):
            assert constants[f"PVPMU_{name}"] == value
    addresses = {value for name, value in constants.items() if name.startswith("PVPMU_MSR_")}
    assert addresses == {register.address for register in REGISTERS}
