"""The file with a program's symbols, as its own headers say, and as perf uses it."""

from __future__ import annotations

import struct

import pytest

from pvpmu.guest.workload import Workload, make_phases
from pvpmu.recording.elf import CODE_FIRST, PAGE, mapped_bytes, program_elf
from pvpmu.shared.events import KINDS


def symbols(data: bytes) -> dict[str, tuple[int, int]]:
    """Address and size of each symbol, found through the section headers."""
    (table_at,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table_at + size * n) for n in range(count)]
    ((symtab,), (strtab,)) = ([s for s in sections if s[1] == kind] for kind in (2, 3))
    text = data[strtab[4] : strtab[4] + strtab[5]]
    found = {}
    for at in range(symtab[4], symtab[4] + symtab[5], symtab[9]):
        name, _, _, _, value, length = struct.unpack_from("<IBBHQQ", data, at)
        found[text[name : text.index(b"\0", name)].decode()] = value, length
    return found


@pytest.mark.parametrize("phases", [0, 1, 64])
def test_each_phase_is_a_symbol_as_long_as_its_code(phases: int) -> None:
    data = program_elf(phases)
    assert data.startswith(b"\x7fELF\x02\x01\x01")
    found = symbols(data)
    assert found.pop("") == (0, 0)
    assert found == {f"phase_{n}": (CODE_FIRST + n * PAGE, PAGE) for n in range(phases)}


def test_it_is_mapped_with_all_its_code() -> None:
    data = program_elf(3)
    offset, address, _, in_file, in_memory = struct.unpack_from("<QQQQQ", data, 64 + 8)
    assert (offset, address, in_file, in_memory) == (0, 0x40_0000, *[mapped_bytes(3)] * 2)


def test_the_programs_instruction_pointers_lie_in_the_symbols_of_their_phases() -> None:
    phases = make_phases(
        1, base=[1 << 32] * KINDS, shortest=1000, longest=2000, spread_permille=100, count=5
    )
    program, seen = Workload(phases, 1_000_000_000), set()
    for number in range(12):
        symbol = f"phase_{number % 5}"
        start, length = symbols(program_elf(5))[symbol]
        assert start <= program.ip < start + length
        seen.add(symbol)
        program.retire(program.phase_left)
    assert len(seen) == 5
