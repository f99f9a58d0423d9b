"""What holds at every exit of a guest that keeps the rules: a random walk through both states."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.host.pvpage import HostPage
from pvpmu.shared import exits, page
from pvpmu.shared import registers as msr
from pvpmu.shared.exits import ExitReason
from pvpmu.shared.layout import Owner

New = Callable[..., Any]
STEPS = 1500
ALL_ON, FOUR = 0x7_0000_00FF, 0x3_0000_0003
BRANCHES, MISSES, UNKNOWN = 0x5300C4, 0x53412E, 0x537777
EN = 1 << 22
START = (1 << 48) - 1000
IMPORTING = (ExitReason.MSR_READ, ExitReason.MSR_WRITE, ExitReason.RDPMC)
TURNS = range(page.TURN_FIRST, page.TURN_END)
HOST_WORDS = {
    index
    for field in page.PAGE.fields
    if field.owner is Owner.HOST
    for index in range(field.index, field.index + field.count)
}
CONTROL_WORDS = (page.GLOBAL_CTRL, page.FIXED_CTR_CTRL, page.LVTPC, *range(page.EVTSEL, page.PMC))


class Walk:
    """A random guest that keeps the rules, and what the host did to its page at the last exit."""

    def __init__(self, machine: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine, self.rng = machine, random.Random(seed)
        self.publishing = False
        publish = HostPage.publish

        def publish_flagged(half: HostPage) -> None:
            self.publishing = True
            publish(half)
            self.publishing = False

        monkeypatch.setattr(HostPage, "publish", publish_flagged)
        machine.run_four()
        self.page = machine.register()
        self.words = machine.traced_page()
        self.stores_outside: list[int] = []
        store = self.words.__class__.__setitem__

        def watched(words: Any, index: int, value: int) -> None:
            if not self.publishing:
                self.stores_outside.append(index)
            store(words, index, value)

        monkeypatch.setattr(self.words.__class__, "__setitem__", watched)
        self.blocked = False
        self.was_running = True
        self.reason = 0
        self.turns: list[int] = []
        self.reply = 0

    @property
    def running(self) -> bool:
        return bool(self.page[page.LIVE])

    @property
    def status(self) -> int:
        return int((self.page[page.RAISED] ^ self.page[page.ACKED]) & ALL_ON)

    def step(self) -> None:
        """One store to the page or some, then one exit."""
        rng = self.rng
        if not self.running:
            self._store_turns()
        if rng.random() < 0.3:
            self._acknowledge()
        self.words.log.clear()
        self.was_running, self.turns = self.running, self.page[page.TURN_FIRST : page.TURN_END]
        self.turns = self.turns.tolist()
        self.reply = self._exit()
        if self.reply & exits.INJECT_NMI:
            self.blocked = True
        elif rng.random() < 0.3:
            self.blocked = False

    def _store_turns(self) -> None:
        rng, window = self.rng, self.page
        for _ in range(rng.randint(0, 3)):
            number = rng.randrange(8)
            what = rng.randrange(4)
            if what == 0:
                window[page.PMC + number] = rng.choice((0, 5, START, (1 << 48) - 1))
            elif what == 1:
                window[page.FIXED_CTR + number % 3] = rng.choice((0, 5, START))
            elif what == 2:
                window[page.LVTPC] = rng.choice((0x400, 0x400, 0x1_0400))
            elif not window[page.GLOBAL_CTRL]:
                window[page.EVTSEL + number] = rng.choice((0, BRANCHES, MISSES, UNKNOWN))

    def _acknowledge(self) -> None:
        acked = self.page[page.ACKED]
        toggles = (self.page[page.RAISED] ^ acked) & self.rng.choice((1, 3, ALL_ON))
        self.page[page.ACKED] = (acked ^ toggles) + page.ACK_COUNT_ONE & (1 << 64) - 1

    def _exit(self) -> int:
        rng, machine = self.rng, self.machine
        flags = exits.NMI_BLOCKED if self.blocked else 0
        if rng.random() < 0.1:
            machine.host.queue_nmi()
        if rng.random() < 0.5:
            self.reason = int(ExitReason.MSR_WRITE)
            return int(machine.exit(self.reason, *self._write(), flags=flags))
        user = [rng.choice((0, 3, 400, 1000)) for _ in range(7)]
        self.reason = int(
            rng.choice((*IMPORTING[::2], *[ExitReason.EXCEPTION_NMI] * 3, ExitReason.HLT))
        )
        address = rng.choice((0x4C1, 0x309, 0x186, 0x38F, 0x834, 0x999))
        if self.reason == ExitReason.RDPMC:
            address = rng.choice((0, 1, 1 << 30, 9))
        return int(machine.exit(self.reason, address, 0, flags=flags, user=user))

    def _write(self) -> tuple[int, int]:
        rng, window = self.rng, self.page
        what = rng.randrange(6)
        if what <= 2:
            # The seam's write of GLOBAL_CTRL: a hold ends, the value is in the exit.
            value = rng.choice((0, FOUR, ALL_ON, ALL_ON))
            window[page.RELEASE_SEQ] = window[page.FREEZE_SEQ]
            return msr.GLOBAL_CTRL, value
        if what == 3:
            return 0x186 + rng.randrange(8), rng.choice((0, BRANCHES, MISSES, UNKNOWN, 1 << 40))
        if what == 4:
            return msr.FIXED_CTR_CTRL, rng.choice((0, 0xB, 0xBB, 0xBBB, 0x4))
        return 0x4C1 + rng.randrange(8), rng.choice((0, START, (1 << 48) - 1, 1 << 48))


@pytest.fixture(params=range(4))
def walk(request: pytest.FixtureRequest, new_machine: New, monkeypatch: pytest.MonkeyPatch) -> Walk:
    print(f"seed {request.param}")
    return Walk(new_machine(), request.param, monkeypatch)


@pytest.mark.rule("PG-6", "PG-8", "SEC-4")
def test_the_host_stores_in_publications_only_and_loads_before_them_and_never_its_own(
    walk: Walk,
) -> None:
    published = 0
    for _ in range(STEPS):
        walk.step()
        assert walk.stores_outside == []
        kinds = [kind for kind, _ in walk.words.log]
        if "store" in kinds:
            published += 1
            assert "load" not in kinds[kinds.index("store") :]
        assert HOST_WORDS.isdisjoint(walk.words.loads())
    assert published > STEPS // 10


@pytest.mark.rule("PG-7", "FRE-9")
def test_every_publication_begins_and_ends_with_seq_turn_words_first(walk: Walk) -> None:
    for _ in range(STEPS):
        walk.step()
        stores = walk.words.stores()
        assert walk.page[page.SEQ] % 2 == 0
        if stores:
            assert stores[0] == stores[-1] == page.SEQ
            assert page.SEQ not in stores[1:-1]
            turns = [index in TURNS for index in stores[1:-1]]
            assert turns == sorted(turns, reverse=True)


@pytest.mark.rule("OWN-6", "OWN-7")
def test_turn_words_change_only_when_it_was_running_or_the_exit_imported(walk: Walk) -> None:
    left_alone = changed = 0
    for _ in range(STEPS):
        walk.step()
        turns = walk.page[page.TURN_FIRST : page.TURN_END].tolist()
        if not walk.was_running and walk.reason not in IMPORTING:
            assert turns == walk.turns
            left_alone += 1
        changed += turns != walk.turns
    assert left_alone > STEPS // 20
    assert changed > STEPS // 20


@pytest.mark.rule("OWN-3", "OWN-4", "OWN-5", "FRE-3", "FRE-5", "FRE-7")
def test_live_and_the_sequence_words_say_what_counts_until_the_next_exit(walk: Walk) -> None:
    seen = set()
    for _ in range(STEPS):
        walk.step()
        vpmu = walk.machine.host.vpmu
        held = walk.page[page.FREEZE_SEQ] != walk.page[page.RELEASE_SEQ]
        assert held == vpmu.held
        live = 0 if held else vpmu.live
        assert walk.page[page.LIVE] == live
        counting = sum(
            pmc.bit
            for pmc in (*vpmu.gp, *vpmu.fixed)
            if pmc.event is not None and pmc.event.counting
        )
        assert counting == live & ~walk.page[page.NOT_COUNTING]
        assert bool(counting) == bool(walk.machine.host.hardware.started)
        seen.add((held, bool(live)))
    assert seen == {(False, True), (False, False), (True, False)}


@pytest.mark.rule("FRE-4", "FRE-6", "FRE-8", "PMI-7")
def test_status_and_the_count_of_pmis_are_those_of_this_vm_entry(walk: Walk) -> None:
    counts = walk.machine.host.delivery.counts
    for _ in range(STEPS):
        before, delivered = walk.page[page.PMI_SEQ], counts.delivered
        walk.step()
        assert walk.page[page.PMI_SEQ] - before == counts.delivered - delivered
        assert walk.status == walk.machine.host.vpmu.global_status
        assert walk.page[page.REJECTED] == walk.page[page.REJECT_REASON] == 0
    assert counts.delivered > STEPS // 60


@pytest.mark.rule("FRE-10", "ACC-14")
def test_control_words_are_what_a_trapped_read_gives(walk: Walk) -> None:
    machine = walk.machine
    for _ in range(STEPS // 10):
        walk.step()
        was = walk.page[page.TURN_FIRST : page.TURN_END].tolist()
        for address, index in page.WORD_OF.items():
            if index in CONTROL_WORDS:
                assert machine.read(address) == was[index - page.TURN_FIRST]


@pytest.mark.rule("LIM-2")
def test_the_work_of_an_exit_is_bounded_by_the_number_of_counters(walk: Walk) -> None:
    for _ in range(STEPS):
        before = sum(walk.machine.locks())
        walk.step()
        assert len(walk.words.log) <= 2 * len(TURNS) + len(HOST_WORDS)
        # Each of eleven counters: a callback's reprogramming, a freeze, a start.
        assert sum(walk.machine.locks()) - before <= 11 * 8
