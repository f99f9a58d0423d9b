"""The program's loops as the exit slot's retired counts."""

from __future__ import annotations

import pytest

from pvpmu.shared import exits
from pvpmu.shared.events import BRANCHES, INSTRUCTIONS, KINDS
from pvpmu.vm import layout
from pvpmu.vm.retired import LoopsTold

COUNTS = [0] * KINDS
COUNTS[INSTRUCTIONS], COUNTS[BRANCHES] = 12, 3


class Rig:
    """A slot and a box, and what an exit told."""

    def __init__(self, *, user: bool) -> None:
        self.slot = memoryview(bytearray(exits.SLOT_SIZE)).cast("Q")
        self.box = memoryview(bytearray(4096)).cast("Q")
        self.at = exits.RETIRED_USER_AT if user else exits.RETIRED_KERNEL_AT
        self.told: list[tuple[int, list[int]]] = []
        self._loops = LoopsTold(self.slot, self.box, self._serve, COUNTS, user=user)

    def _serve(self) -> None:
        self.told.append((self.slot[exits.REQUEST], self.slot[self.at : self.at + KINDS].tolist()))

    def exit(self, loops_done: int, request: int = 30) -> tuple[int, list[int]]:
        self.box[layout.LOOPS_DONE] = loops_done
        self.slot[exits.REQUEST] = request
        self._loops.serve()
        return self.told[-1]


@pytest.mark.parametrize(
    ("user", "flag"), [(True, exits.RETIRED_USER), (False, exits.RETIRED_KERNEL)]
)
def test_an_exit_tells_the_loops_since_the_last_one_once(user: bool, flag: int) -> None:
    rig = Rig(user=user)
    assert rig.exit(0) == (30, [0] * KINDS)
    assert rig.exit(10) == (30 | flag, [10 * count for count in COUNTS])
    assert rig.exit(10)[0] == 30
    assert rig.exit(11, exits.NMI_BLOCKED) == (exits.NMI_BLOCKED | flag, COUNTS)


def test_a_program_that_begins_anew_tells_what_it_did_since() -> None:
    rig = Rig(user=True)
    rig.exit(10)
    assert rig.exit(0)[0] == 30
    rig.exit(10)
    assert rig.exit(2)[1] == [2 * count for count in COUNTS]


def test_whatever_a_guest_stores_words_stay_words() -> None:
    rig = Rig(user=True)
    _, words = rig.exit((1 << 64) - 1)
    assert words[INSTRUCTIONS] == (1 << 64) - 12
