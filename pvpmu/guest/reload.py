"""Reload values in the page: the host arms a counter again at its PMI, and the handler never exits.

While the guest counts, the word of a live counter holds the value that the guest would write at the
next overflow. The host takes the distance from it and counts on: it neither stops nor sets the
counter. The driver above knows nothing of this. It stops, reads, writes and starts; the seam
answers as if the counter stood at its wrap, and sees to it that what the driver is told adds up to
what was counted when it reads the counter outside such a handler.

Two things follow. A period that the driver chooses takes effect one overflow later; and what runs
before and in the handler is counted, since nothing stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pvpmu.guest.pvpage import Routes
from pvpmu.guest.routing import DesignedPage
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.cpuid import FIXED_BASE
from pvpmu.shared.registers import BY_ADDRESS, Role

_COUNTERS = (Role.PERFCTR, Role.PMC, Role.FIXED_CTR)


@dataclass(slots=True)
class _Counter:
    """What the driver believes of a counter.

    ``index``: its page word. ``start``: its value when both last agreed; ``told``: what the driver
    has been told was counted since; ``prev``: the value that it was told, or wrote, last;
    ``reload``: what the host is to reload: the driver's last value at an overflow, a whole period.
    What it writes elsewhere may be the rest of one, and stands for a period only until then.
    """

    index: int
    bit: int
    mask: int
    start: int = 0
    told: int = 0
    prev: int = 0
    reload: int | None = None

    def read(self, value: int) -> int:
        """The driver reads it, and it holds ``value``: what the driver gets."""
        counted = (value - self.start & self.mask) - self.told
        if counted > 0:
            self.told += counted
            self.prev = self.prev + counted & self.mask
        return self.prev

    def wrap(self) -> int:
        """The driver reads it in a PMI's handler: as it stood at its overflow."""
        self.told += -self.prev & self.mask
        self.prev = 0
        return 0

    def write(self, value: int, held: int) -> None:
        """It was set to ``value`` and held ``held`` before.

        What the driver was told too much (a period that was to be, and is shorter) stays told.
        """
        self.told = max(self.told - (held - self.start & self.mask), 0)
        self.start = self.prev = value
        if self.reload is None:
            self.reload = value


class ReloadPage(DesignedPage):
    """A registered page whose counter words are reload values while they count."""

    def __init__(self, words: Any, cpuid: Any, **named: Any) -> None:
        gp, fixed = words[page.GP_MASK], words[page.FIXED_MASK]
        self._counters = {
            **{1 << i: _Counter(page.PMC + i, 1 << i, gp) for i in range(cpuid.gp)},
            **{
                1 << FIXED_BASE + j: _Counter(page.FIXED_CTR + j, 1 << FIXED_BASE + j, fixed)
                for j in range(cpuid.fixed)
            },
        }
        for counter in self._counters.values():
            counter.start = counter.prev = words[counter.index]
        self._due = 0
        self._enables: int | None = None
        super().__init__(words, cpuid, **named)
        self.handler = self._handler_routes()

    def starts_running(self) -> None:
        """Counters run: leave in each live one's word what it is to reload."""
        live = self.words[page.LIVE]
        for counter in self._counters.values():
            if live & counter.bit and counter.reload is not None:
                self.words[counter.index] = counter.reload

    def handler_ends(self) -> None:
        """What the handler left of GLOBAL_CTRL, if not what it found, is written now."""
        self._due = 0
        left, self._enables = self._enables, None
        if left is not None:
            self._exit_write(msr.GLOBAL_CTRL, left)

    # Routes: every access of a counter goes by what the driver believes ------------------------

    def _frozen_routes(self) -> Routes:
        routes = super()._frozen_routes()
        for address, counter in self._by_address():
            word = routes.read_word.pop(address)
            routes.read[address] = partial(self._read_word, counter, word)
            refused = routes.write_word.pop(address, (0, 0))[1]
            store = routes.write.get(address)
            routes.write[address] = self._frozen_write(address, counter, refused, store)
        for ecx, index, bit in self._rdpmc_indices():
            del routes.rdpmc_word[ecx]
            routes.rdpmc[ecx] = partial(self._read_word, self._counters[bit], index)
        return routes

    def _running_routes(self) -> Routes:
        routes = super()._running_routes()
        for address, counter in self._by_address():
            routes.write[address] = self._running_write(address, counter)
        return routes

    def _running_read(
        self, exit_read: Callable[[int], int], address: int, index: int, bit: int
    ) -> Callable[[], int]:
        plain = super()._running_read(exit_read, address, index, bit)
        counter = self._counters[bit]
        return lambda: counter.read(plain())

    def _handler_routes(self) -> Routes:
        """RUNNING, in a PMI's handler: what overflowed stands at its wrap, and nothing stops."""
        routes = self._running_routes()
        plain_status = self._status

        def status() -> int:
            found = plain_status()
            self._due |= found & self.words[page.LIVE]
            return found

        routes.read[msr.GLOBAL_STATUS] = status
        routes.write[msr.GLOBAL_CTRL] = self._handler_global_ctrl
        routes.read_word.pop(msr.GLOBAL_CTRL, None)
        routes.read[msr.GLOBAL_CTRL] = lambda: (
            self.words[page.GLOBAL_CTRL] if self._enables is None else self._enables
        )
        for address, counter in self._by_address():
            routes.read[address] = self._handler_read(counter, routes.read[address])
            routes.write[address] = self._handler_write(counter, routes.write[address])
        for ecx, _, bit in self._rdpmc_indices():
            routes.rdpmc[ecx] = self._handler_read(self._counters[bit], routes.rdpmc[ecx])
        return routes

    def _by_address(self) -> list[tuple[int, _Counter]]:
        return [
            (address, self._counters[bit])
            for address, _, bit in self._turn_registers()
            if BY_ADDRESS[address].role in _COUNTERS
        ]

    # Accesses ----------------------------------------------------------------------------------

    def _read_word(self, counter: _Counter, index: int) -> int:
        return counter.read(self.words[index])

    def _frozen_write(
        self,
        address: int,
        counter: _Counter,
        refused: int,
        store: Callable[[int], None] | None,
    ) -> Callable[[int], None]:
        words = self.words

        def write(value: int) -> None:
            if value & refused:
                self._exit_write(address, value)
                return
            held = words[counter.index]
            if store is not None:
                store(value)
            else:
                words[counter.index] = value
            counter.write(words[counter.index], held)

        return write

    def _running_write(self, address: int, counter: _Counter) -> Callable[[int], None]:
        def write(value: int) -> None:
            held = self._exit_read(address)
            self._exit_write(address, value)
            set_to = self._exit_read(address)
            counter.write(set_to, held)
            if self.words[page.LIVE] & counter.bit and counter.reload is not None:
                self.words[counter.index] = counter.reload

        return write

    def _handler_global_ctrl(self, value: int) -> None:
        if value & self.words[page.GLOBAL_CTRL_RESERVED]:
            self._exit_write(msr.GLOBAL_CTRL, value)
        else:
            self._enables = None if value == self.words[page.GLOBAL_CTRL] else value

    def _handler_read(self, counter: _Counter, plain: Callable[[], int]) -> Callable[[], int]:
        return lambda: counter.wrap() if self._due & counter.bit else plain()

    def _handler_write(
        self, counter: _Counter, plain: Callable[[int], None]
    ) -> Callable[[int], None]:
        def write(value: int) -> None:
            if self._due & counter.bit and not value & ~counter.mask:
                self._due &= ~counter.bit
                counter.prev = counter.reload = value
                self.words[counter.index] = value
            else:
                plain(value)

        return write
