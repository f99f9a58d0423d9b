"""A thread's accesses on their way to a replay: records, PMIs, and what ran from the beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pvpmu.shared.cpuid import EVTSEL_EN, PmuCpuid
from pvpmu.shared.registers import BY_ADDRESS
from pvpmu.trace.names import RDPMC, READ, WRITE
from pvpmu.trace.operations import Context, bracketed
from pvpmu.trace.player import END, LATE, PMI
from pvpmu.trace.spool import RECORD, Kept, Spool, read_spool
from pvpmu.trace.tokens import RDPMC_TOKEN, Control, control_of, fields_of, token_of
from pvpmu.trace.tracker import Shapes, Tracker

OFF, ON, LVTPC = (WRITE, 0x38F, 0), (WRITE, 0x38F, 0x7000000FF), (WRITE, 0x834, 0x400)
STATUS, NOTHING, ACK = (READ, 0x38E, 1), (READ, 0x38E, 0), (WRITE, 0x390, 1)
RELOAD, SELECT, DESELECT = (WRITE, 0x4C1, 77), (WRITE, 0x186, EVTSEL_EN), (WRITE, 0x186, 0)
BODY = (STATUS, ACK, None, RELOAD, NOTHING)
SCHED_IN = (OFF, RELOAD, SELECT, LVTPC, ON)
TICK = (OFF, DESELECT, None, RELOAD, SELECT, ON)
READ0 = (RDPMC, 0, 0)


@pytest.fixture
def spooled(tmp_path: Path) -> Any:
    """Accesses in, the spool and its records out."""

    def make(*accesses: tuple[int, int, int] | None) -> tuple[Spool, list[tuple[int, int, int]]]:
        spool = Spool(tmp_path / "some.spool", Kept())
        tracker = Tracker(Shapes(), lambda _a, _b: None, spool)
        for one in accesses:
            token, control, body = RDPMC_TOKEN, Control.PLAIN, b""
            if one is not None:
                token = token_of(*one)
                control = control_of(one[0], BY_ADDRESS[one[1]], fields_of(token).detail)
                body = b"msr_%s %x = %#x" % ((b"read", b"write")[one[0]], one[1], one[2])
            tracker.access(token, control, body, b"0.0")
        tracker.finish()
        spool.close()
        return spool, list(read_spool(spool.path))

    return make


def known(*accesses: tuple[int, int, int] | None) -> list[tuple[int, int, int]]:
    return [READ0 if one is None else one for one in accesses]


def test_a_handler_stands_behind_its_pmi(spooled: Any) -> None:
    spool, records = spooled(*SCHED_IN, OFF, *BODY, ON, LVTPC, *TICK)
    assert records == [
        *SCHED_IN, (PMI, 0, 1), *known(OFF, *BODY, ON, LVTPC), (END, 0, 0), *known(*TICK),
    ]  # fmt: skip
    assert (spool.accesses, spool.operations) == (19, 3)


def test_a_spurious_handler_has_a_pmi_without_overflows(spooled: Any) -> None:
    _, records = spooled(*SCHED_IN, OFF, NOTHING, ON, LVTPC)
    assert records[5:] == [(PMI, 0, 0), OFF, NOTHING, ON, LVTPC, (END, 0, 0)]


def test_a_handler_inside_a_tick_is_found_by_the_access_that_disables(spooled: Any) -> None:
    _, records = spooled(*SCHED_IN, OFF, OFF, *BODY, LVTPC, *TICK[1:])
    inside = known(OFF, *BODY, LVTPC)
    assert records[5:] == [(LATE, 0, 1), OFF, *inside, (END, 0, 0), *known(*TICK[1:])]


def test_one_without_an_overflow_comes_right_after_it(spooled: Any) -> None:
    _, records = spooled(*SCHED_IN, OFF, OFF, NOTHING, LVTPC, *TICK[1:])
    inside = [OFF, NOTHING, LVTPC]
    assert records[5:] == [OFF, (PMI, 0, 0), *inside, (END, 0, 0), *known(*TICK[1:])]


def test_one_that_nothing_follows_is_played_where_it_stands(spooled: Any) -> None:
    _, records = spooled(*SCHED_IN, OFF, *BODY, LVTPC, None)
    assert records[5:] == [(PMI, 0, 1), *known(OFF, *BODY, LVTPC), (END, 0, 0), READ0]


def test_accesses_in_no_operation_are_there_too(spooled: Any) -> None:
    spool, records = spooled((READ, 0x38D, 0xB0), None, *SCHED_IN)
    assert records == known((READ, 0x38D, 0xB0), None, *SCHED_IN)
    assert spool.accesses == 7


def test_counters_that_ran_from_the_beginning_are_started_first(spooled: Any) -> None:
    started, _ = spooled(*SCHED_IN, *TICK)
    assert started.assumed == Context()
    running, _ = spooled(*TICK, OFF, (READ, 0x38E, 1 << 33), (WRITE, 0x390, 1 << 33), None,
                         (WRITE, 0x30A, 5), NOTHING, ON, LVTPC)  # fmt: skip
    assert running.assumed == Context(1, 0xB0)
    assert {(s.address, s.value & 0xFF) for s in running.preamble(PmuCpuid())} >= {(0x38D, 0xB0)}


def test_records_are_sixteen_bytes_and_written_as_they_come(spooled: Any, tmp_path: Path) -> None:
    spool, records = spooled(*SCHED_IN * 2000)
    assert len(records) == 10_000
    assert spool.path.stat().st_size == 16 * len(records) == RECORD.size * len(records)


def test_memory_does_not_grow_with_the_number_of_spools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvpmu.trace.spool._ALL_BUFFERS", 16 * 1024)
    tokens = [token_of(*one) for one in SCHED_IN]
    operation = bracketed(tuple(tokens), Context())
    values = [b"msr_%s %x = %#x" % ((b"read", b"write")[o], a, v) for o, a, v in SCHED_IN]

    def kept_by(number: int) -> int:
        kept = Kept()
        spools = [Spool(tmp_path / f"{number}-{n}.spool", kept) for n in range(number)]
        most = 0
        for _ in range(40):
            for spool in spools:
                spool(operation, list(tokens), list(values))
                most = max(most, sum(len(one._buffer) for one in spools))
        for spool in spools:
            spool.close()
            assert list(read_spool(spool.path)) == list(SCHED_IN) * 40
        return most

    assert kept_by(4) < 16 * 1024
    assert kept_by(64) < 16 * 1024
