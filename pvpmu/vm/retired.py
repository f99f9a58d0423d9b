"""What the program retires, told with any exit, also with one that the program does not make.

An overflow of a real event interrupts the guest wherever it is, so that it cannot be the guest that
tells with each exit what it has retired: the host looks at the loops done, one word that the
program stores whole. Loops under way are told with a later exit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pvpmu.shared import exits
from pvpmu.vm import layout

_WORD = (1 << 64) - 1


class LoopsTold:
    """Puts what was retired since the last exit into the exit slot, and has the exit served.

    ``counts``: what one loop retires, by event kind; ``user``: at CPL 3. The guest is not trusted:
    whatever it stores, words stay words.
    """

    def __init__(
        self,
        slot: memoryview[int],
        box: memoryview[int],
        serve: Callable[[], object],
        counts: Sequence[int],
        *,
        user: bool,
    ) -> None:
        self._slot = slot
        self._box = box
        self._serve = serve
        self._counts = counts
        self._flag = exits.RETIRED_USER if user else exits.RETIRED_KERNEL
        self._at = exits.RETIRED_USER_AT if user else exits.RETIRED_KERNEL_AT
        self._told = 0

    def serve(self) -> None:
        """Serve the exit in the slot."""
        done = self._box[layout.LOOPS_DONE]
        if done != self._told:
            # A PREPARE begins anew.
            loops = done - self._told if done > self._told else done
            self._told = done
            if loops:
                for kind, count in enumerate(self._counts):
                    self._slot[self._at + kind] = loops * count & _WORD
                self._slot[exits.REQUEST] |= self._flag
        self._serve()
