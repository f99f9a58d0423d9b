"""The guest's half of a design: which accesses its seam keeps in the page, and when it commits.

Everything that a seam sends to the host works, whatever the page holds (rules ACC-13, IMP-1); so a
design may take any access off the page. Deferring the COMMIT is another matter: those designs leave
the protocol, and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pvpmu.guest.pvpage import GuestPage, Routes
from pvpmu.shared import page
from pvpmu.shared import registers as msr
from pvpmu.shared.design import EXIT, OVF_CTRL, PAGE, RDPMC, READ, WRITE, GuestDesign
from pvpmu.shared.registers import BY_ADDRESS


class DesignedPage(GuestPage):
    """A registered page under a design that routes or commits otherwise than the protocol.

    The other arguments are :class:`GuestPage`'s.
    """

    def __init__(self, *args: Any, guest: GuestDesign, **named: Any) -> None:
        self._guest = guest
        super().__init__(*args, **named)
        self.flushes = guest.commit == "handler-end"
        states = {state: guest.routes_of(state) for state in ("running", "frozen", "pmi")}
        self.pmi = limited(self._pmi_routes(), states["pmi"])
        self.frozen = limited(self.frozen, states["frozen"])
        self.running = limited(self.running, states["running"])

    def flush(self) -> None:
        """The end of a PMI's handler: release the hold and write GLOBAL_CTRL as it stands."""
        value = self.words[page.GLOBAL_CTRL]
        self.words[page.RELEASE_SEQ] = self.words[page.FREEZE_SEQ]
        self._exit_write(msr.GLOBAL_CTRL, value)

    def _pmi_routes(self) -> Routes:
        routes = self._frozen_routes()
        if self.flushes:
            routes.write[msr.GLOBAL_CTRL] = self._stored(
                msr.GLOBAL_CTRL, page.GLOBAL_CTRL, self.words[page.GLOBAL_CTRL_RESERVED]
            )
        return routes

    def _evtsel_write(self, address: int, index: int, bit: int) -> Callable[[int], None]:
        if self._guest.commit == "natural":
            return self._stored(address, index, self.words[page.EVTSEL_RESERVED])
        return super()._evtsel_write(address, index, bit)

    def _fixed_ctr_ctrl_write(self) -> Callable[[int], None]:
        if self._guest.commit == "natural":
            reserved = self.words[page.FIXED_CTRL_RESERVED]
            return self._stored(msr.FIXED_CTR_CTRL, page.FIXED_CTR_CTRL, reserved)
        return super()._fixed_ctr_ctrl_write()

    def _global_ctrl_write(self) -> Callable[[int], None]:
        if self._guest.commit != "natural":
            return super()._global_ctrl_write()
        words = self.words
        reserved = words[page.GLOBAL_CTRL_RESERVED]
        store = self._stored(msr.GLOBAL_CTRL, page.GLOBAL_CTRL, reserved)

        def write(value: int) -> None:
            store(value)
            # The host takes it, and starts what is live, at the next exit of any kind.
            words[page.RELEASE_SEQ] = words[page.FREEZE_SEQ]

        return write

    def _stored(self, address: int, index: int, reserved: int) -> Callable[[int], None]:
        """A store, with which nothing begins to count."""
        words = self.words

        def write(value: int) -> None:
            if value & reserved:
                self._exit_write(address, value)
            else:
                words[index] = value

        return write


def limited(routes: Routes, chosen: Mapping[str, str]) -> Routes:
    """Those accesses that a design keeps in the page; the others exit."""

    def kept(address: int, op: str) -> bool:
        route = chosen.get(BY_ADDRESS[address].role.name, PAGE)
        return route in (PAGE, op)

    reads_rdpmc = chosen.get(RDPMC, PAGE) != EXIT
    return replace(
        routes,
        read_word={a: word for a, word in routes.read_word.items() if kept(a, READ)},
        read={a: read for a, read in routes.read.items() if kept(a, READ)},
        write_word={a: word for a, word in routes.write_word.items() if kept(a, WRITE)},
        write={a: write for a, write in routes.write.items() if kept(a, WRITE)},
        rdpmc_word=routes.rdpmc_word if reads_rdpmc else {},
        rdpmc=routes.rdpmc if reads_rdpmc else {},
        acknowledge=routes.acknowledge if chosen.get(OVF_CTRL, PAGE) in (PAGE, WRITE) else None,
    )
