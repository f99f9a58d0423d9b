"""The guest's program, built from C by the system's compiler when it is first needed.

What it is made of is hashed; a program of that hash in the user's cache is used as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from pvpmu.abi.c import c_header, c_struct
from pvpmu.shared import registers as msr
from pvpmu.shared.errors import ResourceError
from pvpmu.vm import layout

_HERE = Path(__file__).parent
_OWN = ("start.S", "guest.c", "link.ld")
_SHARED = ("pvpmu_guest.h", "pvpmu_driver.h", "pvpmu_live.h", "pvpmu_reload.h")
_PROGRAM = "guest.bin"
_DIGEST = "guest.sha256"
_FLAGS = (
    "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fpie", "-nostdlib",
    "-static", "-mno-red-zone", "-mgeneral-regs-only", "-fno-stack-protector",
    "-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-mcmodel=small",
    "-fvisibility=hidden", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments",
    "-Wl,--oformat=binary",
)  # fmt: skip
_LIMIT_S = 60

RDPMC_MSR = msr.PV_PAGE + 0x10
"""Where this guest reads what no counter's MSR stands for: an RDPMC that is to be refused."""

LOOP = {"instructions": 12, "branches": 3, "cycles": 12, "references": 1}
"""What one loop of the program retires; its cycles are as many as instructions by definition."""


def shared_folder() -> Path:
    """Where the headers are that every C guest uses: in the wheel, or in the source tree."""
    for folder in (_HERE / "include", _HERE.parents[1] / "include"):
        if (folder / _SHARED[0]).is_file():
            return folder
    raise ResourceError(f"{_SHARED[0]}: not found; this installation lacks the guest's sources")


def program() -> bytes:
    """The guest's program, to be loaded at any address of whole pages; entry at its first byte.

    Raises :class:`ResourceError`: no compiler, what it says, or a cache that cannot be written.
    """
    texts = _sources()
    digest = hashlib.sha256()
    for name, text in sorted(texts.items()):
        digest.update(f"{name}\0{text}\0".encode())
    digest.update(" ".join(_FLAGS).encode())
    folder = cache_folder() / digest.hexdigest()[:32]
    return _kept(folder) or _built(texts, folder)


def _kept(folder: Path) -> bytes | None:
    """The program that was built before, None if there is none, or it is not as it was built."""
    try:
        data = (folder / _PROGRAM).read_bytes()
        told = (folder / _DIGEST).read_text("ascii")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ResourceError(f"{folder}: the guest cannot be read: {error}") from None
    if hashlib.sha256(data).hexdigest() == told:
        return data
    shutil.rmtree(folder, ignore_errors=True)
    return None


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/pvpmu/vm``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pvpmu" / "vm"


def compiler() -> str:
    """The system's C compiler; raises :class:`ResourceError` when there is none."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    raise ResourceError(
        "the VM's guest is built by a C compiler, and there is none (cc, gcc, clang): install the "
        "package gcc, or set CC"
    )


def _built(texts: dict[str, str], folder: Path) -> bytes:
    command = compiler()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            for name, text in texts.items():
                Path(made, name).write_text(text, "utf-8")
            _compile(command, Path(made))
            data = Path(made, _PROGRAM).read_bytes()
            Path(made, _DIGEST).write_text(hashlib.sha256(data).hexdigest(), "ascii")
            # Another process may have been as fast: both made the same.
            with contextlib.suppress(OSError):
                Path(made).rename(folder)
                Path(made).mkdir()
    except OSError as error:
        raise ResourceError(f"{folder.parent}: the guest cannot be built here: {error}") from None
    return data


def _compile(command: str, folder: Path) -> None:
    try:
        done = subprocess.run(  # noqa: S603 (the system's compiler, or the one that the user named)
            [command, *_FLAGS, "-Wl,-T,link.ld", "-o", _PROGRAM, "start.S", "guest.c"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ResourceError(f"{command}: no end within {_LIMIT_S} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        says = (lines or done.stderr.split("\n", 1))[0].strip() or "it says nothing"
        raise ResourceError(
            f"{command} cannot build the VM's guest: status {done.returncode}: {says}"
        )


def _sources() -> dict[str, str]:
    shared = shared_folder()
    texts = {name: (_HERE / "guest" / name).read_text("utf-8") for name in _OWN}
    texts |= {name: (shared / name).read_text("utf-8") for name in _SHARED}
    texts["pvpmu.h"] = c_header()
    texts["vm_box.h"] = f'#include "pvpmu.h"\n{c_struct(layout.BOX)}'
    texts["vm_constants.h"] = _constants()
    return texts


def _constants() -> str:
    values: dict[str, int] = {
        "CODE_SELECTOR": layout.CODE_SELECTOR,
        "DATA_SELECTOR": layout.DATA_SELECTOR,
        "ALIAS": layout.ALIAS,
        "PORT_REASON": layout.PORT_REASON,
        "PORT_READY": layout.PORT_READY,
        "PORT_EMPTY": layout.PORT_EMPTY,
        "PORT_NMI": layout.PORT_NMI,
        "PORT_BROKEN": layout.PORT_BROKEN,
        "PORT_FAULT": layout.PORT_FAULT,
        "USER_SELECTOR_BASE": layout.USER_SELECTOR_BASE,
        "TASK_RSP0": layout.TASK_RSP0,
        "GATE_RDMSR": layout.GATE_RDMSR,
        "GATE_WRMSR": layout.GATE_WRMSR,
        "GATE_OUT": layout.GATE_OUT,
        "GATE_CPUID": layout.GATE_CPUID,
        "GATE_HLT": layout.GATE_HLT,
        "GATE_NOTHING": layout.GATE_NOTHING,
        "RUN_RETIRES": layout.RUN_RETIRES,
        "RUN_STAMPS": layout.RUN_STAMPS,
        "RUN_HANDLERS": layout.RUN_HANDLERS,
        "RUN_LOOPS": layout.RUN_LOOPS,
        "WORDS_BATCH": layout.WORDS_BATCH,
        "LOG_WORDS": layout.LOG_WORDS,
        "STATE_SIZE": layout.STATE_SIZE,
        "MSR_RDPMC": RDPMC_MSR,
    }
    values |= {f"COMMAND_{each.name}": each.value for each in layout.Command}
    return "".join(f"#define VM_{name} {value:#x}\n" for name, value in values.items())
