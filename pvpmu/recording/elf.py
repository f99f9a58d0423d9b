"""An ELF file with the symbols of a guest's program, so that perf can name what samples hit. Pure.

The program of a workload has no code: each of its phases stands for a page of it. The file holds
these pages, empty, and a symbol for each. Source: gABI, ``/usr/include/elf.h``.
"""

from __future__ import annotations

import struct

CODE_BASE, CODE_FIRST, PAGE = 0x40_0000, 0x40_1000, 0x1000
"""Where the file is mapped; where code begins, and how long that of a phase is, in a workload."""

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_IDENT = b"\x7fELF\x02\x01\x01" + bytes(9)
_EXEC, _X86_64, _CURRENT = 2, 62, 1
_LOAD, _READ_EXEC = 1, 5
_PROGBITS, _SYMTAB, _STRTAB = 1, 2, 3
_ALLOC_EXEC = 6
_GLOBAL_FUNC = 1 << 4 | 2
_TEXT = 1
_NAMES = b"\0.text\0.symtab\0.strtab\0"


def mapped_bytes(phases: int) -> int:
    """How much of the address space the program takes from CODE_BASE on."""
    return CODE_FIRST - CODE_BASE + max(phases, 1) * PAGE


def program_elf(phases: int) -> bytes:
    """The file: symbols ``phase_0`` and on, each as long as its code."""
    text_bytes = phases * PAGE
    strings, symbols = bytearray(_NAMES), bytearray(_SYMBOL.size)
    for phase in range(phases):
        at = CODE_FIRST + phase * PAGE
        symbols += _SYMBOL.pack(len(strings), _GLOBAL_FUNC, 0, _TEXT, at, PAGE)
        strings += f"phase_{phase}\0".encode()
    strings += bytes(-len(strings) % 8)
    code_at = CODE_FIRST - CODE_BASE
    symbols_at = code_at + text_bytes
    strings_at = symbols_at + len(symbols)
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (1, _PROGBITS, _ALLOC_EXEC, CODE_FIRST, code_at, text_bytes, 0, 0, PAGE, 0),
        (7, _SYMTAB, 0, 0, symbols_at, len(symbols), 3, 1, 8, _SYMBOL.size),
        (15, _STRTAB, 0, 0, strings_at, len(strings), 0, 0, 1, 0),
    ]
    header = _HEADER.pack(
        _IDENT, _EXEC, _X86_64, _CURRENT, CODE_FIRST, _HEADER.size, strings_at + len(strings), 0,
        _HEADER.size, _SEGMENT.size, 1, _SECTION.size, len(sections), len(sections) - 1,
    )  # fmt: skip
    segment = _SEGMENT.pack(
        _LOAD, _READ_EXEC, 0, CODE_BASE, CODE_BASE, symbols_at, symbols_at, PAGE
    )
    head = (header + segment).ljust(code_at, b"\0")
    table = b"".join(_SECTION.pack(*section) for section in sections)
    return head + bytes(text_bytes) + bytes(symbols) + bytes(strings) + table
