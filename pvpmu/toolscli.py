"""``pvpmu registers``, ``pvpmu abi`` and ``pvpmu cleanup``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pvpmu.abi.c import c_header
from pvpmu.shared import memory
from pvpmu.shared.layout import WORD_BYTES
from pvpmu.shared.page import WORD_OF
from pvpmu.shared.process import writable, writing
from pvpmu.shared.registers import REGISTERS, register_named

_LANGUAGES = {"c": c_header}


def add_commands(commands: Any) -> None:  # argparse names the type privately
    """Add the three to the subparsers of ``pvpmu``."""
    registers = commands.add_parser(
        "registers",
        help="print the register table: names, addresses, rules, place in the page",
        description="Print the MSRs of the PMU: names, access, #GP and width rules, page word.",
    )
    registers.set_defaults(command=_registers)
    registers.add_argument(
        "name", nargs="*", metavar="NAME", help="Linux, trace or SDM name, or address (all)"
    )
    abi = commands.add_parser(
        "abi",
        help="print the page, slot and codes for a program in another language",
        description="Print the declarations of the protocol for a program in another language.",
    )
    abi.set_defaults(command=_abi)
    abi.add_argument("--lang", choices=_LANGUAGES, required=True, help="the language")
    abi.add_argument(
        "--output", default="-", metavar="FILE|-", help="write there (%(default)s: standard output)"
    )
    cleanup = commands.add_parser(
        "cleanup", help="remove shared memory and semaphores whose owners are dead"
    )
    cleanup.set_defaults(command=_cleanup)


def _registers(args: argparse.Namespace) -> int:
    for register in [register_named(name) for name in args.name] or REGISTERS:
        print(f"{register.address:#x} {register.name} ({register.access.value})")
        print(f"    trace {register.trace_name}; SDM {register.sdm}")
        print(f"    #GP: {register.gp_rule}")
        print(f"    width: {register.width_rule}")
        word = WORD_OF.get(register.address)
        if word is not None:
            print(f"    page: byte {word * WORD_BYTES:#x}")
    return 0


def _abi(args: argparse.Namespace) -> int:
    text = _LANGUAGES[args.lang]()
    if args.output == "-":
        sys.stdout.write(text)
    else:
        path = writable(Path(args.output))
        with writing(path):
            path.write_text(text, "utf-8")
    return 0


def _cleanup(_: argparse.Namespace) -> int:
    removed, kept = memory.cleanup()
    for name in removed:
        print(f"removed {name}")
    print(f"{len(removed)} removed, {len(kept)} in use by live owners")
    return 0
